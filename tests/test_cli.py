import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import NAMES, encoded, settings
from doubles import tree, vqtrt, write_pictures
from PIL import Image

from vqtrt.commands.options import EngineName
from vqtrt.config.images import load_config
from vqtrt.engines.options import ENGINES
from vqtrt.formats.codes import read_codes
from vqtrt.jobs import encode as encode_job


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VQTRT_MODEL", raising=False)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def pics() -> Path:
    return write_pictures(Path("pics"), *NAMES, size=(20, 18))


@pytest.fixture
def run(tiny_run) -> Path:
    """The tiny run, as the newest under ./runs."""
    Path("runs").mkdir()
    Path("runs/tiny").symlink_to(tiny_run)
    return Path("runs/tiny")


def test_encode_and_decode(capfd, run, pics):
    assert vqtrt("encode", pics, "--out", "codes.npy", "--json") == 0
    out, err = capfd.readouterr()
    nothing = {"rejected": 0, "passed_over": {}, "rejected_kinds": {}}
    assert encoded(out) == {"out": "codes.npy", "rows": 5} | nothing
    *lines, time = err.splitlines()
    assert lines == [
        "model: runs/tiny (newest under runs)",
        "engine: onnxruntime",
        "wrote 5 rows to codes.npy",
    ]
    assert time.startswith("time: read ")
    codes = read_codes(Path("codes.npy"))
    assert list(codes.files) == sorted(NAMES)
    assert codes.codes.shape == (5, 4, 4)
    assert vqtrt("decode", "codes.npy", "--out", "back", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"out": "back", "pictures": 5}
    assert "warning" not in err
    names = sorted(name.replace(".bmp", ".png") for name in NAMES)
    assert [name for name in tree(Path("back")) if name.endswith(".png")] == names
    with Image.open("back/a/1.png") as image:
        assert (image.size, image.mode) == ((16, 16), "RGB")


def test_engines_agree(run, pics):
    found = []
    for engine in ("onnxruntime", "torch"):
        assert vqtrt("encode", pics, "--out", f"{engine}.npy", "--engine", engine) == 0
        assert vqtrt("decode", "onnxruntime.npy", "--out", engine, "--engine", engine) == 0
        found.append(np.load(f"{engine}.npy"))
    np.testing.assert_array_equal(*found)
    # Codes go with the weights, not with the engine.
    a, b = (read_codes(Path(f"{name}.npy")).header for name in ("onnxruntime", "torch"))
    assert a is not None
    assert b is not None
    assert a.weights_sha256 == b.weights_sha256
    assert tree(Path("onnxruntime")) == tree(Path("torch"))


def test_codes_of_another_model_are_decoded_with_a_warning(capfd, run, pics):
    assert vqtrt("encode", pics, "--out", "codes.npy") == 0
    facts = json.loads(Path("codes.json").read_text())
    Path("codes.json").write_text(json.dumps(facts | {"weights_sha256": "0" * 64}))
    capfd.readouterr()
    assert vqtrt("decode", "codes.npy", "--out", "back") == 0
    assert "warning: another model made codes.npy: runs/tiny" in capfd.readouterr().err


def test_options_of_encode(capfd, run, pics):
    (pics / "zz.png").write_text("hello")
    args = ["encode", pics, "--out", "codes.npy"]
    assert vqtrt(*args) == 1
    assert "--on-error skip" in capfd.readouterr().err
    assert not Path("codes.npy").exists()
    more = ["--size", "24x32", "--batch-size", 2, "--workers", 1, "--on-error", "skip"]
    assert vqtrt(*args, *more) == 0
    err = capfd.readouterr().err
    summary = "wrote 5 rows to codes.npy, 1 rejected (see the .json): 1 .png: no known image format"
    assert summary in err
    assert np.load("codes.npy").shape == (5, 6, 8)
    assert [entry.file for entry in read_codes(Path("codes.npy")).rejected] == ["zz.png"]


def test_encode_resumes(capfd, run, pics, monkeypatch):
    (pics / "zz.png").write_text("hello")
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
    args = ["encode", pics, "--out", "codes.npy", "--batch-size", 2]
    assert vqtrt(*args) == 1
    err = capfd.readouterr().err
    assert "the first 4 items are kept in codes.npy.partial; --resume continues" in err
    assert vqtrt(*args, "--on-error", "skip", "--resume") == 0
    assert "resumed after 4 files" in capfd.readouterr().err
    assert vqtrt("encode", pics, "--out", "whole.npy", "--on-error", "skip") == 0
    assert Path("codes.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert Path("codes.json").read_bytes() == Path("whole.json").read_bytes()


def test_splits_and_arrays(run):
    assert vqtrt("encode", "shapes:7", "--out", "shapes.npy") == 0
    assert len(np.load("shapes.npy")) == 7
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    np.save("images.npy", images)
    assert vqtrt("encode", "images.npy", "--out", "codes.npy") == 0
    assert vqtrt("decode", "codes.npy", "--out", "back") == 0
    assert tree(Path("back")) == [f"images.npy[{i}].png" for i in range(3)]


def test_eval(capfd, run, pics):
    assert vqtrt("eval", pics, "--json", "--grid", "grid.png") == 0
    out, _ = capfd.readouterr()
    figures = json.loads(out)
    assert out.count("\n") == 1
    assert {"mse", "nmse", "psnr", "ssim", "perplexity", "usage"} < set(figures)
    assert figures["images"] == 5
    assert Path("grid.png").stat().st_size > 100
    assert vqtrt("eval", pics) == 0
    out, _ = capfd.readouterr()
    assert f"psnr          {figures['psnr']:.6g}" in out.splitlines()


def test_bench(capfd, run, pics):
    assert vqtrt("bench", "encode", pics, "--json", "--repeat", 1) == 0
    out, _ = capfd.readouterr()
    figures = json.loads(out)
    assert out.count("\n") == 1
    stages = ["decode", "engine", "end_to_end", "bound", "eager_loop"]
    assert all(figures[f"{stage}_images_per_second"] > 0 for stage in stages)
    assert figures["peak_rss_bytes"] > 0


def test_info(capfd, run, pics):
    assert vqtrt("encode", pics, "--out", "codes.npy") == 0
    for path, what in [(run, "run"), (run / "bundle", "bundle"), ("codes.npy", "codes")]:
        capfd.readouterr()
        assert vqtrt("info", path, "--json") == 0
        out, err = capfd.readouterr()
        assert json.loads(out)["what"] == what
        assert err == ""
        assert vqtrt("info", path) == 0
        first, *rest = capfd.readouterr().out.splitlines()
        assert first.split() == ["what", what]
        assert rest


def test_shapes(capfd):
    assert vqtrt("shapes", "pics", "--num", 12) == 0
    assert "wrote 12 pictures into pics" in capfd.readouterr().err
    assert len(list(Path("pics").rglob("*.png"))) == 12


def test_which_model(capfd, tiny_run, run, pics, monkeypatch):
    def chosen(*options: object) -> str:
        assert vqtrt("encode", pics, "--out", "codes.npy", *options) == 0
        return capfd.readouterr().err.splitlines()[0]

    assert chosen() == "model: runs/tiny (newest under runs)"
    # A run without weights is newer, and of no use.
    Path("runs/begun").mkdir()
    shutil.copy(tiny_run / "config.yaml", "runs/begun")
    assert chosen() == "model: runs/tiny (newest under runs)"
    shutil.copytree(tiny_run, "runs/other")
    os.utime("runs/other/model.safetensors", ns=(time.time_ns() + 10**12,) * 2)
    assert chosen() == "model: runs/other (newest under runs)"
    monkeypatch.setenv("VQTRT_MODEL", "runs/other")
    assert chosen() == "model: runs/other ($VQTRT_MODEL)"
    assert chosen("--model", "runs/tiny") == "model: runs/tiny (named)"
    alone = shutil.copytree(tiny_run / "bundle", "alone")
    assert chosen("--model", alone) == "model: alone (named)"


def test_engine_names_are_those_of_the_engines():
    assert tuple(name.value for name in EngineName) == ENGINES


def test_unknown_options_are_typer_s_business(capfd):
    assert vqtrt("encode", "--zork") == 2
    assert vqtrt("zork") == 2
    assert vqtrt("encode", "pics", "--out", "c.npy", "--batch-size", "0") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_sidecars_are_counted_and_patterns_choose(
    capfd: pytest.CaptureFixture[str], run: Path, pics: Path
) -> None:
    for name in ("a/1.json", "a/1.txt", "b/2.json", "stats.parquet", "Thumbs.db", "a/._1.png"):
        (pics / name).write_bytes(b"\0" * 8)
    (pics / "a/zz.png").write_text("no image")
    args = ["encode", pics, "--out", "codes.npy", "--on-error", "skip"]
    assert vqtrt(*args, "--exclude", "b", "--include", "*.png", "--json") == 0
    out, err = capfd.readouterr()
    over = {".json": 1, ".txt": 1, ".parquet": 1, "system": 2, "excluded": 1}
    rejected = {"rejected": 1, "rejected_kinds": {".png: no known image format": 1}}
    expected = {"out": "codes.npy", "rows": 3, "passed_over": over}
    assert encoded(out) == expected | rejected
    assert "passed over 6 files: 2 system, 1 .json, 1 .parquet, 1 .txt, 1 excluded" in err
    assert read_codes(Path("codes.npy")).files == ("a/1.png", "a/2.png", "c.png")
    # The same patterns for eval, and for training, which keeps them with the run.
    (pics / "a/zz.png").unlink()
    assert vqtrt("eval", pics, "--exclude", "b", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert (figures["images"], figures["passed_over"]) == (3, over)
    assert vqtrt("eval", "shapes:5", "--exclude", "b") == 1
    assert "is no folder or tar of images" in capfd.readouterr().err
    chosen = ("--exclude", "b", "--include", "*.png")
    assert vqtrt("train", "--data", pics, "--out", "r", *chosen, *settings()) == 0
    data = load_config(Path("r/config.yaml")).data
    assert (data.include, data.exclude) == (("*.png",), ("b",))
