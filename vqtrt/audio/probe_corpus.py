"""The phone probe of a corpus: recordings through a tokenizer, and their alignments beside them."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from vqtrt.audio.encode import encoded_clips
from vqtrt.audio.probe import Probe, Split, Utterance, code_phones, probe
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.alignments import Alignments
from vqtrt.data.audio.open import AudioSource
from vqtrt.data.reading import OnError
from vqtrt.errors import AudioError


class SpeechProbe(NamedTuple):
    """What was found, and what could not be used."""

    probe: Probe
    rejected: tuple[tuple[str, str], ...]
    """Names of recordings, each with the reason."""


def probe_source(
    tokenizer: AudioTokenizer,
    source: AudioSource,
    alignments: Path,
    *,
    tier: str = "phones",
    split: Split | None = None,
    workers: int,
    on_error: OnError = "stop",
    progress: Callable[[int], None] = lambda done: None,
) -> SpeechProbe:
    """Encode the recordings of a source and probe their codes, as `probe` does.

    `alignments` is the folder of their TextGrids (see `Alignments`), whose `tier` counts;
    `progress` is called with the number of recordings done. Raises `AudioError` for the first
    recording that cannot be read, or has no alignment that fits it; with `on_error="skip"` it is
    rejected instead. Raises `VqtrtError` as `probe`, and before any recording is read where the
    source has nothing to split.
    """
    found = Alignments(alignments, tier)
    split = split or Split()
    split.train([(item.name, item.label) for item in source.items()])
    rate, stride = tokenizer.preprocessing.sample_rate, tokenizer.stride
    utterances, rejected = list[Utterance](), list[tuple[str, str]]()
    how = tokenizer.preprocessing
    clips = encoded_clips(tokenizer, source, how, workers=workers, on_error=on_error)
    # Threads stop at an error, too, and not only when its traceback is gone.
    with closing(clips):
        for done, clip in enumerate(clips, 1):
            item, error = clip.item, clip.error
            if clip.codes is not None:
                try:
                    intervals = found.read(item.name, clip.samples / rate)
                    phones = code_phones(intervals, clip.samples, stride, rate)
                    utterances.append(Utterance(item.name, item.label, clip.codes, phones))
                except AudioError as unfit:
                    if on_error == "stop":
                        raise
                    error = unfit
            if error is not None:
                rejected.append((item.name, str(error)))
            progress(done)
    return SpeechProbe(probe(utterances, tokenizer.codebook_size, split), tuple(rejected))
