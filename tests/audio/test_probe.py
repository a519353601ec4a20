import json
import math

import numpy as np
import pytest

from vqtrt.audio.probe import Split, Utterance, code_phones, probe
from vqtrt.errors import VqtrtError

INTERVALS = [(0.0, 0.1, "sil"), (0.1, 0.25, "a"), (0.25, 0.3, " t "), (0.35, 0.4, "")]


def corpus(count=40, phones=("a", "b", "k", "sil"), length=50, wrong=0.2, seed=0, speakers=4):
    """Utterances in which code 2·i or 2·i + 1 stands for phone i, except for a share of them."""
    rng = np.random.default_rng(seed)
    weights = np.arange(1, len(phones) + 1) / sum(range(1, len(phones) + 1))
    out = []
    for n in range(count):
        labels = rng.choice(len(phones), length, p=weights)
        codes = 2 * labels + rng.integers(0, 2, length)
        noisy = rng.random(length) < wrong
        codes[noisy] = rng.integers(0, 2 * len(phones), noisy.sum())
        names = tuple(phones[i] for i in labels)
        out.append(Utterance(f"p{n % speakers}/{n}.wav", n % speakers, codes, names))
    return out


def by_hand(utterances, train, silences=()):
    """Accuracy and baseline, one dictionary at a time."""
    seen, total = {}, {}
    for u, t in zip(utterances, train, strict=True):
        for code, phone in zip(u.codes, u.phones, strict=True):
            if t and phone is not None and phone not in silences:
                seen.setdefault(int(code), {}).setdefault(phone, 0)
                seen[int(code)][phone] += 1
                total[phone] = total.get(phone, 0) + 1
    most = max(sorted(total), key=total.get)
    right = base = held = 0
    for u, t in zip(utterances, train, strict=True):
        for code, phone in zip(u.codes, u.phones, strict=True):
            if not t and phone is not None and phone not in silences:
                found = seen.get(int(code))
                right += phone == (max(sorted(found), key=found.get) if found else most)
                base += phone == most
                held += 1
    return right / held, base / held, held


def test_a_code_has_the_phone_at_the_middle_of_its_samples():
    # 100 samples a second, 5 a code: middles at 0.025, 0.075, 0.125, ...
    found = code_phones(INTERVALS, 45, 5, 100)
    assert found == ("sil", "sil", "a", "a", "a", "t", None, "sil", None)


def test_an_interval_has_its_start_and_not_its_end():
    assert code_phones([(0.0, 0.5, "a"), (0.5, 1.0, "b")], 3, 1, 1)[:1] == ("b",)
    assert code_phones([(0.75, 1.0, "b")], 2, 2, 2) == (None,)
    assert code_phones([(0.0, 0.5, "a")], 2, 2, 2) == (None,)


def test_the_last_code_has_the_middle_of_the_samples_it_has():
    intervals = [(0.0, 1.0, "a"), (1.0, 1.2, "b")]
    assert code_phones(intervals, 12, 10, 10) == ("a", "b")
    # The middle of a whole second code would be 1.5 s, after the alignment's end.
    assert code_phones(intervals, 20, 10, 10) == ("a", None)


def test_accuracy_is_that_of_a_table_made_by_hand():
    utterances = corpus()
    found = probe(utterances, 8)
    train = Split().train([(u.name, u.speaker) for u in utterances])
    accuracy, base, held = by_hand(utterances, train)
    assert (found.scores.accuracy, found.scores.most_frequent) == (accuracy, base)
    assert found.codes == (2000 - held, held)
    assert found.utterances == (36, 4)
    assert 0.8 < accuracy < 0.92  # 4 of 5 codes are right, and of the rest 1 of 4
    assert found.code_phones == ("a", "a", "b", "b", "k", "k", "sil", "sil")
    accuracy, base, _ = by_hand(utterances, train, ("sil",))
    assert found.without_silence is not None
    assert found.without_silence.accuracy == accuracy
    assert found.without_silence.most_frequent == base


def test_shuffled_codes_know_nothing():
    found = probe(corpus(), 8).scores
    assert found.accuracy > 0.8
    assert abs(found.shuffled - found.most_frequent) < 0.1


def test_perfect_codes_and_useless_ones():
    perfect = corpus(wrong=0.0)
    assert probe(perfect, 8).scores.accuracy == 1
    useless = [Utterance(u.name, u.speaker, np.zeros_like(u.codes), u.phones) for u in perfect]
    scores = probe(useless, 8).scores
    assert scores.accuracy == scores.most_frequent == scores.shuffled < 0.6


def test_a_code_that_training_never_met_stands_for_the_most_frequent_phone():
    utterances = [Utterance(str(n), 0, np.array([0, 0, 1]), ("a", "a", "b")) for n in range(9)]
    held = Split().train([(u.name, u.speaker) for u in utterances])
    (index,) = np.flatnonzero(~held)
    utterances[index] = Utterance(str(index), 0, np.array([2, 2, 1]), ("a", "b", "b"))
    found = probe(utterances, 4)
    assert found.scores.accuracy == 2 / 3
    assert found.code_phones == ("a", "b", "a", "a")
    assert found.most_frequent_phone == "a"


def test_codes_without_a_phone_count_nowhere():
    plain = corpus(length=20)
    odd = [Utterance(u.name, u.speaker, np.append(u.codes, 7), (*u.phones, None)) for u in plain]
    a, b = probe(plain, 8), probe(odd, 8)
    np.testing.assert_array_equal(a.counts, b.counts)
    assert a.scores.accuracy == b.scores.accuracy
    assert (a.unlabelled, b.unlabelled) == (0, 40)


def test_without_silence_among_the_phones_there_is_nothing_to_leave_out():
    found = probe(corpus(phones=("a", "b")), 8)
    assert found.without_silence is None
    assert found.figures()["accuracy_without_silence"] is None


def test_probabilities_are_shares_of_what_a_code_meets():
    found = probe(corpus(), 10)
    p = found.probabilities()
    assert p.shape == (10, 4)
    np.testing.assert_allclose(p.sum(axis=1), [1] * 8 + [0] * 2)
    np.testing.assert_array_equal(p[3], found.counts[3] / found.counts[3].sum())


def test_figures_are_json():
    figures = json.loads(json.dumps(probe(corpus(), 10).figures(), allow_nan=False))
    assert figures["codebook_size"] == 10
    assert figures["codes_used"] == 8
    assert figures["phones"] == 4
    assert figures["train_codes"] + figures["test_codes"] == 2000
    assert figures["accuracy"] > figures["most_frequent"]


def names(count=200, speakers=4):
    return [(f"p{n % speakers}/{n}.wav", n % speakers) for n in range(count)]


def test_a_split_has_its_share_of_every_speaker():
    train = Split().train(names())
    for speaker in range(4):
        assert train[speaker::4].sum() == 45
    assert not np.array_equal(train, Split(seed=1).train(names()))


def test_a_split_depends_on_names_alone_not_on_their_order():
    shuffled = [names()[i] for i in np.random.default_rng(0).permutation(200)]
    chosen = {name for (name, _), t in zip(names(), Split().train(names()), strict=True) if t}
    assert chosen == {n for (n, _), t in zip(shuffled, Split().train(shuffled), strict=True) if t}


def test_a_split_by_speaker_keeps_speakers_whole():
    train = Split(0.7, "speaker").train(names(speakers=10))
    sides = [set(train[speaker::10].tolist()) for speaker in range(10)]
    assert sides.count({True}) == 7
    assert sides.count({False}) == 3


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_split_leaves_some_on_either_side(share):
    for by in ("utterance", "speaker"):
        train = Split(share, by).train(names(8, speakers=2))
        assert 0 < train.sum() < 8


@pytest.mark.parametrize("share", [0.0, 1.0, 9.0, -1.0, math.nan])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(VqtrtError, match="between 0 and 1"):
        Split(share).train(names())


@pytest.mark.parametrize(
    ("items", "by"),
    [([], "utterance"), (names(1), "utterance"), (names(9, speakers=1), "speaker")],
)
def test_what_cannot_be_split_is_refused(items, by):
    with pytest.raises(VqtrtError, match="the probe needs some"):
        Split(by=by).train(items)


def test_alignments_of_other_speech_are_refused():
    nothing = [Utterance(u.name, u.speaker, u.codes, (None,) * 50) for u in corpus()]
    with pytest.raises(VqtrtError, match="check that the alignments belong"):
        probe(nothing, 8)


def test_what_was_held_out_from_a_model_can_be_what_it_is_tried_on():
    utterances = corpus()
    chosen = {u.name for u in utterances[3::7]}
    found = probe(utterances, 8, Split(held_out=chosen))
    train = [u.name not in chosen for u in utterances]
    assert found.utterances == (sum(train), len(chosen))
    assert found.scores.accuracy == by_hand(utterances, train)[0]


@pytest.mark.parametrize("held_out", [set(), {"another.wav"}, {name for name, _ in names()}])
def test_names_that_leave_a_part_empty_are_refused(held_out):
    with pytest.raises(VqtrtError, match="the probe needs some"):
        Split(held_out=held_out).train(names())
