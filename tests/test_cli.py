import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from doubles import BLOCKED, tree, vqtrt, write_pictures
from PIL import Image

from vqtrt.commands.options import EngineName
from vqtrt.config.images import load_config
from vqtrt.engines.options import ENGINES
from vqtrt.formats.codes import read_codes
from vqtrt.images import pipeline

TINY = [
    "model.hidden=8",
    "model.residual_blocks=1",
    "model.residual_hidden=4",
    "model.quantizer.codebook_size=8",
    "model.quantizer.dim=4",
    "data.preprocessing.height=16",
    "data.preprocessing.width=16",
    "data.workers=1",
    "train.steps=4",
    "train.batch_size=4",
    "train.log_every=2",
    "train.evaluate_every=4",
    "train.checkpoint_every=2",
]
NAMES = ["a/1.png", "a/2.png", "b/1.png", "b/2.bmp", "c.png"]


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


def settings(*more: str) -> list[str]:
    return [part for setting in [*TINY, *more] for part in ("--set", setting)]


def test_train_then_resume(capfd):
    assert vqtrt("train", "shapes", "--data", "shapes:30", *settings()) == 0
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "training shapes on shapes:30, into runs/shapes"
    assert lines[-1] == "trained runs/shapes; next: vqtrt export runs/shapes"
    assert sum(line.startswith("step ") for line in lines) == 3
    # A second one does not touch the first.
    weights = Path("runs/shapes/model.safetensors").read_bytes()
    assert vqtrt("train", "--data", "shapes:30", *settings("train.steps=2")) == 0
    assert "into runs/shapes-2" in capfd.readouterr().err
    assert Path("runs/shapes/model.safetensors").read_bytes() == weights
    # Without --out, the newest goes on.
    assert vqtrt("train", "--resume", "--set", "train.steps=6") == 0
    assert "resumed at step 2" in capfd.readouterr().err
    assert vqtrt("info", "runs/shapes-2", "--json") == 0
    assert json.loads(capfd.readouterr().out)["steps_done"] == 6


def test_a_training_whose_data_cannot_be_read_leaves_no_run(capfd, pics):
    for index in range(30):
        (pics / f"{index}.png").write_text("hello")
    assert vqtrt("train", "--data", pics, *settings()) == 1
    err = capfd.readouterr().err
    assert "not an image that can be read" in err
    assert "--on-error skip passes over such files" in err
    assert tree(Path("runs")) == []


def test_a_run_stopped_before_its_first_checkpoint_can_be_resumed(capfd, monkeypatch):
    assert vqtrt("train", "--data", "shapes:30", *settings()) == 0
    for name in ("checkpoints", "tensorboard", "reconstructions"):
        shutil.rmtree(Path("runs/shapes") / name)
    Path("runs/shapes/model.safetensors").rename("weights")
    assert vqtrt("train", "--resume", "--out", "runs/shapes") == 0
    assert "resumed" not in capfd.readouterr().err
    assert Path("runs/shapes/model.safetensors").read_bytes() == Path("weights").read_bytes()
    # But weights without a checkpoint are never trained over.
    shutil.rmtree("runs/shapes/checkpoints")
    assert vqtrt("train", "--resume", "--out", "runs/shapes") == 1
    assert "no checkpoint to resume from" in capfd.readouterr().err


@pytest.mark.slow
def test_export_and_verify(capfd, tiny_run, run):
    assert vqtrt("export", "--out", "bundle", "--json") == 0
    out, err = capfd.readouterr()
    figures = json.loads(out)
    assert out.count("\n") == 1
    assert figures["passed"] is True
    assert "wrote bundle" in err
    assert tree(Path("bundle")) == ["bundle.json", "decoder.onnx", "encoder.onnx"]
    assert sorted(path.name for path in Path().iterdir()) == ["bundle", "runs"]
    # The same run gives the same graphs.
    for name in ("encoder.onnx", "decoder.onnx"):
        assert Path("bundle", name).read_bytes() == (tiny_run / "bundle" / name).read_bytes()
    assert "as before" not in err
    assert vqtrt("export", "--out", "bundle", "--no-verify") == 0
    assert "wrote bundle; 2 of its 2 graphs are as before" in capfd.readouterr().err


@pytest.mark.parametrize("engine", ["auto", "onnxruntime", "torch"])
def test_verify(capfd, run, engine):
    assert vqtrt("verify", "--engine", engine, "--limit", 70, "--json") == 0
    out, _ = capfd.readouterr()
    figures = json.loads(out)
    assert {"code_agreement", "decoder_max_abs_diff", "batch_invariance"} < set(figures)
    assert figures["code_agreement"] == 1
    assert figures["batch_invariance"] == 1
    assert figures["decoder_max_abs_diff"] <= 1
    assert figures["images"] == 70
    assert figures["engine"] == ("torch" if engine == "torch" else "onnxruntime")


def test_precision(capfd, half_run, tiny_run, pics):
    half = ("--precision", "fp16")
    assert vqtrt("verify", half_run, "--limit", 5, "--json", *half) == 0
    assert json.loads(capfd.readouterr().out)["precision"] == "fp16"
    found = []
    for precision in ("fp32", "fp16"):
        arguments = ("--model", half_run, "--precision", precision)
        assert vqtrt("encode", pics, "--out", f"{precision}.npy", *arguments) == 0
        assert vqtrt("decode", "fp32.npy", "--out", precision, *arguments) == 0
        found.append(np.load(f"{precision}.npy"))
    assert (found[0] == found[1]).mean() > 0.9
    assert vqtrt("encode", pics, "--out", "c.npy", "--model", tiny_run, *half) == 1
    assert "no fp16 graphs: type `vqtrt export" in capfd.readouterr().err
    assert vqtrt("encode", pics, "--out", "c.npy", "--precision", "fp8") == 2


def test_export_of_more_precisions(capfd, tiny_run):
    wanted = ("--precision", "fp16", "--precision", "bf16")
    assert vqtrt("export", tiny_run, "--out", "bundle", "--json", *wanted) == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["passed"] is figures["fp16"]["passed"] is True
    assert (figures["precision"], figures["fp16"]["precision"]) == ("fp32", "fp16")
    # Nothing on a CPU runs it.
    assert figures["bf16"] is None
    files = ["decoder.onnx", "encoder.onnx"]
    for folder in ("bf16", "fp16"):
        assert tree(Path("bundle", folder)) == files
    assert sorted(path.name for path in Path("bundle").glob("*.onnx")) == files


def test_verify_fails_loudly(capfd, run, monkeypatch):
    from vqtrt.engines.onnxruntime import OnnxRuntimeEngine

    honest = OnnxRuntimeEngine.open

    def lying(self, graph):
        opened = honest(self, graph)
        return lambda array: (opened(array) + 1) % 16 if graph == "encoder" else opened(array)

    monkeypatch.setattr(OnnxRuntimeEngine, "open", lying)
    assert vqtrt("verify", "--limit", 5, "--json") == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["passed"] is False
    assert json.loads(out)["code_agreement"] == 0
    assert err.splitlines()[-1].startswith("error: verification failed")


def test_encode_and_decode(capfd, run, pics):
    assert vqtrt("encode", pics, "--out", "codes.npy", "--json") == 0
    out, err = capfd.readouterr()
    nothing = {"rejected": 0, "passed_over": {}, "rejected_kinds": {}}
    assert json.loads(out) == {"out": "codes.npy", "rows": 5} | nothing
    assert err.splitlines() == [
        "model: runs/tiny (newest under runs)",
        "engine: onnxruntime",
        "wrote 5 rows to codes.npy",
    ]
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
    monkeypatch.setattr(pipeline, "_COMMIT_SECONDS", -1)
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


# In a process of its own


def python(code: str, *args: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_help_imports_nothing_heavy():
    code = """
import sys
from vqtrt.cli import main
sys.argv = ["vqtrt", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "onnxruntime", "onnx", "accelerate", "safetensors", "tensorboard"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "encode" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_inference_needs_only_the_base_and_a_runtime(tiny_bundle, pics):
    bundle = shutil.copytree(tiny_bundle, "alone")
    code = f"""{BLOCKED}
for args in (
    ["encode", "pics", "--out", "codes.npy"],
    ["decode", "codes.npy", "--out", "back"],
    ["eval", "pics", "--json"],
    ["info", "{bundle}"],
    ["info", "codes.npy"],
    ["bench", "encode", "pics", "--repeat", "1", "--json"],
):
    sys.argv = ["vqtrt", *args]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, args
assert not GONE & set(sys.modules)
"""
    done = python(code, env=os.environ | {"VQTRT_MODEL": str(bundle)})
    assert done.returncode == 0, done.stderr
    assert len(np.load("codes.npy")) == 5
    assert len(list(Path("back").rglob("*.png"))) == 5


@pytest.mark.parametrize("args", [["train"], ["export"], ["verify"]])
def test_what_needs_torch_says_so(tiny_run, run, args):
    code = f"""{BLOCKED}
sys.argv = ["vqtrt", *sys.argv[1:]]
main()
"""
    done = python(code, *args)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert 'pip install "vqtrt[train]"' in last
    assert "Traceback" not in done.stderr


def test_json_is_all_there_is_on_standard_output(tiny_bundle, pics):
    done = subprocess.run(
        [sys.executable, "-m", "vqtrt", "eval", "pics", "--model", tiny_bundle, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["images"] == 5
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_how_to_go_on(tiny_bundle, number):
    # Slow enough that it cannot be done before the interrupt comes. A shell's background jobs
    # ignore interrupts, and so would this one, if the tests were one.
    code = """
import signal, sys, time
from vqtrt import cli, pipeline
signal.signal(signal.SIGINT, signal.default_int_handler)
def slowly(*args, **options):
    for batch in read(*args, **options):
        time.sleep(0.1)
        yield batch
read, pipeline.read_batches = pipeline.read_batches, slowly
pipeline._COMMIT_SECONDS = -1
sys.argv = ["vqtrt", *sys.argv[1:]]
cli.main()
"""
    args = ["encode", "shapes:50000", "--out", "codes.npy", "--model", str(tiny_bundle)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *args], stderr=subprocess.PIPE, text=True, env=os.environ
    ) as job:
        try:
            journal, deadline = Path("codes.npy.partial.jsonl"), time.monotonic() + 50
            # The second: an interrupt within the first may come before the writer counts it.
            while not (journal.exists() and journal.read_bytes().count(b'{"commit"') > 1):
                assert job.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            job.send_signal(number)
            _, err = job.communicate(timeout=50)
        finally:
            job.kill()
    assert job.returncode == 128 + number
    last = err.splitlines()[-1]
    by = "" if number == signal.SIGINT else " by SIGTERM"
    assert last.startswith(f"error: interrupted{by}; the first ")
    assert last.endswith("items are kept in codes.npy.partial; --resume continues")
    assert not Path("codes.npy").exists()


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
    assert json.loads(out) == expected | rejected
    assert "passed over 6 files: 2 system, 1 .json, 1 .parquet, 1 .txt, 1 excluded" in err
    assert read_codes(Path("codes.npy")).files == ("a/1.png", "a/2.png", "c.png")
    # The same patterns for eval, and for training, which keeps them with the run.
    (pics / "a/zz.png").unlink()
    assert vqtrt("eval", pics, "--exclude", "b", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert (figures["images"], figures["passed_over"]) == (3, over)
    assert vqtrt("eval", "shapes:5", "--exclude", "b") == 1
    assert "is no folder of images" in capfd.readouterr().err
    chosen = ("--exclude", "b", "--include", "*.png")
    assert vqtrt("train", "--data", pics, "--out", "r", *chosen, *settings()) == 0
    data = load_config(Path("r/config.yaml")).data
    assert (data.include, data.exclude) == (("*.png",), ("b",))
