"""The phone probe of a corpus: recordings through a tokenizer, and their alignments beside them."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from vqtrt.data.alignments import Alignments
from vqtrt.data.batches import OnError
from vqtrt.data.clips import Audio, Clip, CountedBlocks, read_clips
from vqtrt.data.source import Item
from vqtrt.data.speech import SpeechSource
from vqtrt.errors import AudioError
from vqtrt.probe import Probe, Split, Utterance, code_phones, probe
from vqtrt.speech_tokenizer import SpeechTokenizer

_WINDOW = 4
"""Batches of recordings that are sorted by length among themselves."""

Phones = tuple[str | None, ...]


class SpeechProbe(NamedTuple):
    """What was found, and what could not be used."""

    probe: Probe
    rejected: tuple[tuple[str, str], ...]
    """Names of recordings, each with the reason."""


def probe_speech(
    tokenizer: SpeechTokenizer,
    source: SpeechSource,
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
    waiting: list[tuple[Item, Audio, Phones]] = []

    def phones(item: Item, samples: int) -> Phones:
        intervals = found.read(item.name, samples / rate)
        return code_phones(intervals, samples, stride, rate)

    def encode_waiting() -> None:
        encoded = tokenizer.encode([audio for _, audio, _ in waiting])
        for (item, _, labels), codes in zip(waiting, encoded, strict=True):
            utterances.append(Utterance(item.name, item.label, codes, labels))
        waiting.clear()

    def add(clip: Clip) -> None:
        if clip.error is not None:
            raise clip.error
        if clip.audio is not None:
            waiting.append((clip.item, clip.audio, phones(clip.item, len(clip.audio))))
        elif clip.blocks is not None:
            counted = CountedBlocks(clip.blocks)
            codes = tokenizer.encode_blocks(counted)
            labels = phones(clip.item, counted.samples)
            encode_waiting()
            utterances.append(Utterance(clip.item.name, clip.item.label, codes, labels))

    window = _WINDOW * tokenizer.batch_size
    clips = read_clips(
        source,
        tokenizer.preprocessing,
        most=tokenizer.chunk * stride,
        ahead=window,
        workers=workers,
    )
    # Threads stop at an error, too, and not only when its traceback is gone.
    with closing(clips):
        for done, clip in enumerate(clips, 1):
            try:
                add(clip)
            except AudioError as error:
                if on_error == "stop":
                    raise
                rejected.append((clip.item.name, str(error)))
            if len(waiting) == window:
                encode_waiting()
            progress(done)
    encode_waiting()
    return SpeechProbe(probe(utterances, tokenizer.codebook_size, split), tuple(rejected))
