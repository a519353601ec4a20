import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from doubles import tree, vqtrt, write_pictures
from PIL import Image

from vqtrt.bench import sample as bench_sample
from vqtrt.config.location import find_model
from vqtrt.engines.choose import open_engine
from vqtrt.formats.codes import read_codes
from vqtrt.training import prior_start

SHORT = [
    "prior.layers=2",
    "prior.channels=4",
    "prior.head=4",
    "data.holdout=4",
    "train.steps=4",
    "train.batch_size=4",
    "train.log_every=2",
    "train.evaluate_every=4",
    "train.checkpoint_every=2",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, tiny_prior):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_prior))
    monkeypatch.delenv("RANK", raising=False)


def settings(*more):
    return [part for setting in [*SHORT, *more] for part in ("--set", setting)]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_train_a_prior_and_resume(tiny_run, capfd):
    run = Path("run")
    shutil.copytree(tiny_run, run)
    command = ["train-prior", "--model", run, "--data", "shapes:40"]
    assert vqtrt(*command, "--name", "small", "--workers", 1, *settings()) == 0
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert "training small on run/priors/small.npy, into run/priors/small" in lines
    assert lines[-1] == "trained run/priors/small; next: vqtrt export run"
    assert "small/model.safetensors" in tree(run / "priors")
    assert vqtrt(*command, "--name", "small") == 1
    assert "--resume" in capfd.readouterr().err
    longer = ["--resume", "--set", "train.steps=6"]
    assert vqtrt("train-prior", "--model", run, "--name", "small", *longer) == 0
    assert "resumed at step 4" in capfd.readouterr().err
    # The bundle of before knows nothing of it.
    assert vqtrt("sample", "--model", run, "--prior", "small", "--out", "s") == 1
    assert "vqtrt export" in capfd.readouterr().err.splitlines()[-1]
    assert vqtrt("sample", "-m", run, "--prior", "small", "--out", "s", "--engine", "torch") == 0
    assert len(tree(Path("s"))) == 16


def test_sample_in_all_forms(capfd):
    assert vqtrt("sample", "--num", 5, "--out", "pictures") == 0
    assert vqtrt("sample", "--num", 5, "--out", "s.npy", "--grid", "g.png", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {
        "num": 5,
        "prior": "pixelcnn",
        "seed": 0,
        "written": ["s.npy", "g.png"],
    }
    assert err.splitlines()[-1] == "wrote 5 samples: s.npy, g.png"
    assert vqtrt("decode", "s.npy", "--out", "decoded") == 0
    names = tree(Path("pictures"))
    assert names == tree(Path("decoded")) == [f"sample-{i:06d}.png" for i in range(5)]
    for name in names:
        np.testing.assert_array_equal(pixels(f"pictures/{name}"), pixels(f"decoded/{name}"))
    assert vqtrt("sample", "--num", 5, "--grid", "again.png", "--batch-size", 2) == 0
    assert Path("again.png").read_bytes() == Path("g.png").read_bytes()
    assert vqtrt("sample", "--num", 5, "--grid", "other.png", "--seed", 9) == 0
    assert Path("other.png").read_bytes() != Path("g.png").read_bytes()


def test_sample_with_options():
    options = ["--label", 1, "--temperature", 0.8, "--top-k", 8, "--top-p", 0.9, "--shape", "3x4"]
    assert vqtrt("sample", "--num", 3, "--out", "s.npy", *options) == 0
    codes = read_codes(Path("s.npy"))
    assert codes.codes.shape == (3, 3, 4)
    assert codes.labels == (1, 1, 1)
    assert vqtrt("sample", "--num", 1, "--out", "n.npy", "--label", codes.header.classes[1]) == 0
    assert read_codes(Path("n.npy")).labels == (1,)


def test_completion():
    assert vqtrt("encode", "shapes:3", "--split", "test", "--out", "given.npy") == 0
    options = ["--prefix", "given.npy", "--rows", 2, "--num", 6]
    assert vqtrt("sample", *options, "--out", "whole.npy") == 0
    given, whole = np.load("given.npy"), np.load("whole.npy")
    np.testing.assert_array_equal(whole[:, :2], given[np.arange(6) % len(given), :2])


def test_eval_of_a_prior(tiny_prior, capfd):
    codes = tiny_prior / "priors" / "pixelcnn.npy"
    found = []
    for data in (codes, "shapes:200"):
        command = ["eval", data, "--split", "train", "--prior", "pixelcnn", "--json"]
        assert vqtrt(*command) == 0
        found.append(json.loads(capfd.readouterr().out))
    assert found[0] == found[1]
    assert 0 < found[0]["bits_per_code"] < 4.5
    assert vqtrt("eval", "shapes:20", "--prior", "other") == 1
    assert "no prior 'other'" in capfd.readouterr().err


def test_verify_has_the_priors(capfd):
    assert vqtrt("verify", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["priors"]["pixelcnn"]["passed"] is True


def test_bench_sample(tiny_prior, capfd, monkeypatch):
    # Its own random prior takes seconds to export; test_bench_sample.py has that.
    opened = open_engine(find_model(tiny_prior))
    monkeypatch.setattr(bench_sample, "random_prior", lambda *_, **__: (opened, "pixelcnn"))
    command = ["bench", "sample", "--batch-size", 2, "--repeat", 1, "--json"]
    assert vqtrt(*command, "--model", ".") == 1
    small = ["--layers", 2, "--channels", 4, "--shape", "3x4"]
    assert vqtrt(*command, *small) == 0
    figures = json.loads(capfd.readouterr().out)
    assert (figures["shape"], figures["layers"], figures["naive_positions"]) == ([3, 4], 2, 12)


def test_bench_sample_of_a_model(tiny_prior, capfd):
    command = ["bench", "sample", "--batch-size", 2, "--repeat", 1, "--json"]
    assert vqtrt(*command, "--model", tiny_prior) == 0
    assert json.loads(capfd.readouterr().out)["shape"] == [4, 4]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to write"),
        (["--grid", "no/g.png"], "no such folder"),
        (["--out", "o", "--prior", "other"], "no prior 'other'"),
        (["--out", "o", "--label", "nonsense"], "no such class"),
        (["--out", "o", "--label", "99"], "label 99"),
        (["--out", "o", "--shape", "8"], "expected HxW"),
        (["--out", "o", "--shape", "0x8"], "expected HxW"),
        (["--out", "o", "--shape", "-1x8"], "expected HxW"),
        (["--out", "o", "--shape", "64x64"], "shape 64x64"),
        (["--out", "o", "--top-k", "0"], "top-k 0"),
        (["--out", "o", "--top-p", "0"], "top-p 0"),
        (["--out", "o", "--temperature", "nan"], "temperature nan"),
        (["--out", "o", "--temperature", "-1"], "temperature -1"),
        (["--out", "o", "--seed", "-1"], "seed -1"),
        (["--out", "o", "--rows", "1"], "--prefix"),
        (["--out", "o", "--prefix", "none.npy", "--rows", "1"], "none.npy"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(args, message, capfd):
    assert vqtrt("sample", *args) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]
    assert tree(Path()) == []


def test_train_prior_errors(tmp_path, tiny_prior, tiny_prior2, capfd):
    codes = tiny_prior2 / "priors" / "pixelcnn.npy"
    alone = shutil.copytree(tiny_prior / "bundle", tmp_path / "alone")
    for args, message in (
        (["--name", "../x"], "--name"),
        (["nonsense"], "no recipe 'nonsense'"),
        (["--set", "prior.layer=3", "--name", "x"], "prior.layers"),
        (["--set", "prior.kernel=4", "--name", "x"], "odd"),
        (["--data", codes, "--name", "x"], "another tokenizer"),
        (["--model", alone], "is a bundle"),
        (["--name", "pixelcnn"], "exists already"),
        (["--name", "x", "--resume"], "nothing to resume"),
    ):
        assert vqtrt("train-prior", *args) == 1
        assert message in capfd.readouterr().err.splitlines()[-1]
    assert [path.name for path in (tiny_prior / "priors").iterdir() if path.is_dir()] == [
        "pixelcnn"
    ]


def test_train_prior_says_what_it_skipped(
    tiny_run: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(tiny_run, "run"))
    write_pictures(Path("data"), "a.png", "b.png", "c.png")
    Path("data/b.png").write_bytes(b"no picture")
    monkeypatch.setattr(prior_start, "train_planned", lambda planned, *rest, **more: planned)
    command = ["train-prior", "--model", run, "--data", "data", "--workers", 1, *settings()]
    assert vqtrt(*command) == 1
    assert "--on-error skip" in capfd.readouterr().err
    assert vqtrt(*command, "--on-error", "skip") == 0
    err = capfd.readouterr().err
    assert "skipped 1 files that cannot be read: 1 .png: " in err
    assert "see run/priors/pixelcnn.json" in err


@pytest.mark.parametrize("out", ["file", "file/out", "nowhere/codes.npy", "folder.npy"])
def test_out_is_looked_at_before_anything_is_drawn(monkeypatch, capfd, out):
    def draw(*args, **options):
        raise AssertionError("draws")

    Path("file").touch()
    Path("folder.npy").mkdir()
    monkeypatch.setattr("vqtrt.images.sample.sample_codes", draw)
    assert vqtrt("sample", "--num", 2, "--out", out) == 1
    assert out.partition("/")[0] in capfd.readouterr().err.splitlines()[-1]
