"""SIGTERM at random moments: is anything left half-written, and does --resume end as it should?

    python benchmarks/interrupt.py --moments 20 > table.md

Each job (encode to a file and to shards, decode, convert, train, train-prior) runs once unbroken.
Then, as often as asked, it is sent the signal at a moment drawn by seed between its start and a
little after its end, and the same command is run with --resume. Right after the signal, an output
is there whole or not at all, and of shards each file is; after the resumed job, it has the bytes of
the unbroken one and nothing else is left. Exits with status 1 if anything differs. On the CPU;
--kill sends SIGKILL. --work keeps what the jobs run on, so that several of these scripts can share
it, each with --only.
"""

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from leftovers import contents, leftovers, torn

from vqtrt.cli import main as main_of_vqtrt
from vqtrt.data.audio.decode import write_wav

_BEYOND = 1.05
"""Moments go up to this many times what the unbroken job took."""
_LIMIT = 300
"""Seconds that any process may take."""

TRAIN = {
    "steps": 60,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "log_every": 10,
    "evaluate_every": 30,
    "checkpoint_every": 20,
}
IMAGES = {
    "recipe": "small",
    "model": {
        "hidden": 16,
        "residual_blocks": 1,
        "residual_hidden": 8,
        "quantizer": {"codebook_size": 32, "dim": 8},
    },
    "data": {"path": "shapes:400", "preprocessing": {"height": 16, "width": 16}},
    "train": TRAIN,
}
SPEECH = {
    "recipe": "small-speech",
    "model": {
        "kind": "speech",
        "hidden": 12,
        "front": {"n_fft": 64, "hop": 16, "bands": 12},
        "strides": [2],
        "target": {"n_fft": 64, "hop": 16, "bands": 12},
        "residual_blocks": 1,
        "residual_hidden": 8,
        "speaker_dim": 4,
        "decoder": {"kind": "conv", "stem_hidden": 4, "blocks": 1, "stft_sizes": [64, 128]},
        "quantizer": {"codebook_size": 16, "dim": 6},
    },
    "data": {"preprocessing": {"sample_rate": 8000}, "crop": 512, "holdout": 4},
    "train": TRAIN | {"steps": 40, "evaluate_every": 40, "checkpoint_every": 40},
}
PRIOR = ("prior.layers=4", "prior.channels=16", "prior.head=32", "data.holdout=64")


@dataclass
class Job:
    """A command that is broken off; all that it writes lies in a folder of its own."""

    name: str
    command: Callable[[Path], list[str]]
    """Of the folder."""
    outputs: tuple[str, ...]
    """Files and folders below it that have to be those of the unbroken job."""
    start: Callable[[Path], None] = lambda folder: None
    """Puts into the folder what the command needs there."""
    whole_files: bool = False
    """An output may be there in part, but each of its files is the one of the unbroken job."""


@dataclass
class Result:
    """What became of a job."""

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    continued: int = 0
    """Times that the resumed job had something to go on with."""
    faults: list[str] = field(default_factory=list)


def interrupt(
    job: Job, work: Path, moments: int, seed: int, number: signal.Signals = signal.SIGTERM
) -> Result:
    """Run a job unbroken, then break it off and resume it as often as `moments` says."""
    # One path for all: codes files name their model's.
    folder = fresh(work / job.name, job)
    began = time.monotonic()
    run(job.command(folder))
    result = Result(time.monotonic() - began)
    whole = contents(folder, job.outputs)
    if not whole:
        raise RuntimeError(f"{job.name} wrote nothing")
    if found := leftovers(folder):
        result.faults.append(f"unbroken: {', '.join(found)} left")
    rng = random.Random(f"{seed} {job.name}")  # noqa: S311 - a moment is no secret
    most = result.seconds
    for trial in range(moments):
        moment = rng.uniform(0, _BEYOND * most)
        fresh(folder, job)
        sent = time.monotonic()
        status, _ = broken(job.command(folder), moment, number)
        if not status:
            # On a machine that others use, times differ.
            most = min(most, time.monotonic() - sent)
        result.statuses[status] += 1
        at = f"at {moment:.2f} s, status {status}"
        if number == signal.SIGTERM and not job.whole_files:
            result.faults += [f"{at}: {fault}" for fault in torn(job.outputs, folder, whole)]
        if job.whole_files:
            now = contents(folder, job.outputs)
            result.faults += [
                f"{at}: {name} has other bytes"
                for name, data in now.items()
                if Path(name).name[0] != "." and data != whole.get(name)
            ]
        try:
            told = run([*job.command(folder), "--resume"])
        except subprocess.SubprocessError as error:
            result.faults.append(f"{at}: --resume failed: {error}")
            continue
        result.continued += "resumed " in told or "already" in told
        ended = contents(folder, job.outputs)
        for name in sorted(whole.keys() | ended.keys()):
            if ended.get(name) != whole.get(name):
                result.faults.append(f"{at}: --resume ends with other bytes of {name}")
        result.faults += [f"{at}: {name} is left" for name in leftovers(folder)]
        print(f"{job.name} {trial + 1}/{moments}: {at}", file=sys.stderr, flush=True)
    return result


def fresh(folder: Path, job: Job) -> Path:
    """An empty folder with what the job needs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job.start(folder)
    return folder


def run(command: list[str]) -> str:
    """Run a command to its end; what it said on standard error."""
    status, told = broken(command, None)
    if status:
        raise subprocess.SubprocessError(f"{' '.join(command)}: {told.strip()[-500:]}")
    return told


def broken(
    command: list[str], moment: float | None, number: signal.Signals = signal.SIGTERM
) -> tuple[int, str]:
    """Run a command, and send it a signal after `moment` seconds; its exit status, and its notes.

    In a fork of this process, which has imported what takes seconds to import.
    """
    with tempfile.TemporaryFile() as log:
        began, sent = time.monotonic(), moment is None
        child = os.fork()
        if not child:
            _become(command, log.fileno())
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            seconds = time.monotonic() - began
            if not sent and moment is not None and seconds >= moment:
                os.kill(child, number)
                sent = True
            if seconds > _LIMIT:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.005)
        log.seek(0)
        told = log.read().decode(errors="replace")
    if "Traceback" in told:
        raise RuntimeError(f"{' '.join(command)}: a traceback: {told[-2000:]}")
    return os.waitstatus_to_exitcode(status), told


def _become(command: list[str], log: int) -> NoReturn:
    """Be the command line: in the child of a fork."""
    status: object = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 1)
        os.dup2(log, 2)
        sys.argv = ["vqtrt", *command]
        try:
            main_of_vqtrt()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status if isinstance(status, int) else 1)


def write_recordings(folder: Path, count: int) -> None:
    """Tones of two speakers at 8 kHz, 1 to 3 seconds."""
    rng = np.random.default_rng(0)
    for index in range(count):
        time_ = np.arange(int(rng.integers(8000, 24000))) / 8000
        audio = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 400) * time_) * (np.sin(20 * time_) > 0)
        noise = 0.003 * rng.normal(size=len(time_))
        path = folder / ("ann", "bob")[index % 2] / f"{index:04}.wav"
        write_wav(path, (audio + noise).astype(np.float32), 8000)


def make(work: Path) -> None:
    """What the jobs run on: an image run and a run of speech, each with a bundle; recordings."""
    write_recordings(work / "recordings", 24)
    write_recordings(work / "talk", 150)
    # JSON is YAML.
    (work / "images.yaml").write_text(json.dumps(IMAGES))
    (work / "speech.yaml").write_text(json.dumps(SPEECH))
    short = ["--set", "train.steps=40"]
    run(["train", str(work / "images.yaml"), "--out", str(work / "images"), *short])
    data = ["--data", str(work / "recordings")]
    run(["train", str(work / "speech.yaml"), *data, "--out", str(work / "speech")])
    for name in ("images", "speech"):
        run(["export", str(work / name), "--no-verify"])
    bundle = str(work / "images/bundle")
    run(["encode", "shapes:3000:7", "--out", str(work / "given.npy"), "-m", bundle])


def jobs(work: Path, size: int, recordings: Path) -> Iterator[Job]:
    """The jobs, on what `make` made; `size` is how many pictures are encoded."""
    bundle, speech = str(work / "images/bundle"), str(work / "speech/bundle")

    def copy_run(folder: Path) -> None:
        ignored = shutil.ignore_patterns("checkpoints", "tensorboard", "reconstructions")
        shutil.copytree(work / "images", folder / "run", ignore=ignored)

    def encode(folder: Path) -> list[str]:
        return ["encode", f"shapes:{size}", "--out", str(folder / "codes.npy"), "-m", bundle]

    def decode(folder: Path) -> list[str]:
        return ["decode", str(work / "given.npy"), "--out", str(folder / "out"), "-m", bundle]

    def decode_tar(folder: Path) -> list[str]:
        return ["decode", str(work / "given.npy"), "--out", str(folder / "out.tar"), "-m", bundle]

    def convert(folder: Path) -> list[str]:
        options = ["--speaker", "bob", "--out", str(folder / "out"), "-m", speech]
        return ["convert", str(recordings), *options]

    def encode_shards(folder: Path) -> list[str]:
        few = ["--shard-size", str(max(1, size // 40))]
        return ["encode", f"shapes:{size}", "--out", str(folder / "codes"), "-m", bundle, *few]

    def encode_audio(folder: Path) -> list[str]:
        return ["encode", str(recordings), "--out", str(folder / "codes.npy"), "-m", speech]

    def encode_audio_shards(folder: Path) -> list[str]:
        few = ["--shard-size", str(max(1, sum(1 for _ in recordings.rglob("*.wav")) // 20))]
        return ["encode", str(recordings), "--out", str(folder / "codes"), "-m", speech, *few]

    def encode_parquet(folder: Path) -> list[str]:
        return [*encode_shards(folder), "--format", "parquet"]

    def encode_audio_parquet(folder: Path) -> list[str]:
        return [*encode_audio_shards(folder), "--format", "parquet"]

    def train(folder: Path) -> list[str]:
        return ["train", str(work / "images.yaml"), "--out", str(folder / "run")]

    def train_prior(folder: Path) -> list[str]:
        settings = [*PRIOR, *(f"train.{key}={value}" for key, value in TRAIN.items())]
        options = [part for setting in settings for part in ("--set", setting)]
        data = ["--data", "shapes:1000", "-m", str(folder / "run")]
        return ["train-prior", "pixelcnn", "--name", "small", *data, *options]

    yield Job("encode", encode, ("codes.npy", "codes.json"))
    yield Job("encode-shards", encode_shards, ("codes",), whole_files=True)
    yield Job("encode-audio", encode_audio, ("codes.npy", "codes.json"))
    yield Job("encode-audio-shards", encode_audio_shards, ("codes",), whole_files=True)
    yield Job("encode-parquet", encode_parquet, ("codes",), whole_files=True)
    yield Job("encode-audio-parquet", encode_audio_parquet, ("codes",), whole_files=True)
    yield Job("decode", decode, ("out",))
    yield Job("decode-tar", decode_tar, ("out.tar",))
    yield Job("convert", convert, ("out",))
    yield Job("train", train, ("run/model.safetensors",))
    prior = ("run/priors/small.npy", "run/priors/small.json", "run/priors/small/model.safetensors")
    yield Job("train-prior", train_prior, prior, copy_run)


def table(results: dict[str, Result]) -> str:
    """The results as a table in Markdown."""
    columns = (
        "command",
        "unbroken, s",
        "signals",
        "exit 143",
        "killed before its handler (-15)",
        "finished first (0)",
        "went on with earlier work",
        "half-written",
        "other bytes or leftovers",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, result in results.items():
        half = [fault for fault in result.faults if "in part" in fault or "torn" in fault]
        counts = [result.statuses[status] for status in (143, -15, 0)]
        row = [f"{result.seconds:.1f}", result.statuses.total(), *counts, result.continued]
        row += [len(half), len(result.faults) - len(half)]
        lines.append(f"| `{name}` | {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--moments", type=int, default=20, help="signals a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=6_000, help="pictures to encode")
    parser.add_argument("--recordings", type=Path, help="folder (default: 150 made recordings)")
    parser.add_argument("--only", action="append", help="command; repeatable (default: all)")
    parser.add_argument("--work", type=Path, help="folder to make the data in, and keep")
    parser.add_argument("--kill", action="store_true", help="SIGKILL in place of SIGTERM")
    options = parser.parse_args()
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    for name in ("onnxruntime", "vqtrt.export.run", "vqtrt.training.start"):
        importlib.import_module(name)
    number = signal.SIGKILL if options.kill else signal.SIGTERM
    with tempfile.TemporaryDirectory(prefix="vqtrt-interrupt-") as scratch:
        work = options.work or Path(scratch)
        work.mkdir(exist_ok=True)
        if not (work / "given.npy").exists():
            make(work)
        results = {
            job.name: interrupt(job, work, options.moments, options.seed, number)
            for job in jobs(work, options.size, options.recordings or work / "talk")
            if not options.only or job.name in options.only
        }
    print(table(results))
    faults = [f"{name} {fault}" for name, result in results.items() for fault in result.faults]
    for fault in faults:
        print(f"- {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
