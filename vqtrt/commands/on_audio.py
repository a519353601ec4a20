"""What `encode`, `decode`, `eval` and `sample` do with a model of audio.

`on_images.py` has the same functions for a model of images; the commands choose one of the two.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqtrt.commands import terminal
from vqtrt.commands.options import RECORDINGS, DataOptions, SoundOptions, Written, refuse, skippable

if TYPE_CHECKING:
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.config.location import ModelLocation
    from vqtrt.data.audio.decode import AudioPreprocessing
    from vqtrt.data.audio.open import AudioSource
    from vqtrt.engines.base import Engine
    from vqtrt.formats.sampling import SamplingParams
    from vqtrt.jobs.encode import EncodeResult

ITEMS = "recordings"
"""What a codes file holds."""
FILES = "wavs"
"""What `decode` writes."""


def encode(
    model: "ModelLocation",
    engine: "Engine",
    paths: list[str],
    out: Path,
    options: DataOptions,
    *,
    batch_size: int | None,
    resume: bool,
) -> "EncodeResult":
    """Recordings to a codes file."""
    from vqtrt.audio.encode import encode_source
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.commands.bars import counting
    from vqtrt.data.several import open_each

    options.require_audio()
    tokenizer = AudioTokenizer(engine, batch_size=batch_size or RECORDINGS)
    source = open_each(paths, lambda path: open_source(model, path, options))
    tell_speaker(source)
    with counting("encoding") as counter, skippable():
        return encode_source(
            tokenizer,
            source,
            out,
            root=" ".join(paths),
            model=model,
            preprocessing=preprocessing(tokenizer, options.level_db),
            workers=options.num_workers,
            on_error=options.on_error.value,
            resume=resume,
            progress=counter,
        )


def decode(
    engine: "Engine",
    codes: Path,
    out: Path,
    *,
    batch_size: int | None,
    workers: int | None,
    speaker: str | None,
    sound: SoundOptions,
    resume: bool,
    written: Written,
) -> int:
    """Codes to a folder of wavs: how many."""
    from vqtrt.audio.decode import decode_codes
    from vqtrt.commands.bars import counting
    from vqtrt.formats.audio_codes import read_clip_codes
    from vqtrt.formats.origin import warn_of_others

    refuse({"workers": workers}, "images", "audio")
    tokenizer = open_tokenizer(engine, batch_size or RECORDINGS, sound)
    clips = read_clip_codes(codes)
    warn_of_others(codes, clips.header, engine.weights_sha256, terminal.note)
    with counting("decoding") as counter:
        return decode_codes(
            tokenizer,
            clips,
            out,
            speaker=speaker,
            note=terminal.note,
            resume=resume,
            resumed=written.resumed,
            progress=counter,
        )


def evaluate(
    model: "ModelLocation",
    engine: "Engine",
    data: str,
    options: DataOptions,
    *,
    batch_size: int | None,
    speaker: str | None,
    grid: Path | None,
    prior: str | None,
) -> tuple[dict[str, Any], object]:
    """Figures of reconstructions, or of a prior; and the source that was read."""
    from vqtrt.audio.evaluate import evaluate as evaluate_source
    from vqtrt.audio.score import score_data
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.commands.bars import counting

    options.require_audio()
    tokenizer = AudioTokenizer(engine, batch_size=batch_size or RECORDINGS)
    if prior is not None:
        with counting("scoring") as counter:
            figures = score_data(
                tokenizer,
                prior,
                lambda: open_source(model, data, options),
                root=data,
                model=model,
                workers=options.num_workers,
                progress=counter,
            )
        return figures, None
    source = open_source(model, data, options)
    tell_speaker(source)
    with counting("evaluating") as counter, skippable():
        figures = evaluate_source(
            tokenizer,
            source,
            root=data,
            speaker=speaker,
            preprocessing=preprocessing(tokenizer, options.level_db),
            workers=options.num_workers,
            on_error=options.on_error.value,
            grid=grid,
            progress=counter,
        )
    return figures, source


def sample(
    model: "ModelLocation",
    engine: "Engine",
    prior: str,
    num: int,
    params: "SamplingParams",
    out: Path | None,
    options: dict[str, Any],
    *,
    batch_size: int,
) -> None:
    """Samples of a prior, as wavs or as a codes file."""
    from vqtrt.audio.decode import decode_codes
    from vqtrt.audio.sample_files import sampled_codes, write_clip_codes
    from vqtrt.audio.sampler import ClipRequest, sample_clips
    from vqtrt.audio.tokenizer import AudioTokenizer
    from vqtrt.commands.bars import counting

    only = ("grid", "label", "shape", "prefix", "rows")
    refuse({name: options[name] for name in only}, "images", "audio")
    assert out is not None  # noqa: S101 - for mypy: a grid was refused
    seconds = 2.0 if options["seconds"] is None else options["seconds"]
    request = ClipRequest(prior, num, seconds, params, options["speaker"])
    with counting("sampling") as counter:
        samples = sample_clips(engine, request, batch_size=batch_size, progress=counter)
    codes = sampled_codes(engine, request, samples, model, out)
    if out.suffix == ".npy":
        write_clip_codes(codes)
        return
    decoder = AudioTokenizer(engine, batch_size=batch_size, seed=params.seed)
    with counting("decoding") as counter:
        decode_codes(decoder, codes, out, keep=False, progress=counter)


def open_source(model: "ModelLocation", path: str, options: DataOptions) -> "AudioSource":
    """The recordings of a path, with the speakers as the model's run found them."""
    from vqtrt.audio.source import open_recordings

    return open_recordings(model, path, options.speaker_pattern, options.selection)


def open_tokenizer(engine: "Engine", batch_size: int, sound: SoundOptions) -> "AudioTokenizer":
    """The model, with what only a WaveNet decoder takes."""
    from vqtrt.audio.tokenizer import AudioTokenizer

    if engine.speech is not None and engine.speech.decoder == "conv":
        refuse(sound.given(), "a WaveNet decoder", "a conv decoder")
    return AudioTokenizer(
        engine,
        batch_size=batch_size,
        temperature=1.0 if sound.temperature is None else sound.temperature,
        seed=sound.seed or 0,
    )


def preprocessing(
    tokenizer: "AudioTokenizer", level_db: float | None
) -> "AudioPreprocessing | None":
    """The model's preprocessing with the level of `--level-db`; None for its own."""
    from vqtrt.data.audio.decode import AudioPreprocessing

    if level_db is None:
        return None
    return AudioPreprocessing(sample_rate=tokenizer.preprocessing.sample_rate, level_db=level_db)


def tell_speaker(source: "AudioSource") -> None:
    """Say if one speaker stands for all recordings."""
    from vqtrt.data.audio.open import speaker_note

    if text := speaker_note(source):
        terminal.note(text)
