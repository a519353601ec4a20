import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from doubles import BLOCKED, tree, vqtrt
from PIL import Image
from textgrids import write_textgrid

from vqtrt.audio import pipeline as speech_pipeline
from vqtrt.formats.audio_codes import read_clip_codes

NAMES = ["ann/000.wav", "ann/002.wav", "bob/001.wav", "bob/003.wav"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def talk(speech_data) -> Path:
    """A few recordings of two speakers."""
    for name in NAMES:
        Path("talk", name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(speech_data / name, Path("talk", name))
    return Path("talk")


@pytest.fixture
def conv(tiny_speech, monkeypatch) -> Path:
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_speech))
    return tiny_speech


@pytest.fixture
def wavenet(tiny_wavenet, monkeypatch) -> Path:
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_wavenet))
    return tiny_wavenet


def samples(path: object) -> np.ndarray:
    levels, rate = soundfile.read(path, dtype="int16")
    assert rate == 8000
    return levels


def wavs(folder: str) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*.wav"))}


def refused(capfd, *args: object) -> str:
    """The one line of an error, without what was said before it."""
    capfd.readouterr()
    assert vqtrt(*args) == 1
    out, err = capfd.readouterr()
    assert out == ""
    *notes, error = err.splitlines()
    assert error.startswith("error: ")
    assert all(note.startswith(("model: ", "engine: ", "warning: ")) for note in notes)
    return error.removeprefix("error: ")


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
    assert json.loads(out) == {"out": "codes.npy", "rows": 4} | nothing
    assert err.splitlines() == [
        f"model: {conv} ($VQTRT_MODEL)",
        "engine: onnxruntime",
        "wrote 4 recordings to codes.npy",
    ]
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
    assert "--on-error skip passes over such files" in refused(capfd, *args)
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
    monkeypatch.setattr(speech_pipeline, "_COMMIT_SECONDS", -1)
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
    assert "--on-error skip passes over such files" in refused(capfd, *args)
    assert not Path("bobs").exists()
    assert vqtrt(*args, "--on-error", "skip", "--json") == 0
    out, err = capfd.readouterr()
    ((entry),) = json.loads(out)["rejected"]
    assert entry["file"] == "zz.wav"
    assert "zz.wav: is no audio that can be read" in entry["reason"]
    assert "rejected zz.wav: " in err
    assert sorted(wavs("bobs")) == [f"bobs/{name}" for name in NAMES]


def align(talk: Path, tier: str = "phones") -> Path:
    for name in NAMES:
        seconds = len(samples(talk / name)) / 8000
        middle = seconds / 2
        path = Path("aligned", name).with_suffix(".TextGrid")
        write_textgrid(path, [(0, middle, "AH0"), (middle, seconds, "sil")])
        path.write_text(path.read_text().replace('"phones"', f'"{tier}"'))
    return Path("aligned")


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


# What makes no sense


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("encode talk --out c.npy --size 32", "--size is for images, and the model is of speech"),
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
        ("encode pics --out c.npy --level-db -20", "--level-db is for speech"),
        ("encode pics --out c.npy --speaker-pattern x", "--speaker-pattern is for speech"),
        ("eval pics --speaker ann", "--speaker is for speech"),
        ("decode c.npy --out x --speaker ann", "--speaker is for speech"),
        ("decode c.npy --out x --temperature 0", "--temperature is for speech"),
        ("decode c.npy --out x --seed 0", "--seed is for speech"),
        ("convert pics --speaker ann --out x", "a model of images, where one of speech is wanted"),
        ("probe pics --alignments x", "a model of images, where one of speech is wanted"),
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


def test_train_takes_a_speaker_pattern_and_on_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqtrt.training import any as training

    seen = []
    monkeypatch.setattr(training, "train_any", lambda config, *rest, **options: seen.append(config))
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
