"""Does an hour of speech encode in the memory of a minute, and to the codes of the whole?

python benchmarks/speech_long.py SPEECH RUN > benchmarks/results/DATE-speech-long.md

The recordings below SPEECH, one after the other, over and over, make the hour; RUN has been
exported. "Whole" is one call of the encoder's graph on all samples at once, which takes some GiB.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from report import heading, table

from vqtrt.config.location import find_model
from vqtrt.data.audio.decode import AudioPreprocessing, read_audio, write_wav
from vqtrt.data.audio.open import open_speech
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions


def main() -> None:
    data, run = sys.argv[1:]
    heading(f"One recording of 60 minutes: {Path(run).name} on {data}")
    engine = open_engine(find_model(run), EngineOptions("onnxruntime"))
    if engine.speech is None:
        raise SystemExit(f"{run} is no model of speech")
    preprocessing, stride = engine.speech.preprocessing, engine.info.stride
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for minutes in (1, 60):
            path = Path(folder) / f"{minutes}.wav"
            # In a process of its own: what this one holds would count as its children's peak.
            making = multiprocessing.get_context("spawn").Process(
                target=make, args=(path, data, preprocessing, minutes * 60)
            )
            making.start()
            making.join()
            peaks[minutes] = peak_mib(path, run)
        streamed = np.load(path.with_suffix(".npy"))
        audio = read_audio(path, preprocessing)
    padded = np.pad(audio, (0, -len(audio) % stride))
    whole = np.asarray(engine.open("encoder")(padded[None]))[0]
    figures = {
        "peak of 1 minute, MiB": peaks[1],
        "peak of 60 minutes, MiB": peaks[60],
        "more, MiB": peaks[60] - peaks[1],
        "codes": len(streamed),
        "codes that are not those of the whole": int((streamed != whole).sum()),
    }
    table(figures, tuple(figures))


def make(path: Path, data: str, preprocessing: AudioPreprocessing, seconds: int) -> None:
    write_wav(path, speech(data, preprocessing, seconds), preprocessing.sample_rate)


def speech(data: str, preprocessing: AudioPreprocessing, seconds: int) -> "np.ndarray":
    """Recordings one after the other, as often as it takes."""
    source = open_speech(data)
    wanted, parts, count = seconds * preprocessing.sample_rate, [], 0
    while count < wanted:
        for item in source.items():
            parts.append(source.read(item, preprocessing))
            count += len(parts[-1])
            if count >= wanted:
                break
    return np.concatenate(parts)[:wanted]


def peak_mib(path: Path, run: str) -> float:
    """Resident memory of `vqtrt encode` at its highest."""
    command = ["vqtrt", "encode", str(path), "--out", str(path.with_suffix(".npy"))]
    print(f"`vqtrt encode {path.name} --out {path.stem}.npy --model {run}`\n", flush=True)
    process = subprocess.Popen([*command, "--model", run])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"vqtrt encode ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
