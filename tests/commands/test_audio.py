import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_runs import encoded
from cli_speech_runs import NAMES, copy_talk, refused, samples, wavs
from doubles import tree, vqtrt

from vqtrt.formats.audio_codes import read_clip_codes
from vqtrt.jobs import encode as encode_job


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


def test_train_export_and_info(capfd, speech_data, tiny_speech):
    # What `vqtrt train` makes of settings in a file.
    shutil.copy(tiny_speech / "config.yaml", "tiny.yaml")
    shorter = ("train.steps=2", "train.evaluate_every=2", "train.checkpoint_every=2")
    settings = [part for setting in shorter for part in ("--set", setting)]
    assert vqtrt("train", "tiny.yaml", "--data", speech_data, "--out", "run", *settings) == 0
    assert "step 2  held out: " in capfd.readouterr().err
    assert vqtrt("train", "--resume", "--out", "run", "--set", "train.steps=3") == 0
    assert "resumed at step 2" in capfd.readouterr().err
    assert vqtrt("info", "run", "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["what"], facts["kind"], facts["decoder"]) == ("run", "speech", "conv")
    assert (facts["sample_rate"], facts["stride"], facts["codes_per_second"]) == (8000, 32, 250)
    assert (facts["speakers"], facts["codebook_size"]) == (["ann", "bob"], 16)
    assert (facts["steps_planned"], facts["steps_done"], facts["trained"]) == (3, 3, True)
    assert facts["held_out_reconstruction"] > 0
    assert facts["bundle"] is None
    assert vqtrt("export", "run", "--no-verify") == 0
    assert "wrote run/bundle" in capfd.readouterr().err
    assert vqtrt("info", "run/bundle", "--json") == 0
    facts = json.loads(capfd.readouterr().out)
    assert (facts["kind"], facts["decoder"], facts["stride"]) == ("speech", "conv", 32)
    assert (facts["speakers"], facts["codes_per_second"]) == (["ann", "bob"], 250)
    assert set(facts["graphs"]) == {"encoder", "decoder"}
    assert vqtrt("info", "run") == 0
    assert "speakers" in capfd.readouterr().out


def test_encode_and_decode(capfd, conv, talk):
    assert vqtrt("encode", talk, "--out", "codes.npy", "--json") == 0
    out, err = capfd.readouterr()
    nothing = {"rejected": 0, "passed_over": {}, "rejected_kinds": {}}
    assert encoded(out) == {"out": "codes.npy", "rows": 4} | nothing
    *lines, time = err.splitlines()
    assert lines == [
        f"model: {conv} ($VQTRT_MODEL)",
        "engine: onnxruntime",
        "wrote 4 recordings to codes.npy",
    ]
    assert time.startswith("time: read ")
    codes = read_clip_codes(Path("codes.npy"))
    assert list(codes.files) == NAMES
    assert codes.labels == (0, 0, 1, 1)
    assert codes.samples == tuple(len(samples(talk / name)) for name in NAMES)
    assert vqtrt("decode", "codes.npy", "--out", "own", "--json") == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"out": "own", "wavs": 4}
    assert "warning" not in err
    assert tree(Path("own")) == ["ann", *NAMES[:2], "bob", *NAMES[2:]]
    for name in NAMES:
        assert len(samples(Path("own", name))) == len(samples(talk / name))
        assert samples(Path("own", name)).any()
    # In another voice only what was not hers before is another.
    assert vqtrt("decode", "codes.npy", "--out", "ann", "--speaker", "ann") == 0
    own, ann = wavs("own"), wavs("ann")
    same = [own[f"own/{name}"] == ann[f"ann/{name}"] for name in NAMES]
    assert same == [True, True, False, False]
    assert vqtrt("info", "codes.npy", "--json") == 0
    assert json.loads(capfd.readouterr().out)["kind"] == "speech"


def test_engines_agree(conv, talk):
    for engine in ("onnxruntime", "torch"):
        assert vqtrt("encode", talk, "--out", f"{engine}.npy", "--engine", engine) == 0
        assert vqtrt("decode", "onnxruntime.npy", "--out", engine, "--engine", engine) == 0
    np.testing.assert_array_equal(np.load("onnxruntime.npy"), np.load("torch.npy"))
    for name in NAMES:
        ours, theirs = (samples(Path(engine, name)) for engine in ("onnxruntime", "torch"))
        assert np.abs(ours.astype(int) - theirs).max() <= 2


def test_options_of_encode(capfd, conv, talk):
    Path("talk/zz.wav").write_text("hello")
    args = ["encode", talk, "--out", "codes.npy"]
    assert "--on-error skip" in refused(capfd, *args)
    assert not Path("codes.npy").exists()
    more = ["--batch-size", 2, "--workers", 1, "--on-error", "skip"]
    assert vqtrt(*args, *more) == 0
    assert "wrote 4 recordings to codes.npy, 1 rejected (see the .json)" in capfd.readouterr().err
    whole = Path("codes.npy").read_bytes()
    assert [entry.file for entry in read_clip_codes(Path("codes.npy")).rejected] == ["zz.wav"]
    assert vqtrt(*args, *more, "--level-db", -30) == 0
    assert Path("codes.npy").read_bytes() != whole
    header = read_clip_codes(Path("codes.npy")).header
    assert header is not None
    assert header.preprocessing["level_db"] == -30
    pattern = r"0(?P<speaker>\d)\d"
    assert vqtrt(*args, *more, "--speaker-pattern", pattern) == 0
    codes = read_clip_codes(Path("codes.npy"))
    assert codes.header is not None
    assert (codes.header.classes, codes.labels) == (("0",), (0,) * 4)


def test_encode_resumes(capfd, conv, talk, monkeypatch):
    Path("talk/zz.wav").write_text("hello")
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
    args = ["encode", talk, "--out", "codes.npy", "--batch-size", 1]
    assert "the first 4 items are kept in codes.npy.partial" in refused(capfd, *args)
    assert vqtrt(*args, "--on-error", "skip", "--resume") == 0
    assert "resumed after 4 files" in capfd.readouterr().err
    assert vqtrt("encode", talk, "--out", "whole.npy", "--on-error", "skip") == 0
    assert Path("codes.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert Path("codes.json").read_bytes() == Path("whole.json").read_bytes()


def test_speakers_are_found_as_in_training(conv, talk):
    # As FSDD names its recordings; what was trained on was named so, too.
    run = shutil.copytree(conv, Path("run"))
    config = (run / "config.yaml").read_text()
    pattern = "speaker_pattern: '^\\d_(?P<speaker>[a-z]+)_'"
    (run / "config.yaml").write_text(config.replace("speaker_pattern: null", pattern))
    Path("flat").mkdir()
    for digit, name in enumerate(NAMES):
        speaker, _, number = name.partition("/")
        shutil.copy(talk / name, Path("flat", f"{digit}_{speaker}_{number}"))
    found = {}
    for data in ("flat", "talk"):
        assert vqtrt("encode", data, "--out", "codes.npy", "--model", run) == 0
        codes = read_clip_codes(Path("codes.npy"))
        assert codes.header is not None
        found[data] = (codes.header.classes, codes.labels)
    # Where no name says who speaks, the folders do.
    assert found["flat"] == found["talk"] == (("ann", "bob"), (0, 0, 1, 1))
    assert vqtrt("encode", "flat", "--out", "codes.npy", "--model", run / "bundle") == 0


def test_codes_of_another_model_are_decoded_with_a_warning(capfd, conv, talk):
    assert vqtrt("encode", talk, "--out", "codes.npy") == 0
    facts = json.loads(Path("codes.json").read_text())
    Path("codes.json").write_text(json.dumps(facts | {"weights_sha256": "0" * 64}))
    capfd.readouterr()
    assert vqtrt("decode", "codes.npy", "--out", "back") == 0
    assert f"warning: another model made codes.npy: {conv}" in capfd.readouterr().err


def test_a_wavenet_draws_by_seed(wavenet, talk):
    assert vqtrt("encode", talk, "--out", "codes.npy") == 0
    runs = {
        "a": [],
        "b": ["--batch-size", 1, "--seed", 0, "--temperature", 1],
        "c": ["--seed", 1],
        "d": ["--temperature", 0],
        "e": ["--temperature", 0, "--seed", 1],
        "f": ["--speaker", "ann"],
    }
    found = {}
    for out, options in runs.items():
        assert vqtrt("decode", "codes.npy", "--out", out, *options) == 0
        found[out] = [samples(Path(out, name)).tolist() for name in NAMES]
    lengths = [len(samples(talk / name)) for name in NAMES]
    assert [len(each) for each in found["a"]] == lengths
    assert found["a"] == found["b"]
    assert found["a"] != found["c"]
    assert found["d"] == found["e"] != found["a"]
    assert found["f"][:2] == found["a"][:2]
    assert found["f"][2:] != found["a"][2:]


# What makes no sense


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("encode talk --out c.npy --size 32", "--size is for images, and the model is of audio"),
        ("encode talk --out c.npy --split test", "--split is for images"),
        ("eval talk --size 32", "--size is for images"),
        ("eval talk --split all", "--split is for images"),
        ("decode c.npy --out x --workers 2", "--workers is for images"),
        ("decode c.npy --out x --temperature 0.5", "--temperature is for a WaveNet decoder"),
        ("decode c.npy --out x --seed 1", "--seed is for a WaveNet decoder"),
        ("convert talk --speaker ann --out x --seed 0", "--seed is for a WaveNet decoder"),
    ],
)
def test_options_that_are_not_for_speech(capfd, conv, talk, command, message):
    error = refused(capfd, *command.split())
    assert error.startswith(message)
    assert error.endswith(": leave it out")
    assert tree(Path()) == ["talk", *(f"talk/{name}" for name in tree(talk))]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("encode pics --out c.npy --level-db -20", "--level-db is for audio"),
        ("encode pics --out c.npy --speaker-pattern x", "--speaker-pattern is for audio"),
        ("eval pics --speaker ann", "--speaker is for audio"),
        ("decode c.npy --out x --speaker ann", "--speaker is for audio"),
        ("decode c.npy --out x --temperature 0", "--temperature is for audio"),
        ("decode c.npy --out x --seed 0", "--seed is for audio"),
        ("convert pics --speaker ann --out x", "the model is of images"),
        ("probe pics --alignments x", "the model is of images"),
    ],
)
def test_options_that_are_not_for_images(capfd, tiny_run, monkeypatch, command, message):
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_run))
    assert refused(capfd, *command.split()).startswith(message)
    assert tree(Path()) == []


def test_codes_of_the_other_kind(capfd, conv, tiny_run, talk):
    assert vqtrt("encode", talk, "--out", "speech.npy") == 0
    assert vqtrt("encode", "shapes:3", "--out", "images.npy", "--model", tiny_run) == 0
    for name, model in (("speech", tiny_run), ("images", conv)):
        error = refused(capfd, "decode", f"{name}.npy", "--out", "x", "--model", model)
        assert f"{name}." in error
    assert not Path("x").exists()


def test_train_takes_a_speaker_pattern_and_on_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqtrt.training import start as training

    seen = []
    monkeypatch.setattr(
        training, "train_planned", lambda config, *rest, **options: seen.append(config)
    )
    pattern = r"[a-z]+_(?P<speaker>\d)"
    args = ["--out", tmp_path / "run", "--data", "2024", "--speaker-pattern", pattern]
    assert vqtrt("train", "digits", *args, "--on-error", "skip") == 0
    assert vqtrt("train", "digits", *args) == 0
    assert (seen[0].data.path, seen[0].data.speaker_pattern) == ("2024", pattern)
    assert [config.data.on_error for config in seen] == ["skip", "stop"]


def test_encode_says_what_it_passed_over_and_what_would_help(
    capfd: pytest.CaptureFixture[str], conv: Path, talk: Path
) -> None:
    for name in ("y.m4a", "z.webm", "t.wma", "t2.wma"):
        (talk / "ann" / name).write_bytes(bytes(100))
    soundfile.write(talk / "ann" / "v.caf", samples(talk / NAMES[0]), 8000, format="CAF")
    assert vqtrt("encode", talk, "--out", "codes.npy", "--json") == 0
    out, err = capfd.readouterr()
    figures = json.loads(out)
    assert (figures["rows"], figures["passed_over"]) == (5, {".m4a": 1, ".webm": 1, ".wma": 2})
    assert "passed over 4 files: 2 .wma, 1 .m4a, 1 .webm; convert .m4a, .webm, .wma" in err
    assert "ffmpeg -i NAME.m4a NAME.flac" in err
    assert "one speaker" not in err


def test_encode_says_where_one_speaker_stands_for_all(
    capfd: pytest.CaptureFixture[str], conv: Path, talk: Path
) -> None:
    shutil.rmtree(talk / "bob")
    assert vqtrt("encode", talk, "--out", "codes.npy") == 0
    assert "one speaker, ann, stands for all recordings; if their" in capfd.readouterr().err


def test_encode_rejects_channels_that_cancel(
    capfd: pytest.CaptureFixture[str], conv: Path, talk: Path
) -> None:
    tone = np.sin(np.arange(4000) / 5) / 3
    soundfile.write(talk / "anti.wav", np.stack([tone, -tone], 1), 8000)
    args = ["encode", talk, "--out", "codes.npy", "--json"]
    assert "anti.wav: its 2 channels cancel out" in refused(capfd, *args)
    assert vqtrt(*args, "--on-error", "skip") == 0
    out, err = capfd.readouterr()
    figures = json.loads(out)
    assert (figures["rows"], figures["rejected"]) == (4, 1)
    assert [*figures["rejected_kinds"]] == [
        ".wav: its N channels cancel out: their mix is N dB below the loudest of them"
    ]
    assert "1 rejected" in err
