import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from doubles import FakeEngine, vqtrt
from numpy.typing import NDArray
from PIL import Image
from speech_doubles import FakeSpeechEngine

import vqtrt as package
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.location import find_model
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.choose import open_engine
from vqtrt.errors import AudioError, ImageError, VqtrtError
from vqtrt.formats.audio_codes import read_clip_codes
from vqtrt.formats.codes import read_codes
from vqtrt.images.tokenizer import ImageTokenizer


def photo(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    smooth = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)
    noisy = smooth + rng.integers(-30, 30, smooth.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are read differently by `Image.open(path).convert("RGB")`."""
    folder = tmp_path_factory.mktemp("pictures")
    large, small = Image.fromarray(photo(500, 350)), photo(64, 64)
    exif = large.getexif()
    exif[0x0112] = 6
    large.save(folder / "rotated.jpg", exif=exif)
    large.save(folder / "large.jpg", quality=92)
    large.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(small[..., 0].astype(np.uint16) * 257).save(folder / "gray16.png")
    Image.fromarray(np.dstack([small, small[..., :1]])).save(folder / "transparent.png")
    Image.fromarray(small).quantize(16).save(folder / "palette.png", transparency=3)
    Image.fromarray(small).convert("L").save(folder / "gray.webp")
    Image.fromarray(small).save(folder / "plain.bmp")
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other rates, channels and formats than the model's 8 kHz."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    time = np.arange(11025) / 22050
    left = 0.3 * np.sin(2 * np.pi * 440 * time) + 0.01 * rng.normal(size=len(time))
    stereo = np.stack([left, 0.5 * left[::-1]], 1)
    soundfile.write(folder / "stereo.wav", stereo, 22050)
    soundfile.write(folder / "24bit.flac", stereo, 48000, "PCM_24")
    soundfile.write(folder / "vorbis.ogg", left, 44100)
    soundfile.write(folder / "own.wav", left, 8000)
    return folder


def test_an_image_is_opened_as_the_command_does(
    tiny_run: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "codes.npy"
    assert vqtrt("encode", pictures, "--out", out, "--model", tiny_run) == 0
    found = read_codes(out)
    tokenizer = package.load(tiny_run)
    paths = [pictures / name for name in found.files]
    assert len(paths) == 8
    images = np.stack([package.open_image(path, tokenizer) for path in paths])
    np.testing.assert_array_equal(tokenizer.encode(images), found.codes)
    # In another size, as with --size.
    assert vqtrt("encode", pictures, "--out", out, "--model", tiny_run, "--size", "24x32") == 0
    size = tokenizer.preprocessing.with_size("24x32")
    images = np.stack([package.open_image(str(path), size) for path in paths])
    np.testing.assert_array_equal(tokenizer.encode(images), read_codes(out).codes)
    plain = [np.asarray(size(Image.open(path).convert("RGB"))) for path in paths]
    assert sum((a != b).any() for a, b in zip(images, plain, strict=True)) >= 5


def test_a_recording_is_opened_as_the_command_does(
    tiny_speech: Path, recordings: Path, tmp_path: Path
) -> None:
    out = tmp_path / "codes.npy"
    tokenizer = AudioTokenizer(open_engine(find_model(tiny_speech)))
    rate = tokenizer.preprocessing.sample_rate
    levelled = AudioPreprocessing(sample_rate=rate, level_db=-20)
    for options, how in (([], tokenizer), (["--level-db", "-20"], levelled)):
        assert vqtrt("encode", recordings, "--out", out, "--model", tiny_speech, *options) == 0
        found = read_clip_codes(out)
        audio = [package.open_audio(recordings / name, how) for name in found.files]
        assert [len(samples) for samples in audio] == list(found.samples)
        for index, codes in enumerate(tokenizer.encode(audio)):
            np.testing.assert_array_equal(codes, found.clip(index))


def test_without_a_size_an_image_keeps_its_own(pictures: Path) -> None:
    assert package.open_image(pictures / "rotated.jpg").shape == (350, 500, 3)
    assert package.open_image(pictures / "plain.bmp", Preprocessing()).shape == (32, 32, 3)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file"):
        package.open_image(tmp_path / "none.png")
    with pytest.raises(AudioError, match="no such file"):
        package.open_audio(tmp_path / "none.wav", AudioPreprocessing())
    with pytest.raises(VqtrtError, match=r"of audio: .*vqtrt\.open_audio"):
        package.open_image(tmp_path / "a", AudioTokenizer(FakeSpeechEngine()))  # type: ignore[arg-type]
    with pytest.raises(VqtrtError, match=r"of images: .*vqtrt\.open_image"):
        package.open_audio(tmp_path / "a", ImageTokenizer(FakeEngine()))  # type: ignore[arg-type]


def test_the_package_stays_light() -> None:
    code = (
        "import sys, vqtrt; assert 'open_image' in vqtrt.__all__; "
        "assert not {'numpy', 'PIL', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
