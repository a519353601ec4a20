"""What a newcomer may get wrong with recordings, and what is said of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
from doubles import flip_byte
from speech_doubles import noise
from textgrids import write_textgrid

RATE = 8000
SECONDS = (0.3, 0.2)


def write(path: str, audio: np.ndarray, rate: int = RATE, **options: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, **options)


def align(path: str, seconds: float) -> None:
    write_textgrid(Path(path), [(0, seconds / 2, "AH0"), (seconds / 2, seconds, "sil")])


class Case(NamedTuple):
    name: str
    setup: Callable[[], object]
    command: str
    message: str
    """A regular expression for what the error says."""


def nothing() -> None:
    pass


def no_samples() -> None:
    write("talk/bad.wav", np.zeros(0, np.float32))


def not_numbers() -> None:
    audio = noise(0, 500)
    audio[321] = np.nan
    write("talk/bad.wav", audio, subtype="FLOAT")


def infinite() -> None:
    audio = noise(0, 500)
    audio[7] = np.inf
    write("talk/bad.wav", audio, subtype="FLOAT")


def truncated_flac() -> None:
    write("talk/bad.flac", noise(0, 20_000))
    content = Path("talk/bad.flac").read_bytes()
    Path("talk/bad.flac").write_bytes(content[: len(content) // 2])


def truncated_wav() -> None:
    write("talk/bad.wav", noise(0, 20_000))
    content = Path("talk/bad.wav").read_bytes()
    Path("talk/bad.wav").write_bytes(content[: len(content) // 2])


def text(path: str, content: str = "hello") -> Callable[[], object]:
    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)

    return write


def dead_link() -> None:
    Path("talk/bad.wav").symlink_to("x")


def codes(array: np.ndarray) -> Callable[[], object]:
    return lambda: np.save("codes.npy", array)


def flipped(name: str, offset: int) -> Callable[[], object]:
    return lambda: flip_byte(Path(name), offset)


def misaligned() -> None:
    align("aligned/ann/0.TextGrid", 1.7)


def unaligned() -> None:
    Path("aligned/bob/1.TextGrid").unlink()


BAD = [
    ("no samples", no_samples, r"talk/bad\.wav: holds no samples; remove it"),
    ("no bytes", text("talk/bad.wav", ""), r"talk/bad\.wav: is empty; remove it"),
    ("NaN", not_numbers, r"talk/bad\.wav: sample 321 is nan; .*mend or remove"),
    ("infinite", infinite, r"talk/bad\.wav: sample 7 is inf; "),
    ("truncated flac", truncated_flac, r"talk/bad\.flac: is no audio that can be read, or is dam"),
    ("truncated wav", truncated_wav, r"talk/bad\.wav: is no audio that can be read, or is damage"),
    ("text named wav", text("talk/bad.wav"), r"talk/bad\.wav: is no audio that can be read"),
    ("MPEG header alone", text("talk/bad.wav", "ID3\3\0"), r"bad\.wav: is no audio that can be r"),
    ("dead link", dead_link, r"talk/bad\.wav: no such file; check the path"),
]
"""Recordings that cannot be read: what they are called, how they come to be, what is said."""

ENCODE = "encode talk --out new.npy --model bundle"
DECODE = "decode codes.npy --out new --speaker ann --model bundle"
CONVERT = "convert talk --out new --speaker bob --model bundle"
PROBE = "probe talk --alignments aligned --train-split 0.5 --by speaker --model bundle"
EVAL = "eval talk --model bundle"
TRAIN = "train runs/tiny/config.yaml --data talk --out new"
UNKNOWN = "speaker zoe: unknown to the model; it knows ann, bob"

RECORDINGS = [
    *(
        Case(f"{command.split()[0]}: {name}", setup, command, f"{message}.*--on-error skip")
        for command in (ENCODE, CONVERT, f"{EVAL} --speaker ann")
        for name, setup, message in BAD[:5:2]
    ),
    *(
        Case(f"encode: {name}", setup, ENCODE, f"{message}.*--on-error skip")
        for name, setup, message in [*BAD[1:5:2], *BAD[5:]]
    ),
    Case(
        "train",
        not_numbers,
        f"{TRAIN} --set data.holdout=1 --set train.seed=3",
        r"bad\.wav: sample 321 is nan",
    ),
    Case("no folder", nothing, "encode nope --out new.npy", "nope: no such file or folder; check"),
    Case("empty folder", lambda: Path("empty").mkdir(), "encode empty --out new.npy", "no recordi"),
    Case("images", text("pics/a.png"), "encode pics --out new.npy", "holds no recordings"),
    Case("pattern", nothing, f"{ENCODE} --speaker-pattern (", "speaker pattern '\\(': "),
    Case("no group", nothing, f"{ENCODE} --speaker-pattern x", r"has no group \(\?P<speaker>"),
    Case(
        "none is one",
        text("x/1.wav"),
        "encode x --out new.npy --on-error skip -m bundle",
        "x: none of its 1 files is a recording that can be read.*check the path",
    ),
    Case(
        "convert: none is one",
        text("x/1.wav"),
        "convert x --out new --speaker ann --on-error skip -m bundle",
        "x: none of its 1 files is a recording that can be read.*check the path",
    ),
]

SPEAKERS = [
    Case("decode", nothing, DECODE.replace("ann", "zoe"), UNKNOWN),
    Case("convert", nothing, CONVERT.replace("bob", "zoe"), UNKNOWN),
    Case("eval", nothing, f"{EVAL} --speaker zoe", UNKNOWN),
    Case(
        "decode: none",
        nothing,
        DECODE.replace("--speaker ann ", ""),
        r"codes\.npy: clip 0 has no speaker; give a speaker with --speaker: ann, bob",
    ),
    Case(
        "eval: none",
        lambda: shutil.copy("talk/ann/0.wav", "talk"),
        EVAL,
        r"0\.wav: has no speaker; .*--speaker-pattern.*--speaker: ann, bob",
    ),
    Case(
        "eval: another",
        lambda: Path("talk/ann").rename("talk/eve"),
        EVAL,
        r"eve/0\.wav: is of eve, unknown to the model",
    ),
    Case("wild", nothing, CONVERT.replace("bob", "\x1b[31m"), r"speaker \\x1b\[31m: unknown"),
]

OUTPUTS = [
    Case("encode: no suffix", nothing, "encode talk --out new.bin", r"new\.bin: --out must end in"),
    Case("encode: inside", nothing, "encode talk --out talk/new.npy", "inside talk.*path outside"),
    Case("decode to a file", nothing, DECODE.replace("new", "file"), "is a file: name a folder"),
    Case("decode to /proc", nothing, DECODE.replace("new", "/proc/x"), "cannot be written"),
    Case("convert to a file", nothing, CONVERT.replace("new", "file"), "is a file; several record"),
    Case("convert inside", nothing, CONVERT.replace("new", "talk/new"), "inside talk.*path outs"),
    Case("convert to /proc", nothing, CONVERT.replace("new", "/proc/x"), "cannot be written"),
    Case(
        "convert one to a folder",
        nothing,
        CONVERT.replace("talk", "talk/ann/0.wav"),
        r"new: one recording becomes one file; --out must end in \.wav",
    ),
    Case(
        "convert one to /proc",
        nothing,
        CONVERT.replace("talk", "talk/ann/0.wav").replace("new", "/proc/x.wav"),
        "cannot be written",
    ),
    Case("picture", nothing, f"{PROBE} --picture x/p.png", "x: no such folder; create it first"),
    Case("grid", nothing, f"{EVAL} --grid talk", "talk: is a folder; give a file name"),
]

ALIGNMENTS = [
    Case(
        "does not fit",
        misaligned,
        PROBE,
        r"0\.TextGrid: ends at 1\.70 s, but ann/0\.wav lasts 0\.30 s;.*--on-error skip",
    ),
    Case("none", unaligned, PROBE, r"bob/1\.wav: no 1\.TextGrid below aligned; align it, or leav"),
    Case("damaged", text("aligned/ann/0.TextGrid"), PROBE, r"0\.TextGrid: "),
    Case("no folder", nothing, PROBE.replace("aligned", "nope"), "nope: no such folder; give that"),
    Case("no TextGrids", nothing, PROBE.replace("aligned", "talk"), r"talk: holds no \.TextGrid"),
    Case(
        "share", nothing, PROBE.replace("0.5", "1.5"), "training share 1.5: must be between 0 and"
    ),
    Case("tier", nothing, f"{PROBE} --tier words", "words"),
    Case("recording", not_numbers, PROBE, r"talk/bad\.wav: sample 321 is nan; "),
]

CODES = [
    Case("no file", lambda: Path("codes.npy").unlink(), DECODE, r"codes\.npy: cannot be read"),
    Case("K", codes(np.array([3, 16])), DECODE, r"codes\.npy: clip 0 holds 16 at 1, but the code"),
    Case("negative", codes(np.array([3, -1])), DECODE, "codes are never negative"),
    Case("axes", codes(np.zeros((2, 3), int)), DECODE, r"\(2, 3\), but codes of speech have one"),
    Case("floats", codes(np.zeros(3)), DECODE, "codes are integers; cast them"),
    Case("JSON", text("codes.json", "[]"), DECODE, r"codes\.json: "),
]

MODELS = [
    Case("encoder flipped", flipped("bundle/encoder.onnx", 900), ENCODE, "encoder.onnx is damaged"),
    Case("decoder flipped", flipped("bundle/decoder.onnx", 900), DECODE, "decoder.onnx is damaged"),
    Case(
        "step flipped",
        flipped("wavenet/step.onnx", 900),
        DECODE.replace("bundle", "wavenet"),
        "step.onnx is damaged.*export",
    ),
    Case("info", flipped("bundle/decoder.onnx", 900), "info bundle", "decoder.onnx is damaged"),
    Case(
        "other weights", text("runs/tiny/model.safetensors"), "export", "not readable as safetens"
    ),
    Case(
        "temperature",
        nothing,
        f"{DECODE.replace('bundle', 'wavenet')} --temperature -1",
        "temperature -1.0: must be 0 or more",
    ),
    Case("seed", nothing, f"{DECODE.replace('bundle', 'wavenet')} --seed -1", "seed -1: must be 0"),
]

SETTINGS = [
    Case(
        "recipe's data", nothing, "train digits", "fsdd/recordings: no such .*; pass --data to na"
    ),
    Case("stride", nothing, f"{TRAIN} --set model.strides=[0]", "strides: one number above 0"),
    Case("hop", nothing, f"{TRAIN} --set model.target.hop=17", "target.hop 17: must divide the st"),
    Case("codebooks", nothing, f"{TRAIN} --set model.quantizer.num_codebooks=2", "one codebook"),
    Case(
        "image setting", nothing, f"{TRAIN} --set data.preprocessing.height=32", "unknown setting"
    ),
    Case(
        "one recording",
        lambda: shutil.rmtree("talk/bob"),
        f"{TRAIN} --set model.speakers=[]",
        "at least 2",
    ),
]

CASES = [
    pytest.param(case, id=f"{group}: {case.name}")
    for group, cases in {
        "recordings": RECORDINGS,
        "speakers": SPEAKERS,
        "outputs": OUTPUTS,
        "alignments": ALIGNMENTS,
        "codes": CODES,
        "models": MODELS,
        "settings": SETTINGS,
    }.items()
    for case in cases
]
