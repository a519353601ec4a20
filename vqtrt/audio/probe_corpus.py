"""The phone probe of a corpus: recordings through a tokenizer, and their alignments beside them."""

from pathlib import Path
from typing import NamedTuple, Unpack

from vqtrt.audio.encode import Encoded, encode_each
from vqtrt.audio.probe import Probe, Split, Utterance, code_phones, probe
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.data.audio.alignments import Alignments
from vqtrt.data.audio.folder import AudioSource
from vqtrt.jobs.encode import EncodeOptions


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
    **options: Unpack[EncodeOptions],
) -> SpeechProbe:
    """Encode the recordings of a source and probe their codes, as `probe` does.

    `alignments` is the folder of their TextGrids (see `Alignments`), whose `tier` counts. Raises
    `AudioError` for the first recording that cannot be read, or has no alignment that fits it; with
    `on_error="skip"` it is rejected instead. Raises `VqtrtError` as `probe`, and before any
    recording is read if the source has nothing to split.
    """
    found = Alignments(alignments, tier)
    split = split or Split()
    split.train([(item.name, item.label) for item in source.items()])
    rate, stride = tokenizer.preprocessing.sample_rate, tokenizer.stride
    utterances = list[Utterance]()

    def align(clip: Encoded) -> None:
        item, samples = clip.item, clip.samples
        phones = code_phones(found.read(item.name, samples / rate), samples, stride, rate)
        utterances.append(Utterance(item.name, item.label, clip.codes, phones))

    rejected = encode_each(tokenizer, source, align, options)
    return SpeechProbe(probe(utterances, tokenizer.codebook_size, split), rejected)
