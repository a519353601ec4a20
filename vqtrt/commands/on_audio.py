"""What `encode`, `decode`, `eval` and `sample` take from the package `audio`.

`on_images.py` has the same names for images; a command chooses one of the two by its model.
"""

from pathlib import Path

from vqtrt.audio.decode import decode_codes
from vqtrt.audio.encode import encode_source
from vqtrt.audio.evaluate import evaluate
from vqtrt.audio.sample_files import sampled_codes, write_clip_codes
from vqtrt.audio.sampler import ClipRequest, sample_clips
from vqtrt.audio.score import score_codes
from vqtrt.audio.source import open_recordings
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.commands import terminal
from vqtrt.commands.bars import counting
from vqtrt.commands.options import RECORDINGS, DataOptions, SoundOptions, refuse
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.audio.open import speaker_note
from vqtrt.data.several import expanded_paths, open_each
from vqtrt.engines.base import Engine
from vqtrt.formats.sampling import SamplingParams
from vqtrt.formats.shard_codes import read_clips as read_codes

__all__ = [
    "FILES",
    "ITEMS",
    "decode_codes",
    "encode_source",
    "evaluate",
    "open_source",
    "open_tokenizer",
    "preprocessing",
    "read_codes",
    "sample",
    "score_codes",
]
ITEMS = "recordings"
"""What a codes file holds."""
FILES = "wavs"
"""What `decode` writes."""


def open_source(
    model: ModelLocation,
    paths: list[str],
    options: DataOptions,
    split: str | None = None,
    indexes: Path | None = None,
) -> AudioSource:
    """The recordings of one path or several, with the speakers as the model's run found them.

    Says if one speaker stands for all recordings.
    """
    pattern, chosen = options.speaker_pattern, options.selection
    source = open_each(
        expanded_paths(paths), lambda path: open_recordings(model, path, pattern, chosen, indexes)
    )
    if text := speaker_note(source):
        terminal.note(text)
    return source


def open_tokenizer(
    engine: Engine, batch_size: int | None, sound: SoundOptions = SoundOptions()
) -> AudioTokenizer:
    """The model as a tokenizer, with what only a WaveNet decoder takes."""
    if engine.speech is not None and engine.speech.decoder == "conv":
        refuse(sound.given(), "a WaveNet decoder", "a conv decoder")
    return AudioTokenizer(
        engine,
        batch_size=batch_size or RECORDINGS,
        temperature=1.0 if sound.temperature is None else sound.temperature,
        seed=sound.seed or 0,
    )


def preprocessing(tokenizer: AudioTokenizer, options: DataOptions) -> AudioPreprocessing | None:
    """The model's preprocessing with the level of `--level-db`; None for its own."""
    if options.level_db is None:
        return None
    rate = tokenizer.preprocessing.sample_rate
    return AudioPreprocessing(sample_rate=rate, level_db=options.level_db)


def sample(
    model: ModelLocation,
    engine: Engine,
    prior: str,
    num: int,
    params: SamplingParams,
    out: Path,
    batch_size: int,
    *,
    seconds: float = 2.0,
    speaker: str | None = None,
) -> None:
    """Samples of a prior, as wavs or as a codes file."""
    request = ClipRequest(prior, num, seconds, params, speaker)
    with counting("sampling") as counter:
        samples = sample_clips(engine, request, batch_size=batch_size, progress=counter)
    codes = sampled_codes(engine, request, samples, model, out)
    if out.suffix == ".npy":
        write_clip_codes(codes)
        return
    decoder = AudioTokenizer(engine, batch_size=batch_size, seed=params.seed)
    with counting("decoding") as counter:
        decode_codes(decoder, codes, out, keep=False, progress=counter)
