"""Opening one file as the commands do: `vqtrt.open_image` and `vqtrt.open_audio`.

A picture that is opened in another way (Pillow's `convert("RGB")`, a reader of audio) often comes
to other codes: orientation, transparency, 16 bits, large JPEGs and resampling all matter.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.data.audio.decode import Audio, AudioPreprocessing
    from vqtrt.data.images.source import Images
    from vqtrt.images.tokenizer import ImageTokenizer


def open_image(
    path: str | Path, preprocessing: "Preprocessing | ImageTokenizer | None" = None
) -> "Images":
    """An image file as uint8 RGB, bit for bit what `vqtrt encode` reads.

    Returns (height, width, 3) of the preprocessing, or of the tokenizer whose preprocessing it is;
    without one, the image's own size. Stack several for `ImageTokenizer.encode`. Safe to call from
    several threads. Raises `ImageError` for a file that cannot be read.
    """
    from vqtrt.data.images.decode import decode_image

    if preprocessing is None or isinstance(preprocessing, Preprocessing):
        return decode_image(Path(path), preprocessing)
    size = preprocessing.preprocessing
    if not isinstance(size, Preprocessing):
        raise VqtrtError("the model is of audio: open its recordings with vqtrt.open_audio")
    return decode_image(Path(path), size)


def open_audio(path: str | Path, preprocessing: "AudioPreprocessing | AudioTokenizer") -> "Audio":
    """A recording as float32 mono samples (T,), bit for bit what `vqtrt encode` reads.

    At the rate and level of the preprocessing, or of the tokenizer whose preprocessing it is. Safe
    to call from several threads. Raises `AudioError` for a file that cannot be read,
    `ModuleNotFoundError` without the extra `speech`.
    """
    from vqtrt.data.audio.decode import AudioPreprocessing, read_audio

    if isinstance(preprocessing, AudioPreprocessing):
        return read_audio(Path(path), preprocessing)
    how = preprocessing.preprocessing
    if not isinstance(how, AudioPreprocessing):
        raise VqtrtError("the model is of images: open them with vqtrt.open_image")
    return read_audio(Path(path), how)
