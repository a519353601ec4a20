import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_speech_runs import NAMES, align, copy_talk, refused, wavs
from doubles import BLOCKED, vqtrt
from PIL import Image

from vqtrt.formats.audio_codes import read_clip_codes


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def talk(speech_data) -> Path:
    return copy_talk(speech_data)


@pytest.fixture
def conv(tiny_speech, monkeypatch) -> Path:
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_speech))
    return tiny_speech


@pytest.fixture
def wavenet(tiny_wavenet, monkeypatch) -> Path:
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_wavenet))
    return tiny_wavenet


def test_probe(capfd, conv, talk):
    args = ["probe", talk, "--alignments", align(talk), "--train-split", 0.5]
    assert vqtrt(*args, "--json", "--picture", "probe.png") == 0
    out, _ = capfd.readouterr()
    figures = json.loads(out)
    assert out.count("\n") == 1
    assert {"accuracy", "most_frequent", "shuffled", "accuracy_without_silence"} < set(figures)
    assert (figures["phones"], figures["rejected"]) == (2, 0)
    assert (figures["train_utterances"], figures["test_utterances"]) == (2, 2)
    assert 0 <= figures["accuracy"] <= 1
    with Image.open("probe.png") as image:
        assert image.width > 300
    assert vqtrt(*args) == 0
    assert "accuracy  " in capfd.readouterr().out
    assert vqtrt(*args, "--by", "speaker", "--seed", 3, "--json") == 0
    assert json.loads(capfd.readouterr().out)["test_utterances"] == 2
    assert vqtrt(*args, "--by", "word") == 2


def test_probe_of_another_tier(capfd, conv, talk):
    args = ["probe", talk, "--alignments", align(talk, "segments"), "--train-split", 0.5]
    assert "phones" in refused(capfd, *args)
    assert vqtrt(*args, "--tier", "segments", "--json") == 0
    assert json.loads(capfd.readouterr().out)["phones"] == 2


def test_probe_passes_over_what_has_no_alignment(capfd, conv, talk):
    align(talk)
    Path("aligned", NAMES[0]).with_suffix(".TextGrid").unlink()
    args = ["probe", talk, "--alignments", "aligned", "--train-split", 0.5]
    assert "no 000.TextGrid below aligned" in refused(capfd, *args)
    assert vqtrt(*args, "--on-error", "skip", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["rejected"] == 1
    assert "rejected ann/000.wav: " in err


@pytest.mark.parametrize("kind", ["conv", "wavenet"])
def test_eval(capfd, request, talk, kind):
    request.getfixturevalue(kind)
    assert vqtrt("eval", talk, "--json", "--grid", "grid.png") == 0
    out, _ = capfd.readouterr()
    figures = json.loads(out)
    assert out.count("\n") == 1
    assert {"log_mel_db", "log_mel_nmse", "snr_db", "perplexity", "usage"} < set(figures)
    assert (figures["clips"], figures["rejected"]) == (4, 0)
    assert (figures["codes_per_second"], figures["bits_per_second"]) == (250, 1000)
    assert figures["log_mel_db"] > 0
    assert (figures["snr_db"] is None) == (kind == "wavenet")
    with Image.open("grid.png") as image:
        assert image.width > 800
    assert vqtrt("eval", talk, "--speaker", "ann", "--json") == 0
    assert json.loads(capfd.readouterr().out)["log_mel_db"] != figures["log_mel_db"]


# In a process of its own


def test_inference_needs_only_the_base_and_a_runtime(tiny_speech, talk):
    bundle = shutil.copytree(tiny_speech / "bundle", "alone")
    align(talk)
    code = f"""{BLOCKED}
for args in (
    ["encode", "talk", "--out", "codes.npy"],
    ["decode", "codes.npy", "--out", "back"],
    ["convert", "talk", "--speaker", "ann", "--out", "anns"],
    ["probe", "talk", "--alignments", "aligned", "--train-split", "0.5"],
    ["eval", "talk", "--json"],
    ["info", "{bundle}"],
):
    sys.argv = ["vqtrt", *args]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, args
assert not GONE & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"VQTRT_MODEL": str(bundle)},
    )
    assert done.returncode == 0, done.stderr
    assert len(wavs("back")) == len(wavs("anns")) == 4


def test_patterns_choose_recordings(
    capfd: pytest.CaptureFixture[str], conv: Path, talk: Path
) -> None:
    Path(talk, "ann/._000.wav").write_bytes(b"\0")
    chosen = ["--include", "ann", "--exclude", Path(NAMES[0]).name, "--json"]
    over = {"system": 1, "excluded": 1, "not included": 2}
    left = [name for name in NAMES if name.startswith("ann/")][1:]
    assert vqtrt("encode", talk, "--out", "codes.npy", *chosen) == 0
    assert json.loads(capfd.readouterr().out)["passed_over"] == over
    assert list(read_clip_codes(Path("codes.npy")).files) == left
    assert vqtrt("convert", talk, "--speaker", "bob", "--out", "bobs", *chosen) == 0
    assert json.loads(capfd.readouterr().out)["passed_over"] == over
    assert list(wavs("bobs")) == [f"bobs/{name}" for name in left]
    assert vqtrt("eval", talk, *chosen) == 0
    figures = json.loads(capfd.readouterr().out)
    assert (figures["clips"], figures["passed_over"]) == (len(left), over)
    args = ["probe", talk, "--alignments", align(talk), "--train-split", 0.5]
    assert vqtrt(*args, "--include", "ann", "--json") == 0
    figures = json.loads(capfd.readouterr().out)
    assert figures["train_utterances"] + figures["test_utterances"] == len(left) + 1
    # One recording is no folder to choose from.
    assert "choose from a folder" in refused(
        capfd, "encode", Path(talk, NAMES[0]), "--out", "c.npy", "--include", "*"
    )
