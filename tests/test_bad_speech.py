"""What goes wrong with speech, through the real entry point: as `test_bad_input.py` for images."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from bad_speech_cases import (
    BAD,
    CASES,
    CONVERT,
    ENCODE,
    EVAL,
    PROBE,
    RATE,
    SECONDS,
    align,
    misaligned,
    not_numbers,
    write,
)
from doubles import tree, vqtrt
from speech_doubles import noise

from vqtrt.formats.audio_codes import read_clip_codes


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch, tiny_speech, tiny_wavenet) -> Path:
    """A newcomer's folder: recordings, a run, two bundles, codes, and alignments."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.delenv("VQTRT_MODEL", raising=False)
    folder = tmp_path / "work"
    ignored = shutil.ignore_patterns("tensorboard", "checkpoints", "reconstructions")
    shutil.copytree(tiny_speech, folder / "runs/tiny", ignore=ignored)
    shutil.copytree(tiny_speech / "bundle", folder / "bundle")
    shutil.copytree(tiny_wavenet / "bundle", folder / "wavenet")
    monkeypatch.chdir(folder)
    for number, (speaker, seconds) in enumerate(zip(("ann", "bob"), SECONDS, strict=True)):
        write(f"talk/{speaker}/{number}.wav", 0.1 * noise(number, round(seconds * RATE)))
        align(f"aligned/{speaker}/{number}.TextGrid", seconds)
    np.save("codes.npy", np.arange(16, dtype=np.uint8))
    Path("file").write_text("hello")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left(capfd, case):
    """One line on standard error after the choices, nothing on standard output, nothing left."""
    case.setup()
    before = tree(Path.cwd().parent)
    capfd.readouterr()
    status = vqtrt(*case.command.split())
    out, err = capfd.readouterr()
    assert out == ""
    *notes, error = err.splitlines()
    assert error.startswith("error: ")
    assert error.isprintable()
    assert re.search(case.message, error), error
    said = ("model: ", "engine: ", "training ", "wrote ")
    assert [note for note in notes if not note.startswith(said)] == []
    assert status == 1
    assert tree(Path.cwd().parent) == before


@pytest.mark.parametrize(("name", "setup", "message"), BAD, ids=[name for name, *_ in BAD])
def test_skip_passes_over_it_with_the_reason(capfd, name, setup, message):
    setup()
    assert vqtrt(*ENCODE.split(), "--on-error", "skip") == 0
    assert "wrote 2 recordings to new.npy, 1 rejected (see the .json)" in capfd.readouterr().err
    found = read_clip_codes(Path("new.npy"))
    assert found.files == ("ann/0.wav", "bob/1.wav")
    ((rejected),) = json.loads(Path("new.json").read_text())["rejected"]
    assert rejected["file"] in ("bad.wav", "bad.flac")
    assert re.search(message, rejected["reason"])
    assert "--on-error" not in rejected["reason"]


def test_the_other_commands_skip(capfd):
    not_numbers()
    assert vqtrt(*CONVERT.split(), "--on-error", "skip") == 0
    assert re.search("rejected bad.wav: .*sample 321 is nan", capfd.readouterr().err)
    assert [path for path in tree(Path("new")) if path.endswith("wav")] == [
        "ann/0.wav",
        "bob/1.wav",
    ]
    Path("talk/bad.wav").rename("talk/ann/bad.wav")
    assert vqtrt(*EVAL.split(), "--on-error", "skip", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert (figures["clips"], figures["rejected"]) == (2, 1)
    misaligned()
    shutil.copy("talk/ann/0.wav", "talk/ann/2.wav")
    align("aligned/ann/2.TextGrid", SECONDS[0])
    assert vqtrt(*PROBE.split(), "--on-error", "skip", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["rejected"] == 2
    assert re.search(r"rejected ann/0.wav: .*ends at 1.70 s, but ann/0.wav lasts 0.30 s", err)


# What works, though it looks as if it would not


def encoded(seconds: float) -> int:
    """How many codes the one recording below `odd` has."""
    assert vqtrt("encode", "odd", "--out", "odd.npy", "--model", "bundle") == 0
    found = read_clip_codes(Path("odd.npy"))
    assert found.samples[0] == pytest.approx(seconds * RATE, abs=1)
    return found.lengths()[0]


def test_96_khz_in_8_channels():
    rng = np.random.default_rng(0)
    write("odd/ann/0.wav", 0.1 * rng.standard_normal((96_000, 8)), 96_000, subtype="PCM_24")
    assert encoded(1.0) == 250


def test_an_mp3_named_wav():
    """It is read by its content."""
    write("odd/ann/0.wav", 0.1 * noise(0, 32_000), 16_000, format="MP3")
    assert vqtrt("encode", "odd", "--out", "odd.npy", "--model", "bundle") == 0
    # An encoder of mp3 may add some silence.
    assert 16_000 <= read_clip_codes(Path("odd.npy")).samples[0] < 18_500


def test_one_sample():
    write("odd/ann/0.wav", np.array([0.5]))
    assert encoded(1 / RATE) == 1


def test_options_out_of_range_are_typer_s_business(capfd):
    assert vqtrt(*ENCODE.split(), "--level-db", "3") == 2
    assert vqtrt("convert", "talk", "--out", "new") == 2
    assert "Traceback" not in capfd.readouterr().err
