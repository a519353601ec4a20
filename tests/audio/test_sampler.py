import shutil
from typing import Any

import numpy as np
import pytest
import torch
from doubles import FakeEngine
from prior_doubles import SHA, SPEAKERS, K, PriorEngine, exported_prior, random_prior
from tensorrt_doubles import build, pretend

from vqtrt.audio.sampler import ClipRequest, find_clip_prior, sample_clips
from vqtrt.engines.noise import noise
from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.tensorrt.engine import TensorRTEngine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.sampling import SamplingParams
from vqtrt.models.sample import draw

CODES = 60
"""Of a clip: more than the prior sees."""
SECONDS = CODES * 4 / 8000


@pytest.fixture(scope="module")
def engine():
    return PriorEngine(random_prior())


def sample(engine, num=5, seconds=SECONDS, seed=0, speaker=None, batch_size=16, **how):
    request = ClipRequest("wavenet", num, seconds, SamplingParams(seed=seed, **how), speaker)
    return sample_clips(engine, request, batch_size=batch_size)


def naive(prior, speakers, seed=0, temperature=1.0, **filters):
    """The loop of full passes, with the same noise: (n, t)."""
    count = len(speakers)
    codes = torch.zeros(count, CODES, dtype=torch.int64)
    uniform = torch.from_numpy(noise(seed, range(count), CODES))
    given = torch.tensor(speakers) if prior.config.num_classes else None
    limits = ()
    if filters:
        limits = torch.tensor([filters.get("top_k", K)]), torch.tensor([filters.get("top_p", 1.0)])
    with torch.inference_mode():
        for t in range(CODES):
            logits = prior(codes, given)[:, t]
            codes[:, t] = draw(logits, uniform[:, t], torch.tensor([temperature]), *limits)
    return codes.numpy()


@pytest.mark.parametrize("how", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}])
def test_equals_the_loop_of_full_passes(engine, how):
    found = sample(engine, 5, batch_size=3, **how)
    assert found.speakers == ["ann", "bob", "cy", "ann", "bob"]
    assert found.codes[0].dtype == np.uint8
    expected = naive(engine.prior, [0, 1, 2, 0, 1], **how)
    np.testing.assert_array_equal(np.stack(found.codes), expected)
    assert len(np.unique(expected)) > 6


def test_without_speakers():
    alone = PriorEngine(random_prior(num_classes=0), voices=())
    found = sample(alone, 3)
    assert found.speakers == [None] * 3
    np.testing.assert_array_equal(np.stack(found.codes), naive(alone.prior, [0] * 3))


def test_the_same_clips_at_any_batch_and_number(engine):
    whole = np.stack(sample(engine, 16, batch_size=16).codes)
    for batch in (1, 4, 7):
        found = sample(engine, 16, batch_size=batch)
        np.testing.assert_array_equal(np.stack(found.codes), whole)
    np.testing.assert_array_equal(np.stack(sample(engine, 3).codes), whole[:3])
    assert (np.stack(sample(engine, 16, seed=1).codes) != whole).any()
    assert len(np.unique(whole, axis=0)) == 16


def test_a_longer_clip_begins_as_a_shorter_one(engine):
    long, short = (sample(engine, 4, seconds).codes for seconds in (0.05, 0.01))
    assert [len(clip) for clip in long] == [100] * 4
    for one, other in zip(long, short, strict=True):
        np.testing.assert_array_equal(one[:20], other)


@pytest.mark.parametrize(
    ("seconds", "samples", "codes"),
    [(1e-9, 1, 1), (4 / 8000, 4, 1), (5 / 8000, 5, 2), (0.0101, 81, 21)],
)
def test_lengths(engine, seconds, samples, codes):
    found = sample(engine, 1, seconds)
    assert (found.samples, len(found.codes[0])) == (samples, codes)


def test_one_speaker(engine):
    found = sample(engine, 5, speaker="bob")
    assert found.speakers == ["bob"] * 5
    np.testing.assert_array_equal(found.codes[1], sample(engine).codes[1])


def test_speakers_are_the_priors_or_else_the_decoders():
    prior = random_prior()
    # Numbers are the prior's, whatever the decoder's are.
    both = PriorEngine(prior, voices=("zed", "cy", "ann"))
    found = sample(both, 4)
    assert found.speakers == ["ann", "bob", "cy", "ann"]
    np.testing.assert_array_equal(np.stack(found.codes), naive(prior, [0, 1, 2, 0]))
    with pytest.raises(VqtrtError, match="zed: unknown to the prior 'wavenet'; it knows ann, bob"):
        sample(both, speaker="zed")
    # A prior without speakers is decoded in any voice.
    free = PriorEngine(random_prior(num_classes=0))
    assert sample(free, 4).speakers == [*SPEAKERS, "ann"]
    assert sample(free, 2, speaker="cy").speakers == ["cy", "cy"]
    with pytest.raises(VqtrtError, match="it knows ann, bob, cy"):
        sample(free, speaker="dee")
    mute = PriorEngine(random_prior(num_classes=0), voices=())
    with pytest.raises(VqtrtError, match="it knows none"):
        sample(mute, speaker="ann")


def test_temperature_0_has_no_noise(engine):
    one, other = (sample(engine, 3, seed=seed, temperature=0).codes for seed in (0, 1))
    np.testing.assert_array_equal(np.stack(one), np.stack(other))


def test_graphs_are_bound_once():
    engine: Any = PriorEngine(random_prior())
    sample(engine, 7, batch_size=3)
    assert engine.bound == [("step", {"batch": 3})]
    graph = "priors/wavenet/step"
    engine.largest_batch = lambda name, sizes: 2 if (name, sizes) == (graph, {}) else None
    sample(engine, 7, batch_size=3, top_k=2)
    assert engine.bound[1:] == [("step_filtered", {"batch": 2})]


def test_200_clips_bind_one_graph(monkeypatch, tmp_path):
    bundle = Bundle.open(shutil.copytree(exported_prior(), tmp_path / "bundle"))
    module = pretend(monkeypatch)
    build(bundle, "tensorrt-rtx", {"batch": (1, 16)}, graphs=["priors/wavenet/step"])
    bound, real = [], OnnxRuntimeEngine.bind
    monkeypatch.setattr(
        OnnxRuntimeEngine, "bind", lambda *args, **how: bound.append(1) or real(*args, **how)
    )
    # A launch of 16 codes, another, and a part of one; a batch of 16 and a ragged one.
    drawn = [
        sample(each, 200, 37 * 4 / 8000, batch_size=16).codes
        for each in (
            TensorRTEngine(bundle, EngineOptions("tensorrt-rtx")),
            OnnxRuntimeEngine(bundle),
        )
    ]
    np.testing.assert_array_equal(np.stack(drawn[0]), np.stack(drawn[1]))
    assert (len(module.contexts), len(bound)) == (1, 1)
    assert module.api.calls.count("cudaStreamBeginCapture") == 1


def test_progress(engine):
    calls = []
    request = ClipRequest("wavenet", 5, SECONDS)
    sample_clips(engine, request, batch_size=2, progress=lambda *call: calls.append(call))
    assert calls == [(done, 3 * CODES) for done in range(1, 3 * CODES + 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num 0"),
        ({"seconds": 0}, "seconds 0: must be above 0"),
        ({"seconds": -1.0}, "seconds -1.0"),
        ({"seconds": float("nan")}, "seconds nan"),
        ({"seconds": float("inf")}, "seconds inf"),
        ({"seconds": 1e9}, "seconds 1000000000.0: clips of at most"),
        ({"speaker": "dee"}, "speaker dee: unknown to the prior 'wavenet'; it knows ann, bob, cy"),
        ({"speaker": "a\nb" * 99}, "unknown"),
        ({"top_k": 0}, "top-k 0"),
        ({"top_k": K + 1}, f"must be 1 to {K}"),
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"top_p": 0.0}, "top-p 0.0"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_requests(engine, options, message):
    with pytest.raises(VqtrtError, match=message) as caught:
        sample(engine, **options)
    assert "\n" not in str(caught.value)


def test_priors_that_are_not_there_or_of_another_model(engine):
    with pytest.raises(VqtrtError, match=r"no prior 'other' \(it has: wavenet"):
        find_clip_prior(engine, "other")
    stranger = PriorEngine(random_prior())
    stranger.weights_sha256 = SHA.replace("f", "e")
    with pytest.raises(VqtrtError, match="another tokenizer"):
        find_clip_prior(stranger, "wavenet")
    images = FakeEngine()
    images.speech = None
    with pytest.raises(VqtrtError, match="the model is of images"):
        find_clip_prior(images, "wavenet")
