"""What codes of speech know of phones: the phone probe of van den Oord et al. 2017, section 4.3.

Each code value stands for the phone that it meets most often on a training part of the utterances;
the accuracy is how often that phone is right on the rest. Nothing is learnt but one table.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vqtrt.errors import VqtrtError

SILENCE = "sil"
SILENCES = frozenset({SILENCE, "sp", "pau", "h#", "<eps>"})
"""What corpora call silence, in lower case; an interval without text is named `SILENCE`."""


@dataclass(frozen=True)
class Utterance:
    """The codes of one utterance and their phones."""

    name: str
    """By which utterances are split, unique in a corpus."""
    speaker: int
    """-1 where it is not known."""
    codes: NDArray[Any]
    """Integers (t,)."""
    phones: tuple[str | None, ...]
    """One a code; None where the alignment says nothing."""


@dataclass(frozen=True)
class Split:
    """Which utterances the table is made of, and which it is tried on."""

    share: float = 0.9
    """Of each speaker's utterances for training, or of the speakers."""
    by: Literal["utterance", "speaker"] = "utterance"
    seed: int = 0
    """Chooses the part, and the permutation of `Scores.shuffled`."""
    held_out: Collection[str] | None = None
    """Names of those to try it on, in place of a share: what the model was not trained on."""

    def train(self, utterances: Sequence[tuple[str, int]]) -> NDArray[np.bool_]:
        """Which of the utterances (name, speaker) are for training, (n,).

        By a hash of the names, the same on every machine; by utterance, every speaker who has two
        is on both sides. At least one is left on either side. Raises `VqtrtError` where the share
        is no share, or there are not two to split.
        """
        if not 0 < self.share < 1:
            raise VqtrtError(f"training share {self.share}: must be between 0 and 1, such as 0.9")
        if self.held_out is not None:
            mask = np.array([name not in self.held_out for name, _ in utterances], bool)
        elif self.by == "speaker":
            speakers = list(dict.fromkeys(speaker for _, speaker in utterances))
            chosen = _first([str(speaker) for speaker in speakers], self.share, self.seed)
            train = {speaker for speaker, first in zip(speakers, chosen, strict=True) if first}
            mask = np.array([speaker in train for _, speaker in utterances], bool)
        else:
            groups = defaultdict[int, list[int]](list)
            for index, (_, speaker) in enumerate(utterances):
                groups[speaker].append(index)
            mask = np.zeros(len(utterances), bool)
            for indices in groups.values():
                names = [utterances[i][0] for i in indices]
                mask[indices] = _first(names, self.share, self.seed)
        if mask.all() or not mask.any():
            raise VqtrtError(
                f"{np.count_nonzero(mask)} of {len(mask)} utterances to learn from: the probe "
                "needs some, and others to be tried on; give it more speech"
            )
        return mask


@dataclass(frozen=True)
class Scores:
    """Shares of the held-out codes whose phone is right, 0 to 1."""

    accuracy: float
    most_frequent: float
    """What naming the training part's most frequent phone, whatever the code, would reach."""
    shuffled: float
    """What codes reach that were permuted over all places, and so know nothing of the sound."""


@dataclass(frozen=True)
class Probe:
    """What a probe found."""

    scores: Scores
    without_silence: Scores | None
    """As `scores`, with silence left out of both parts; None where no phone is a silence."""
    phones: tuple[str, ...]
    """All labels, sorted; silence is one of them."""
    counts: NDArray[np.int64]
    """(K, phones): how often each code met each phone on the training part."""
    most_frequent_phone: str
    utterances: tuple[int, int]
    """Of the training part, and of the rest."""
    codes: tuple[int, int]
    """Codes with a phone, of the training part and of the rest."""
    unlabelled: int
    """Codes of both parts for which the alignments have no phone."""

    @property
    def code_phones(self) -> tuple[str, ...]:
        """The phone that each code stands for, (K,)."""
        return tuple(self.phones[i] for i in _table(self.counts))

    def probabilities(self) -> NDArray[np.float64]:
        """P(phone | code) on the training part, (K, phones); rows of codes that never occur are 0.

        All other rows sum to 1.
        """
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.asarray(self.counts / np.maximum(totals, 1), dtype=np.float64)

    def figures(self) -> dict[str, float | int | str | None]:
        """Everything but the tables, ready for JSON."""
        figures: dict[str, float | int | str | None] = {}
        for end, scores in (("", self.scores), ("_without_silence", self.without_silence)):
            for name in ("accuracy", "most_frequent", "shuffled"):
                figures[name + end] = getattr(scores, name) if scores else None
        return figures | {
            "most_frequent_phone": self.most_frequent_phone,
            "phones": len(self.phones),
            "codebook_size": len(self.counts),
            "codes_used": int(np.count_nonzero(self.counts.sum(axis=1))),
            "train_utterances": self.utterances[0],
            "test_utterances": self.utterances[1],
            "train_codes": self.codes[0],
            "test_codes": self.codes[1],
            "unlabelled_codes": self.unlabelled,
        }


def code_phones(
    intervals: Sequence[tuple[float, float, str]], samples: int, stride: int, sample_rate: int
) -> tuple[str | None, ...]:
    """The phone at the middle of each code's samples, of a clip of `samples`: (⌈samples/stride⌉,).

    `intervals` are (start, end, text), in seconds and ascending; a start belongs to its interval,
    an end to the next one. The last code's middle is that of the samples it has. None where there
    is no interval.
    """
    firsts = np.arange(0, samples, stride)
    middles = (firsts + np.minimum(firsts + stride, samples)) / 2 / sample_rate
    starts = np.array([start for start, _, _ in intervals])
    at = np.searchsorted(starts, middles, side="right") - 1
    return tuple(
        (intervals[i][2].strip() or SILENCE) if i >= 0 and middle < intervals[i][1] else None
        for i, middle in zip(at.tolist(), middles.tolist(), strict=True)
    )


def probe(utterances: Sequence[Utterance], codebook_size: int, split: Split | None = None) -> Probe:
    """Probe codes 0 to `codebook_size` − 1 for phones.

    A code that training never met stands for the most frequent phone. Raises `VqtrtError` as
    `Split.train`, and where a part has no code with a phone.
    """
    split = split or Split()
    train = split.train([(u.name, u.speaker) for u in utterances])
    phones = tuple(sorted({p for u in utterances for p in u.phones if p is not None}))
    index = {phone: i for i, phone in enumerate(phones)} | {None: -1}
    codes = np.concatenate([np.asarray(u.codes, np.int64) for u in utterances])
    labels = np.array([index[p] for u in utterances for p in u.phones], np.int64)
    trains = np.repeat(train, [len(u.codes) for u in utterances])
    known = labels >= 0
    if not trains[known].any() or trains[known].all():
        raise VqtrtError(
            "no phones for the training part, or for the rest; check that the alignments belong to "
            "the speech"
        )
    shape = codebook_size, len(phones)
    data = codes[known], labels[known], trains[known]
    silent = [i for i, phone in enumerate(phones) if phone.lower() in SILENCES]
    spoken = ~np.isin(data[1], silent)
    without = None
    if silent and data[2][spoken].any() and not data[2][spoken].all():
        without = _score(data[0][spoken], data[1][spoken], data[2][spoken], shape, split.seed)
    counts = _count(data[0][data[2]], data[1][data[2]], shape)
    first = int(np.count_nonzero(train))
    training = int(np.count_nonzero(data[2]))
    return Probe(
        scores=_score(*data, shape, split.seed),
        without_silence=without,
        phones=phones,
        counts=counts,
        most_frequent_phone=phones[int(counts.sum(axis=0).argmax())],
        utterances=(first, len(train) - first),
        codes=(training, len(data[2]) - training),
        unlabelled=int(np.count_nonzero(~known)),
    )


def _first(names: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Mark a share of the names, those of the smallest hashes; where there are two, not all."""
    hashes = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    wanted = min(max(1, round(share * len(names))), max(1, len(names) - 1))
    marked = np.zeros(len(names), bool)
    marked[sorted(range(len(names)), key=lambda i: hashes[i])[:wanted]] = True
    return marked


def _count(
    codes: NDArray[np.int64], labels: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.int64]:
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, (codes, labels), 1)
    return counts


def _table(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The index of each code's phone, (K,)."""
    most = counts.sum(axis=0).argmax()
    table = np.where(counts.any(axis=1), counts.argmax(axis=1), most)
    return np.asarray(table, dtype=np.int64)


def _score(
    codes: NDArray[np.int64],
    labels: NDArray[np.int64],
    train: NDArray[np.bool_],
    shape: tuple[int, int],
    seed: int,
) -> Scores:
    """Scores of codes (n,) with phones (n,), of which `train` (n,) are for training."""
    truth = labels[~train]

    def accuracy(codes: NDArray[np.int64]) -> float:
        named = _table(_count(codes[train], labels[train], shape))[codes[~train]]
        return float((named == truth).mean())

    permuted = np.random.Generator(np.random.Philox(seed)).permutation(codes)
    return Scores(accuracy(codes), accuracy(np.zeros_like(codes)), accuracy(permuted))
