import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from prior_doubles import K, PriorEngine, clip_codes, random_prior

from vqtrt.audio import score as speech_score
from vqtrt.audio.score import score_codes
from vqtrt.errors import VqtrtError

LENGTHS = [1, 30, 3, 100, 47, 2, 30, 31]
LABELS = [0, 1, 2, 0, 1, 2, 2, 2]


@pytest.fixture(scope="module")
def engine():
    return PriorEngine(random_prior())


def expected_bits(prior, codes, labels):
    """Of whole clips, one by one, by torch."""
    total = 0.0
    for clip in range(len(codes)):
        given = torch.from_numpy(codes.clip(clip).astype(np.int64))[None]
        logits = prior(given, None if labels is None else torch.tensor([labels[clip]]))
        total += float(torch.nn.functional.cross_entropy(logits[0], given[0], reduction="sum"))
    return total / math.log(2) / len(codes.codes)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("crop", [16, 1024])
def test_bits_are_those_of_whole_clips(engine, monkeypatch, batch_size, crop):
    monkeypatch.setattr(speech_score, "_CROP", crop)
    codes = clip_codes(LENGTHS, LABELS)
    calls = []
    found = score_codes(
        engine, "wavenet", codes, batch_size=batch_size, progress=lambda *call: calls.append(call)
    )
    assert found["bits_per_code"] == pytest.approx(expected_bits(engine.prior, codes, LABELS))
    counts = np.bincount(codes.codes, minlength=K) / len(codes.codes)
    assert found["unigram_bits"] == pytest.approx(-(counts * np.log2(counts)).sum())
    assert found["gain_bits"] == pytest.approx(found["unigram_bits"] - found["bits_per_code"])
    assert found["bits_per_second"] == pytest.approx(found["bits_per_code"] * 2000)
    assert (found["clips"], found["prior"], found["engine"]) == (8, "wavenet", "double")
    assert calls[-1][0] == calls[-1][1] >= len(LENGTHS)


def test_speakers_go_by_their_names(engine):
    codes = clip_codes(LENGTHS, LABELS)
    turned = clip_codes(LENGTHS, [2 - label for label in LABELS], ("cy", "bob", "ann"))
    found = [score_codes(engine, "wavenet", each) for each in (codes, turned)]
    assert found[0] == found[1]
    other = score_codes(engine, "wavenet", clip_codes(LENGTHS, LABELS[::-1]))
    assert other["bits_per_code"] != found[0]["bits_per_code"]


def test_a_prior_without_speakers():
    engine = PriorEngine(random_prior(num_classes=0))
    codes = clip_codes(LENGTHS, LABELS)
    found = score_codes(engine, "wavenet", codes)
    assert found["bits_per_code"] == pytest.approx(expected_bits(engine.prior, codes, None))
    bare = replace(codes, header=None, files=(), labels=(), samples=())
    assert score_codes(engine, "wavenet", bare) == found


def test_codes_that_cannot_be_scored(engine):
    codes = clip_codes(LENGTHS, LABELS)
    stranger = replace(codes, header=codes.header.model_copy(update={"weights_sha256": "e" * 64}))
    unknown = clip_codes(LENGTHS, LABELS, ("ann", "dee", "cy"))
    beyond = replace(codes, codes=np.full_like(codes.codes, K))
    nothing = clip_codes([], [])
    cases = (
        (stranger, "codes of another tokenizer"),
        (unknown, r"clip 1 \(1.wav\) is of no speaker that the prior knows; it knows ann, bob"),
        (clip_codes(LENGTHS, [-1] * 8), r"clip 0 \(0.wav\) is of no speaker"),
        (replace(codes, header=None, files=(), labels=(), samples=()), "clip 0 is of no speaker"),
        (beyond, f"holds {K}"),
        (nothing, "nothing to score"),
    )
    for each, message in cases:
        with pytest.raises(VqtrtError, match=message) as caught:
            score_codes(engine, "wavenet", each)
        assert "\n" not in str(caught.value)
    with pytest.raises(VqtrtError, match="no prior 'other'"):
        score_codes(engine, "other", codes)
