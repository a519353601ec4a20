"""What goes wrong, through the real entry point: one line, how to mend it, and nothing left over.

A case is a set-up, a command, and what its error has to say.
"""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from doubles import flip_byte, huge_png, picture, tree, vqtrt, write_pictures


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch, tiny_run) -> Path:
    """A newcomer's folder: pictures, a run, a bundle, and codes."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.delenv("VQTRT_MODEL", raising=False)
    folder = tmp_path / "work"
    shutil.copytree(tiny_run, folder / "runs/tiny", ignore=shutil.ignore_patterns("tensorboard"))
    shutil.copytree(tiny_run / "bundle", folder / "bundle")
    monkeypatch.chdir(folder)
    write_pictures(Path("pics"), "a/1.png", "a/2.png", "b/3.png")
    codes = np.random.default_rng(0).integers(0, 16, (3, 4, 4), dtype=np.uint8)
    np.save("codes.npy", codes)
    Path("file").write_text("hello")
    return folder


class Case(NamedTuple):
    name: str
    setup: Callable[[], object]
    command: str
    message: str
    """A regular expression for what the error says."""


def nothing() -> None:
    pass


def truncated_jpeg() -> None:
    picture(0, (64, 64)).save("whole.jpg")
    content = Path("whole.jpg").read_bytes()
    Path("whole.jpg").unlink()
    Path("pics/b/4.jpg").write_bytes(content[: len(content) // 2])


def text(path: str, content: str = "hello") -> Callable[[], object]:
    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(content)

    return write


def codes(array: np.ndarray) -> Callable[[], object]:
    return lambda: np.save("codes.npy", array)


def flipped(name: str, offset: int) -> Callable[[], object]:
    return lambda: flip_byte(Path("bundle") / name, offset)


def removed(name: str) -> Callable[[], object]:
    def remove() -> None:
        shutil.rmtree(name) if Path(name).is_dir() else Path(name).unlink()

    return remove


def sidecar(**changes: object) -> Callable[[], object]:
    """A .json beside codes.npy, as `vqtrt encode` writes it, with changes."""

    def write() -> None:
        facts: dict[str, object] = {
            "format_version": 1,
            "kind": "image",
            "codebook_size": 16,
            "num_codebooks": 1,
            "code_shape": [4, 4],
            "image_size": [16, 16],
            "classes": [],
            "root": "pics",
            "listing_sha256": "0" * 64,
            "weights_sha256": "0" * 64,
            "model": {},
            "preprocessing": {},
            "vqtrt_version": "0.1.0",
            "rows": 3,
            "files": ["a.png", "b.png", "c.png"],
            "rejected": [],
        }
        Path("codes.json").write_text(json.dumps(facts | changes))

    return write


def runs_without_weights() -> None:
    Path("runs/tiny/model.safetensors").unlink()
    shutil.rmtree("runs/tiny/bundle")


ENCODE = "encode pics --out new.npy --model bundle"
DECODE = "decode codes.npy --out new --model bundle"
TRAIN = "train shapes --data shapes:20 --out new"
IMAGE = r"not an image that can be read.*replace or remove it.*--on-error skip"
NOTHING = "x: none of its 1 files is an image that can be read.*check the path"

IMAGES = [
    Case("empty folder", lambda: Path("empty").mkdir(), "encode empty --out new.npy", "no images"),
    Case("no folder", nothing, "encode nope --out new.npy", "nope: no such file or folder; check"),
    Case(
        "a text",
        text("pics/a/note.txt"),
        "encode pics/a/note.txt --out new.npy",
        "give an image, a folder",
    ),
    Case("truncated JPEG", truncated_jpeg, ENCODE, r"pics/b/4\.jpg: " + IMAGE),
    Case("text named .png", text("pics/b/4.png"), ENCODE, r"pics/b/4\.png: " + IMAGE),
    Case("empty image", text("pics/b/4.png", ""), ENCODE, "the file is empty.*" + IMAGE[-20:]),
    Case("bomb", lambda: huge_png(Path("pics/4.png")), ENCODE, r"pics/4\.png: .*pixels allowed"),
    Case("dead link", lambda: Path("pics/4.png").symlink_to("x"), ENCODE, r"pics/4\.png: " + IMAGE),
    Case("odd name", text("pics/\x1b[31m\nx"), ENCODE, r"pics/\\x1b\[31m\\nx: " + IMAGE),
    Case("no split", nothing, "encode shapes:x --out new.npy", "shapes:COUNT"),
    Case("eval", text("pics/4.png"), "eval pics --model bundle", r"pics/4\.png: " + IMAGE),
    Case("eval nothing", text("x/1"), "eval x --on-error skip -m bundle", NOTHING),
    Case("no image", text("x/1.png"), "encode x --out new.npy -m bundle --on-error skip", NOTHING),
    Case("verify", text("pics/4.png"), "verify runs/tiny pics", r"4\.png: not an image"),
    Case("bench", text("pics/4.png"), "bench encode pics --model bundle", r"4\.png: not an image"),
    Case("bench no folder", nothing, "bench encode nope --model bundle", "no such folder"),
    Case("bench empty", lambda: Path("e").mkdir(), "bench encode e --model bundle", "no images"),
]

OUTPUTS = [
    Case("no suffix", nothing, "encode pics --out new.bin", r"new\.bin: --out must end in \.npy"),
    Case(
        "a folder", nothing, "encode pics --out pics -m bundle", "pics: is inside|holds other files"
    ),
    Case("no parent", nothing, "encode pics --out x/new.npy", "x: no such folder; create it"),
    Case("below a file", nothing, "encode pics --out file/new.npy", "file: no such folder"),
    Case("/proc", nothing, "encode pics --out /proc/new.npy", r"cannot be written .*change --out"),
    Case("inside", nothing, "encode pics --out pics/new.npy", "inside .*pics.*path outside it"),
    Case("decode to a file", nothing, "decode codes.npy --out file", "is a file: name a folder"),
    Case("decode below one", nothing, "decode codes.npy --out file/x", "a file is where a folder"),
    Case("decode to /proc", nothing, "decode codes.npy --out /proc/x", "cannot be written"),
    Case("export to a file", nothing, "export runs/tiny --out file", "is a file: name a folder"),
    Case("export over", nothing, "export runs/tiny --out pics", "not empty and no bundle"),
    Case("export to /proc", nothing, "export runs/tiny --out /proc/x", "cannot be written"),
    Case("train over", nothing, "train shapes --out runs/tiny", "exists already: pass --resume"),
    Case("train to a file", nothing, "train shapes --out file", "exists already"),
    Case("train below one", nothing, "train shapes --out file/x", "cannot be written"),
    Case("train to /proc", nothing, "train shapes --out /proc/x", "cannot be written"),
    Case("shapes over", nothing, "shapes pics", "pics: not empty; give a new folder"),
    Case("shapes to a file", nothing, "shapes file", "cannot be written"),
    Case("grid", nothing, "eval pics -m bundle --grid x/g.png", "x: no such folder; create"),
    Case("grid a folder", nothing, "eval pics -m bundle --grid pics", "pics: is a folder; give a"),
]

MODELS = [
    Case("none there", nothing, "encode pics --out new.npy -m nope", "nope: no such run or bundle"),
    Case("no model", nothing, "encode pics --out new.npy -m pics", "neither a run .* nor a bundle"),
    Case("no runs", removed("runs"), "encode pics --out new.npy", "type `vqtrt train shapes`"),
    Case("no runs: export", removed("runs"), "export", "type `vqtrt train shapes`"),
    Case("no runs: resume", removed("runs"), "train --resume", "nothing to resume"),
    Case("no run: resume", nothing, "train --resume --out pics", "pics holds no run; train"),
    Case("no weights", runs_without_weights, "encode pics --out new.npy", "type|train --resume"),
    Case("no weights: export", runs_without_weights, "export", "vqtrt train --resume --out"),
    Case(
        "bundle only",
        nothing,
        "encode pics --out new.npy -m bundle --engine torch",
        "needs the run",
    ),
    Case("verify without run", nothing, "verify bundle pics", "pass the run"),
    Case("export a bundle", nothing, "export bundle", "a bundle already: name the run"),
    Case("encoder flipped", flipped("encoder.onnx", 900), ENCODE, "encoder.onnx is damaged.*expo"),
    Case("decoder flipped", flipped("decoder.onnx", 900), DECODE, "decoder.onnx is damaged.*expo"),
    Case("bundle.json flipped", flipped("bundle.json", 60), ENCODE, "bundle.json is damaged.*expo"),
    Case("bundle.json no JSON", flipped("bundle.json", 0), ENCODE, "bundle.json is damaged.*exp"),
    Case("bundle.json empty", text("bundle/bundle.json", ""), ENCODE, "bundle.json is damaged"),
    Case("bundle.json a list", text("bundle/bundle.json", "[]"), ENCODE, "bundle.json is damaged"),
    Case("no encoder", removed("bundle/encoder.onnx"), ENCODE, "encoder.onnx is missing; export"),
    Case("no decoder", removed("bundle/decoder.onnx"), DECODE, "decoder.onnx is missing; export"),
    Case("no bundle.json", removed("bundle/bundle.json"), ENCODE, "neither a run .* nor a bundle"),
    Case("info", flipped("decoder.onnx", 900), "info bundle", "decoder.onnx is damaged"),
    Case("damaged weights", text("runs/tiny/model.safetensors"), "export", "not readable as"),
    Case("other weights", text("runs/tiny/model.safetensors"), "verify", "vqtrt export runs/tiny"),
    Case("config of a run", text("runs/tiny/config.yaml", "zork: 3"), "export", "unknown setting"),
]

SETTINGS = [
    Case("recipe", nothing, "train zork", "no recipe 'zork': choose one of .*shapes"),
    Case("no file", nothing, "train zork.yaml", r"zork\.yaml: no such file"),
    Case("no YAML", text("x.yaml", "a: ["), "train x.yaml", "not valid YAML"),
    Case("no table", text("x.yaml", "3"), "train x.yaml", "expected settings"),
    Case("unknown key", text("x.yaml", "train: {stepz: 3}"), "train x.yaml", "mean .*train.steps"),
    Case("unknown group", nothing, f"{TRAIN} --set zork.a=3", "unknown setting 'zork'; known here"),
    Case("no value", nothing, f"{TRAIN} --set train.steps", "expected key=value, such as"),
    Case("no key", nothing, f"{TRAIN} --set =3", "expected key=value"),
    Case("no number", nothing, f"{TRAIN} --set train.steps=banana", "train.steps: .*integer"),
    Case("no step", nothing, f"{TRAIN} --set train.steps=0", "greater than or equal to 1"),
    Case("no group", nothing, f"{TRAIN} --set train.steps.x=1", "is a value, not a group"),
    Case("no YAML value", nothing, f"{TRAIN} --set train.steps=[", "not a valid YAML value"),
    Case("stride", nothing, f"{TRAIN} --set data.preprocessing.height=30", "the stride 4; change"),
    Case("recipe name", nothing, f"{TRAIN} --set recipe=../../evil", "recipe: "),
    Case("data", nothing, "train --data nope", "nope: no such file or folder; check the path"),
    Case("recipe's data", nothing, "train cifar10", "cifar10/train: no such .*; pass --data to na"),
    Case("one image", nothing, "train --data shapes:1 --out new", "at least 2 images"),
    Case("size", nothing, f"{ENCODE} --size 30x30", "30x30 pixels: .*must be multiples of 4"),
    Case("no size", nothing, f"{ENCODE} --size banana", "expected HxW in pixels, such as 128x128"),
    Case("size 0", nothing, f"{ENCODE} --size 0", "expected HxW"),
    Case("size in eval", nothing, "eval pics -m bundle --size 18", "must be multiples of 4"),
]

ZEROS = np.zeros((3, 4, 4), np.uint8)
CODES = [
    Case("no file", removed("codes.npy"), DECODE, r"codes\.npy: cannot be read \(No such file"),
    Case("a folder", nothing, "decode pics --out new -m bundle", "pics: cannot be read"),
    Case("an image", nothing, "decode pics/a/1.png --out new -m bundle", "not a .npy file"),
    Case("floats", codes(ZEROS.astype(float)), DECODE, "codes are integers; cast them"),
    Case("objects", lambda: np.save("codes.npy", np.array([{}])), DECODE, "save plain numbers"),
    Case("axes", codes(ZEROS[0]), DECODE, r"\(N, h, w\)"),
    Case("codebooks", codes(ZEROS[..., None]), DECODE, r"takes \(N, h, w\); give the bundle"),
    Case("no height", codes(ZEROS[:, :0]), DECODE, r"\(3, 0, 4\), but the model takes"),
    Case("no width", codes(ZEROS[:, :, :0]), DECODE, r"\(3, 4, 0\), but the model takes"),
    Case("K", codes(ZEROS + 16), DECODE, "holds 16, but the codebook has 16 entries"),
    Case("huge", codes(ZEROS.astype(np.uint64) + 2**63), DECODE, "row 0 at .* holds 9223372036854"),
    Case("negative", codes(ZEROS.astype(int) - 1), DECODE, "codes are never negative"),
    Case("cut off", lambda: os.truncate("codes.npy", 150), DECODE, "codes.npy: .*"),
    Case("JSON rows", sidecar(rows=4), DECODE, "describes 4 rows, but codes.npy has 3; bring"),
    Case("JSON rows true", sidecar(rows=True), DECODE, "describes True rows"),
    Case("JSON names", sidecar(files=["a"]), DECODE, "not a list of 3 names; encode again"),
    Case("JSON shape", sidecar(code_shape=[4, 5]), DECODE, r"codes \(N, 4, 5\)"),
    Case("JSON key", sidecar(zork=1), DECODE, "'zork'.*encode again, or remove the JSON"),
    Case("JSON version", sidecar(format_version=2), DECODE, "newer vqtrt.*upgrade"),
    Case("JSON text", text("codes.json", "hello"), DECODE, "not valid JSON"),
    Case("JSON nested", text("codes.json", "[" * 10**5), DECODE, "not valid JSON"),
    Case("JSON folder", lambda: Path("codes.json").mkdir(), DECODE, "json: cannot be read"),
    Case("JSON K", sidecar(codebook_size=99), "decode codes.npy --out codes.npy", "is a file"),
    *(
        Case(f"name {name!r}", sidecar(files=["ok", "ok2", name]), DECODE, "no file in the output")
        for name in ("../x.png", "/x.png", "a/../../x", "", ".", "..", "x\0", "\ud800", "//x")
    ),
    Case("name too long", sidecar(files=["a", "b", "x" * 5000]), DECODE, "longer than 4096 bytes"),
    Case("info", sidecar(rows=4), "info codes.npy", "describes 4 rows"),
    Case("info of nothing", nothing, "info nope", "nope: no such file or folder"),
    Case("info of a folder", nothing, "info pics", "neither a run, nor a bundle, nor codes"),
]

CASES = [
    pytest.param(case, id=f"{group}: {case.name!a}")
    for group, cases in {
        "images": IMAGES,
        "outputs": OUTPUTS,
        "models": MODELS,
        "settings": SETTINGS,
        "codes": CODES,
    }.items()
    for case in cases
]


def refused(capfd, args: list[str], message: str) -> None:
    """One line on standard error after the choices, nothing on standard output, nothing left."""
    before = tree(Path.cwd().parent)
    capfd.readouterr()
    status = vqtrt(*args)
    out, err = capfd.readouterr()
    assert out == ""
    *notes, error = err.splitlines()
    assert error.startswith("error: ")
    assert error.isprintable()
    assert re.search(message, error), error
    said = ("model: ", "engine: ", "training ", "wrote ", "warning: ", "step ")
    assert [note for note in notes if not note.startswith(said)] == []
    assert status == 1
    assert tree(Path.cwd().parent) == before


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left(capfd, case):
    case.setup()
    refused(capfd, case.command.split(), case.message)


def test_an_engine_that_is_not_installed(capfd, monkeypatch):
    monkeypatch.setattr("vqtrt.engines.choose.installed", lambda name: False)
    for engine, extra in [("onnxruntime", "cpu"), ("torch", "train"), ("auto", "cpu")]:
        args = [*ENCODE.split(), "--engine", engine]
        refused(capfd, args, rf'pip install "vqtrt\[{extra}\]"')
    shutil.rmtree("runs/tiny/bundle")
    refused(capfd, ["encode", "pics", "--out", "new.npy"], "has no bundle, and torch is not inst")


def test_an_environment_that_names_no_model(capfd, monkeypatch):
    monkeypatch.setenv("VQTRT_MODEL", "zork")
    refused(capfd, ["encode", "pics", "--out", "new.npy"], "zork: no such run or bundle")


def test_what_the_runtime_refuses_to_run(capfd, monkeypatch):
    import onnxruntime

    def fail(*_):
        raise RuntimeError("bad\nallocation")

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fail)
    refused(capfd, ENCODE.split(), r"cannot run the graph 'encoder' on uint8 .*\(bad allocation\)")
    refused(capfd, DECODE.split(), "a smaller batch size needs less")


def test_no_memory(capfd, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("vqtrt.commands.on_images.decode_codes", fail)
    refused(capfd, DECODE.split(), "out of memory; a smaller --batch-size")


JOBS = [
    "encode shapes:1000 --out {disk}/codes.npy --model bundle",
    "decode big.npy --out {disk}/back --model bundle",
    "export runs/tiny --out {disk}/bundle --no-verify",
]


def fill_disk(command: str) -> list[str]:
    np.save("big.npy", np.random.default_rng(0).integers(0, 16, (200, 4, 4), dtype=np.uint8))
    return command.format(disk="disk").split()


@pytest.mark.parametrize("command", JOBS[:2])
def test_files_may_not_grow(capfd, command):
    """What `ulimit -f` does."""
    args = fill_disk(command)
    Path("disk").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Pytest's own file of captured output has to fit in, a PNG of 16 x 16 pixels must not.
    limit = 600 if "decode" in command else 8192
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        refused(capfd, args, r"disk.*cannot be written \(File too large\).*change --out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("command", JOBS)
def test_full_disk(capfd, command):
    args = fill_disk(command)
    disk = Path("disk")
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=12k", "tmpfs"]
    if subprocess.run(["mount", *options, disk], capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a tmpfs")
    try:
        refused(capfd, args, f"No space left on .*{disk}: make room there or change --out")
    finally:
        subprocess.run(["umount", disk], check=True)


def test_full_disk_without_a_mount(capfd, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    refused(capfd, ENCODE.split(), r"No space left on \.: make room there")
