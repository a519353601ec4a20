import json
from pathlib import Path

import pytest
from cli_speech_runs import NAMES, copy_talk, refused, wavs
from doubles import vqtrt


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


def test_convert(capfd, conv, talk):
    assert vqtrt("convert", talk, "--speaker", "bob", "--out", "bobs", "--json") == 0
    out, err = capfd.readouterr()
    expected = {"out": "bobs", "recordings": 4, "speaker": "bob", "rejected": []}
    expected |= {"passed_over": {}, "rejected_kinds": {}}
    assert json.loads(out) == expected
    assert err.splitlines()[-1] == "wrote 4 recordings as bob: bobs"
    # What encode and decode give, one after the other.
    assert vqtrt("encode", talk, "--out", "codes.npy") == 0
    assert vqtrt("decode", "codes.npy", "--out", "both", "--speaker", "bob") == 0
    assert list(wavs("bobs").values()) == list(wavs("both").values())
    one = talk / NAMES[0]
    assert vqtrt("convert", one, "--speaker", "bob", "--out", "one.wav") == 0
    assert Path("one.wav").read_bytes() == Path("bobs", NAMES[0]).read_bytes()
    assert not Path("one.json").exists()


def test_convert_with_a_wavenet(wavenet, talk):
    args = ["convert", talk, "--speaker", "ann"]
    assert vqtrt(*args, "--out", "a", "--seed", 3, "--batch-size", 2) == 0
    assert vqtrt("encode", talk, "--out", "codes.npy") == 0
    assert vqtrt("decode", "codes.npy", "--out", "b", "--speaker", "ann", "--seed", 3) == 0
    assert list(wavs("a").values()) == list(wavs("b").values())


def test_convert_passes_over_what_cannot_be_read(capfd, conv, talk):
    Path("talk/zz.wav").write_text("hello")
    args = ["convert", talk, "--speaker", "bob", "--out", "bobs"]
    assert "--on-error skip" in refused(capfd, *args)
    assert not Path("bobs").exists()
    assert vqtrt(*args, "--on-error", "skip", "--json") == 0
    out, err = capfd.readouterr()
    ((entry),) = json.loads(out)["rejected"]
    assert entry["file"] == "zz.wav"
    assert "zz.wav: is no audio that can be read" in entry["reason"]
    assert "rejected zz.wav: " in err
    assert sorted(wavs("bobs")) == [f"bobs/{name}" for name in NAMES]
