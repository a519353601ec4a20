import json
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
from doubles import tree, vqtrt

from vqtrt.formats.audio_codes import read_clip_codes

SHORT = [
    "prior.layers=2",
    "prior.channels=4",
    "prior.head=4",
    "data.holdout=2",
    "train.steps=4",
    "train.batch_size=4",
    "train.log_every=2",
    "train.evaluate_every=4",
    "train.checkpoint_every=2",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch, tiny_speech_prior):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_speech_prior))
    monkeypatch.delenv("RANK", raising=False)


def settings(*more):
    return [part for setting in [*SHORT, *more] for part in ("--set", setting)]


def samples(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_train_a_prior_and_resume(tiny_speech, speech_data, capfd):
    run = Path("run")
    shutil.copytree(tiny_speech, run)
    command = ["train-prior", "wavenet", "--model", run, "--name", "small", "--workers", 1]
    assert vqtrt(*command, "--data", speech_data, *settings()) == 0
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert "training small on run/priors/small.npy, into run/priors/small" in lines
    assert lines[-1] == "trained run/priors/small; next: vqtrt export run"
    assert "small/model.safetensors" in tree(run / "priors")
    assert vqtrt(*command, "--resume", "--set", "train.steps=6") == 0
    assert "resumed at step 4" in capfd.readouterr().err
    # Without a recipe, the one for speech, on the run's own recordings.
    assert vqtrt("train-prior", "--model", run, *settings("train.steps=2")) == 0
    assert "wavenet/model.safetensors" in tree(run / "priors")


def test_sample_wavs(capfd):
    options = ["--seconds", 0.1, "--num", 5]
    assert vqtrt("sample", "--prior", "wavenet", *options, "--out", "wavs", "--json") == 0
    out, err = capfd.readouterr()
    found = {"num": 5, "prior": "wavenet", "seed": 0, "written": ["wavs"]}
    assert json.loads(out) == found
    assert err.splitlines()[-1] == "wrote 5 samples: wavs"
    names = tree(Path("wavs"))
    assert names == [f"sample-{i:06d}.wav" for i in range(5)]
    clips = [samples(f"wavs/{name}") for name in names]
    assert {len(clip) for clip in clips} == {800}
    assert len({clip.tobytes() for clip in clips}) == 5
    # The same at another batch size, and others with another seed.
    assert vqtrt("sample", *options, "--out", "again", "--batch-size", 2) == 0
    assert vqtrt("sample", *options, "--out", "other", "--seed", 9) == 0
    for name, clip in zip(names, clips, strict=True):
        np.testing.assert_allclose(samples(f"again/{name}"), clip, atol=1)
    assert any((samples(f"other/{n}") != clip).any() for n, clip in zip(names, clips, strict=True))


def test_sample_codes_of_a_speaker():
    options = ["--seconds", 0.2, "--num", 3, "--temperature", 0.9, "--top-k", 8, "--top-p", 0.95]
    assert vqtrt("sample", *options, "--speaker", "bob", "--out", "s.npy") == 0
    codes = read_clip_codes(Path("s.npy"))
    assert codes.lengths() == [50] * 3
    assert codes.samples == (1600,) * 3
    assert [codes.header.classes[label] for label in codes.labels] == ["bob"] * 3
    assert vqtrt("sample", "--num", 1, "--out", "t.npy") == 0
    assert read_clip_codes(Path("t.npy")).samples == (16000,)


def test_eval_of_a_prior(tiny_speech_prior, speech_data, capfd):
    found = []
    for data in (tiny_speech_prior / "priors" / "wavenet.npy", speech_data):
        assert vqtrt("eval", data, "--prior", "wavenet", "--json") == 0
        found.append(json.loads(capfd.readouterr().out))
    assert found[0] == found[1]
    assert 0 < found[0]["bits_per_code"] < 4.5
    assert (found[0]["clips"], found[0]["engine"]) == (24, "torch")
    assert vqtrt("eval", speech_data, "--prior", "other") == 1
    assert "no prior 'other'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to write"),
        (["--grid", "g.png"], "--grid is for images, and the model is of audio"),
        (["--out", "o", "--shape", "8x8"], "--shape is for images"),
        (["--out", "o", "--rows", "0"], "--rows is for images"),
        (["--out", "o", "--label", "1"], "--label is for images"),
        (["--out", "o", "--prefix", "p.npy"], "--prefix is for images"),
        (["--out", "o", "--prior", "other"], "no prior 'other'"),
        (["--out", "o", "--seconds", "0"], "seconds 0"),
        (["--out", "o", "--seconds", "nan"], "seconds nan"),
        (["--out", "o", "--speaker", "dee"], "speaker dee: unknown to the prior 'wavenet'"),
        (["--out", "o", "--top-k", "17"], "top-k 17"),
        (["--out", "o", "--seed", "-1"], "seed -1"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(args, message, capfd):
    assert vqtrt("sample", *args) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]
    assert tree(Path()) == []
