"""The public names of `vqtrt`: each does what the command of its kind does."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_speech_runs import copy_talk
from doubles import FakeEngine, tree, vqtrt, write_pictures
from PIL import Image

import vqtrt as package
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import read_clip_codes


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


def test_every_public_name_has_a_docstring():
    for name in package.__all__:
        if name == "__version__":
            continue
        made = getattr(package, name)
        assert inspect.getdoc(made), name
        if inspect.isclass(made):
            for member, value in vars(made).items():
                if not member.startswith("_") and callable(value):
                    assert inspect.getdoc(value), f"{name}.{member}"


def test_importing_it_needs_nothing_heavy():
    program = (
        "import sys, vqtrt; print(sorted({'numpy', 'torch', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "[]\n"
    with pytest.raises(AttributeError):
        package.nothing  # noqa: B018


def test_load_opens_images_and_audio(tiny_run, tiny_speech):
    images, audio = package.load(tiny_run), package.load(tiny_speech, batch_size=3)
    assert isinstance(images, package.ImageTokenizer)
    assert isinstance(audio, package.AudioTokenizer)
    assert (images.batch_size, audio.batch_size) == (64, 3)
    assert (images.location.run, audio.location.run) == (tiny_run, tiny_speech)
    threaded = package.load(tiny_run, engine="onnxruntime", threads=1)
    assert threaded.engine.num_streams == 1
    with pytest.raises(VqtrtError, match="no engine 'gpu'"):
        package.load(tiny_run, engine="gpu")


def test_images_there_and_back_in_streams(tiny_run):
    tokenizer = package.load(tiny_run, batch_size=2)
    paths = sorted(write_pictures(Path("a"), "1.png", "2.png", "3.png", size=(20, 24)).glob("*"))
    images = [tokenizer.open_image(path) for path in paths]
    np.testing.assert_array_equal(images[0], package.open_image(paths[0], tokenizer))
    codes = tokenizer.encode(np.stack(images))
    streamed = list(tokenizer.encode_stream(iter(images)))
    np.testing.assert_array_equal(np.stack(streamed), codes)
    decoded = list(tokenizer.stream(iter(streamed)))
    np.testing.assert_array_equal(np.stack(decoded), tokenizer.decode(codes))


def test_encode_files_of_images_writes_what_the_command_writes(tiny_run):
    write_pictures(Path("a"), "x/1.png", "y/2.png", "note.png")
    write_pictures(Path(), "one.png")
    assert vqtrt("encode", "a", "one.png", "-o", "command.npy", "-m", tiny_run) == 0
    done = []
    tokenizer = package.load(tiny_run)
    result = tokenizer.encode_files(
        ["a", "one.png"], "python.npy", progress=lambda count, total: done.append((count, total))
    )
    assert (result.rows, result.rejected, done[-1]) == (4, 0, (4, 4))
    assert Path("python.npy").read_bytes() == Path("command.npy").read_bytes()
    assert Path("python.json").read_text() == Path("command.json").read_text()
    assert tokenizer.encode_files("a", "b.npy", include=["x/*"]).rows == 1
    assert tokenizer.encode_files("a", "b.npy", exclude=["x/*"]).rows == 2
    Path("a/broken.png").write_bytes(b"broken")
    with pytest.raises(package.ImageError):
        tokenizer.encode_files("a", "c.npy")
    assert tokenizer.encode_files("a", "c.npy", on_error="skip", workers=1).rejected == 1


def test_encode_files_writes_shards(tiny_run):
    tokenizer = package.load(tiny_run)
    write_pictures(Path("a"), *(f"{n}.png" for n in range(5)))
    for turn in (1, 0):
        tokenizer.encode_files("a", "shards", shard_size=2, format="parquet", turn=(turn, 2))
    assert (
        vqtrt("encode", "a", "-m", tiny_run, "-o", "b", "--shard-size", 2, "--format", "parquet")
        == 0
    )
    assert tree(Path("shards")) == tree(Path("b"))
    assert len(package.open_codes("shards")) == 5


def test_encode_files_of_audio_writes_what_the_command_writes(speech_data, tiny_speech):
    talk = copy_talk(speech_data)
    assert vqtrt("encode", talk, "-o", "command.npy", "-m", tiny_speech) == 0
    tokenizer = package.load(tiny_speech)
    result = tokenizer.encode_files(talk, "python.npy")
    assert (result.rows, result.rejected) == (4, 0)
    assert Path("python.npy").read_bytes() == Path("command.npy").read_bytes()
    assert Path("python.json").read_text() == Path("command.json").read_text()
    codes = read_clip_codes(Path("python.npy"))
    audio = tokenizer.open_audio(talk / codes.files[0])
    np.testing.assert_array_equal(audio, package.open_audio(talk / codes.files[0], tokenizer))
    np.testing.assert_array_equal(tokenizer.encode(audio), codes.clip(0))


def test_a_tokenizer_that_does_not_know_its_model_writes_no_file():
    write_pictures(Path("a"), "1.png")
    with pytest.raises(VqtrtError, match=r"vqtrt\.load"):
        package.ImageTokenizer(FakeEngine()).encode_files("a", "codes.npy")
    assert not Path("codes.npy").exists()


def test_speakers_by_name(tiny_speech):
    tokenizer = package.load(tiny_speech)
    assert tokenizer.speakers == ("ann", "bob")
    clips = [np.arange(8) % 16, np.arange(5) % 16]
    by_number = tokenizer.decode(clips, [1, 1])
    for speakers in ("bob", ["bob", 1]):
        for made, wanted in zip(tokenizer.decode(clips, speakers), by_number, strict=True):
            np.testing.assert_array_equal(made, wanted)
    for wrong in (None, "cy", ["ann", "cy"]):
        with pytest.raises(VqtrtError, match="ann, bob"):
            tokenizer.decode(clips, wrong)


def test_sample_images_as_the_command_does(tiny_prior):
    command = ["sample", "--num", 5, "--seed", 3, "--top-k", 4, "--label", 1, "-m", tiny_prior]
    options: dict[str, Any] = {"seed": 3, "top_k": 4, "label": 1}
    assert vqtrt(*command, "-o", "out") == 0
    images = package.sample(tiny_prior, 5, **options)
    for path, image in zip(sorted(Path("out").glob("*.png")), images, strict=True):
        with Image.open(path) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image)
    assert vqtrt(*command, "-o", "codes.npy") == 0
    codes = package.sample(package.load(tiny_prior), 5, decode=False, **options)
    np.testing.assert_array_equal(codes, np.load("codes.npy"))
    for wrong in ({"seconds": 1.0}, {"speaker": "ann"}):
        with pytest.raises(VqtrtError, match="is for audio"):
            package.sample(tiny_prior, **wrong)
    with pytest.raises(VqtrtError, match="no prior 'none'"):
        package.sample(tiny_prior, prior="none")


def test_sample_audio_as_the_command_does(tiny_speech_prior):
    command = ["sample", "--num", 3, "--seed", 3, "--seconds", 0.1, "-m", tiny_speech_prior]
    options: dict[str, Any] = {"seed": 3, "seconds": 0.1}
    assert vqtrt(*command, "-o", "out") == 0
    clips = package.sample(tiny_speech_prior, 3, **options)
    for path, clip in zip(sorted(Path("out").glob("*.wav")), clips, strict=True):
        levels, _ = soundfile.read(path, dtype="float32")
        assert levels.shape == clip.shape
        np.testing.assert_allclose(levels, np.clip(clip, -1, 1), atol=2 / 32768)
    assert vqtrt(*command, "-o", "codes.npy") == 0
    codes = package.sample(package.load(tiny_speech_prior), 3, decode=False, **options)
    np.testing.assert_array_equal(np.concatenate(codes), np.load("codes.npy"))
    with pytest.raises(VqtrtError, match="is for images"):
        package.sample(tiny_speech_prior, label=1)
