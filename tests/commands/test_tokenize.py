"""`vqtrt encode PATH…` of several folders and files, of images and of audio."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from cli_speech_runs import copy_talk
from doubles import tree, vqtrt, write_pictures

from vqtrt.formats.audio_codes import read_clip_codes
from vqtrt.formats.codes import read_codes
from vqtrt.system import interrupts


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def pictures(tiny_run, monkeypatch) -> None:
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_run))
    write_pictures(Path("a"), "x/1.png", "x/2.png", "y/1.png")
    write_pictures(Path("b"), "y/1.png", "z/1.png")
    write_pictures(Path(), "one.png")


@pytest.mark.usefixtures("pictures")
def test_folders_and_a_file_of_images(capfd):
    for path in ("a", "b", "one.png"):
        assert vqtrt("encode", path, "-o", f"{Path(path).stem}.npy", "-b", 2) == 0
    assert vqtrt("encode", "a", "b", "one.png", "-o", "all.npy", "-b", 4) == 0
    assert "wrote 6 rows to all.npy" in capfd.readouterr().err
    codes = read_codes(Path("all.npy"))
    assert codes.files == (
        "a/x/1.png",
        "a/x/2.png",
        "a/y/1.png",
        "b/y/1.png",
        "b/z/1.png",
        "one.png",
    )
    assert codes.header.classes == ("x", "y", "z")
    assert list(codes.labels) == [0, 0, 1, 1, 2, -1]
    each = np.concatenate([np.load(f"{name}.npy") for name in ("a", "b", "one")])
    np.testing.assert_array_equal(codes.codes, each)
    assert vqtrt("decode", "all.npy", "-o", "out") == 0
    assert {"a/x/1.png", "b/z/1.png", "one.png"} < set(tree(Path("out")))


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["a", "a"], "a: is given twice"),
        (["a", "none"], "none: no such file or folder"),
        (["a", "b", "-o", "b/codes.npy"], "whose files are encoded"),
    ],
)
def test_mistakes_with_several(capfd, paths, message):
    before = tree(Path())
    out = [] if "-o" in paths else ["-o", "codes.npy"]
    assert vqtrt("encode", *paths, *out) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]
    assert tree(Path()) == before


@pytest.mark.usefixtures("pictures")
def test_several_resume_as_one_job(capfd):
    assert vqtrt("encode", "a", "b", "-o", "codes.npy") == 0
    assert vqtrt("encode", "a", "b", "-o", "codes.npy", "--resume") == 0
    assert "complete already: 5 rows" in capfd.readouterr().err


def test_folders_and_a_file_of_audio(capfd, speech_data, tiny_speech, monkeypatch):
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_speech))
    talk = copy_talk(speech_data)
    (one, *_), folders = sorted(talk.glob("ann/*")), [talk / "ann", talk / "bob"]
    assert vqtrt("encode", *folders, "-o", "codes.npy", "--json") == 0
    assert json.loads(capfd.readouterr().out)["rows"] == 4
    codes = read_clip_codes(Path("codes.npy"))
    assert {name.partition("/")[0] for name in codes.files} == {"ann", "bob"}
    assert vqtrt("encode", one, talk / "bob", "-o", "other.npy") == 0
    other = read_clip_codes(Path("other.npy"))
    assert other.files[0] == one.name
    np.testing.assert_array_equal(other.clip(0), codes.clip(0))


def test_a_signal_that_a_library_turned_into_its_own_interrupt(tiny_run, monkeypatch, capfd):
    """Ray, for one, raises a plain `KeyboardInterrupt` for any signal."""
    write_pictures(Path("pics"), "1.png")

    def interrupted(*_, **__):
        monkeypatch.setattr(interrupts._State, "number", signal.SIGTERM)
        raise KeyboardInterrupt

    monkeypatch.setattr("vqtrt.images.encode.read_batches", interrupted)
    assert vqtrt("encode", "pics", "-o", "codes", "-m", tiny_run) == 128 + signal.SIGTERM
    assert "interrupted by SIGTERM" in capfd.readouterr().err
