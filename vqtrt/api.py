"""What `import vqtrt` gives: open a model, open files as the commands do, sample from a prior.

An image that is opened in another way (Pillow's `convert("RGB")`, a reader of audio) often comes
to other codes: orientation, transparency, 16 bits, large JPEGs and resampling all matter.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.config.location import find_model
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.priors import find_prior, prior_name
from vqtrt.errors import VqtrtError
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.tokenizer import ImageTokenizer

if TYPE_CHECKING:
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.data.audio.decode import Audio, AudioPreprocessing
    from vqtrt.data.images.source import Images


def load(
    path: str | Path | None = None,
    *,
    engine: str = "auto",
    precision: str = "fp32",
    device: int = 0,
    threads: int | None = None,
    trust_engines: bool = False,
    batch_size: int | None = None,
) -> Any:
    """Open a run or a bundle as a tokenizer: an `ImageTokenizer` or an `AudioTokenizer`.

    Args:
        path: A run or a bundle; None for `$VQTRT_MODEL`, else the newest run under ./runs.
        engine: `auto` (the fastest that works here), `tensorrt`, `tensorrt-rtx`,
            `onnxruntime-cuda`, `onnxruntime` or `torch`.
        precision: Precision of the graphs: `fp32`, or `fp16` or `bf16` if they were exported.
        device: Index of the GPU; engines on the CPU ignore it.
        threads: Largest number of CPU threads for one run of a graph; None for all usable cores.
        trust_engines: Also load TensorRT plans that this machine did not build. They run as code.
        batch_size: Largest number of items in one engine call; None for 64 images or 16 clips.
            Codes do not depend on it.

    Raises:
        VqtrtError: If there is no such model or engine, or they do not fit together.
    """
    found = find_model(path)
    options = EngineOptions(engine, precision, device, threads, trust_engines)
    opened = open_engine(found, options)
    if opened.speech is None:
        return ImageTokenizer(
            opened, batch_size=64 if batch_size is None else batch_size, location=found
        )
    from vqtrt.audio.tokenizer import AudioTokenizer

    return AudioTokenizer(
        opened, batch_size=16 if batch_size is None else batch_size, location=found
    )


def open_image(
    path: str | Path, preprocessing: "Preprocessing | ImageTokenizer | None" = None
) -> "Images":
    """Open an image file as uint8 RGB, bit for bit what `vqtrt encode` reads.

    Args:
        path: JPEG, PNG, WebP, or another format that Pillow reads.
        preprocessing: Size and filter, or the tokenizer whose preprocessing it is; None for the
            image's own size.

    Returns:
        uint8 (height, width, 3). Stack several for `ImageTokenizer.encode`.

    Raises:
        ImageError: If the file cannot be read.

    Safe to call from several threads.
    """
    from vqtrt.data.images.decode import decode_image

    if preprocessing is None or isinstance(preprocessing, Preprocessing):
        return decode_image(Path(path), preprocessing)
    size = preprocessing.preprocessing
    if not isinstance(size, Preprocessing):
        raise VqtrtError("the model is of audio: open its recordings with vqtrt.open_audio")
    return decode_image(Path(path), size)


def open_audio(path: str | Path, preprocessing: "AudioPreprocessing | AudioTokenizer") -> "Audio":
    """Open a recording as float32 mono samples in [-1, 1], bit for bit what `vqtrt encode` reads.

    Args:
        path: wav, flac, ogg, mp3, or another format that libsndfile reads.
        preprocessing: Sample rate and level, or the tokenizer whose preprocessing it is.

    Returns:
        float32 (T,), at the rate of the preprocessing.

    Raises:
        AudioError: If the file cannot be read.
        ModuleNotFoundError: Without the extra `speech`.

    Safe to call from several threads.
    """
    from vqtrt.data.audio.decode import AudioPreprocessing, read_audio

    if isinstance(preprocessing, AudioPreprocessing):
        return read_audio(Path(path), preprocessing)
    how = preprocessing.preprocessing
    if not isinstance(how, AudioPreprocessing):
        raise VqtrtError("the model is of images: open them with vqtrt.open_image")
    return read_audio(Path(path), how)


def sample(
    model: "str | Path | ImageTokenizer | AudioTokenizer | None" = None,
    num: int = 16,
    *,
    prior: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    label: str | int | None = None,
    shape: tuple[int, int] | None = None,
    seconds: float | None = None,
    speaker: str | None = None,
    decode: bool = True,
) -> "NDArray[np.uint8] | NDArray[Any] | list[NDArray[Any]]":
    """Sample new images or clips from a prior: those that `vqtrt sample` gives.

    Args:
        model: A tokenizer, or what `load` takes.
        num: Number of samples.
        prior: Name of the prior; None for the only one.
        temperature: Divides the logits; 0 takes the most likely code.
        top_k: Sample from the K most likely codes only; None for all.
        top_p: Keep the smallest set of codes whose probability reaches this.
        seed: Seed of the noise. Sample i of a seed is the same whatever `num` is.
        label: Images: class, by name or number; None goes through the classes in turn.
        shape: Images: grid of codes (h, w); None for the one that the prior was trained on.
        seconds: Audio: length of a clip; None for 2.
        speaker: Audio: speaker of all clips, by name; None goes through the speakers in turn.
        decode: False for the codes in place of images or audio.

    Returns:
        uint8 (num, H, W, 3) for images, a list of float32 (T,) for audio. Without `decode`, codes
        (num, h, w[, C]), or a list of codes (t,).

    Raises:
        VqtrtError: If the model has no such prior, or an argument is out of range or is for
            another kind of model.
    """
    tokenizer = load(model) if model is None or isinstance(model, str | Path) else model
    engine = tokenizer.engine
    name = prior_name(engine, prior)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    audio = not isinstance(tokenizer, ImageTokenizer)
    others = {"label": label, "shape": shape} if audio else {"seconds": seconds, "speaker": speaker}
    for option, value in others.items():
        if value is not None:
            kinds = ("images", "audio") if audio else ("audio", "images")
            raise VqtrtError(f"{option}: is for {kinds[0]}, and the model is of {kinds[1]}")
    if not isinstance(tokenizer, ImageTokenizer):
        from vqtrt.audio.sample_files import sampled_audio
        from vqtrt.audio.sampler import ClipRequest, sample_clips

        clips = ClipRequest(name, num, 2.0 if seconds is None else seconds, params, speaker)
        drawn = sample_clips(engine, clips, batch_size=tokenizer.batch_size)
        return sampled_audio(engine, clips, drawn) if decode else drawn.codes
    from vqtrt.images.sample import Request, label_number, sample_codes

    text = None if label is None else str(label)
    request = Request(name, num, params, label_number(text, find_prior(engine, name)), shape)
    samples = sample_codes(engine, request, batch_size=min(num, tokenizer.batch_size))
    return tokenizer.decode(samples.codes) if decode else samples.codes
