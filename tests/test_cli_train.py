import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runs import NAMES, settings
from doubles import tree, vqtrt, write_pictures


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
    assert "--on-error skip" in err
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
    assert "unchanged" not in err
    assert vqtrt("export", "--out", "bundle", "--no-verify") == 0
    assert "wrote bundle; 2 of its 2 graphs are unchanged" in capfd.readouterr().err


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
