from itertools import pairwise

import numpy as np
import pytest
import torch
from doubles import FakeEngine

from vqtrt.config.location import find_model
from vqtrt.engines.choose import open_engine
from vqtrt.engines.noise import noise
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.priors import find_prior
from vqtrt.errors import VqtrtError
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sample import Request, label_number, sample_codes
from vqtrt.images.sampler import BatchSampler, PixelCNNSampler
from vqtrt.models.sample import draw as draw_codes
from vqtrt.priors.runs import trained_priors


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engine(request, tiny_prior):
    return open_engine(find_model(tiny_prior), EngineOptions(request.param))


@pytest.fixture(scope="module")
def ort(tiny_prior):
    return open_engine(find_model(tiny_prior), EngineOptions("onnxruntime"))


@pytest.fixture(scope="module")
def torch2(tiny_prior2):
    return open_engine(find_model(tiny_prior2), EngineOptions("torch"))


def sample(
    engine, num=5, batch_size=16, seed=0, label=None, shape=None, prefix=None, rows=0, **how
):
    request = Request("pixelcnn", num, SamplingParams(seed=seed, **how), label, shape, prefix, rows)
    return sample_codes(engine, request, batch_size=batch_size)


def naive(run, num, shape, labels=None, prefix=None, **how):
    """The loop of full passes in torch, with the same noise: (num, h, w, C)."""
    prior = trained_priors(run)["pixelcnn"].load()
    books = prior.config.num_codebooks
    codes = torch.zeros(num, *shape, books, dtype=torch.int64)
    uniform = noise(0, range(num), codes[0].numel()).reshape(codes.shape)
    given = None if labels is None else torch.from_numpy(labels)
    heat = torch.tensor([how.get("temperature", 1.0)])
    filters = ()
    if "top_k" in how or "top_p" in how:
        size = prior.config.codebook_size
        filters = (torch.tensor([how.get("top_k", size)]), torch.tensor([how.get("top_p", 1.0)]))
    with torch.inference_mode():
        for r, c in np.ndindex(*shape):
            if prefix is not None and r < prefix.shape[1]:
                codes[:, r, c] = torch.from_numpy(prefix[:, r, c].astype(np.int64))
                continue
            for book in range(books):
                logits = prior(codes, given)[:, r, c, book]
                chance = torch.from_numpy(uniform[:, r, c, book])
                codes[:, r, c, book] = draw_codes(logits, chance, heat, *filters)
    return codes.numpy()


def test_noise():
    whole = noise(7, range(5), 300)
    assert whole.dtype == np.float32
    assert whole.min() > 0
    assert whole.max() < 1
    np.testing.assert_array_equal(noise(7, range(2, 4), 300), whole[2:4])
    np.testing.assert_array_equal(noise(7, range(5), 100), whole[:, :100])
    assert len(np.unique(np.concatenate([whole, noise(8, range(5), 300)]))) > 2990
    many = noise(0, range(40), 5000)
    assert abs(many.mean() - 0.5) < 0.005
    assert (abs(np.histogram(many, 10, (0, 1))[0] / many.size - 0.1) < 0.004).all()


def test_the_noise_never_changes():
    # Or a seed would give other samples with another version.
    expected = [[193723, 4052523, 1869415, 9469307]]
    assert (noise(0, range(1), 4) * 2**24).astype(int).tolist() == expected


@pytest.mark.parametrize("how", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}])
def test_equals_the_loop_of_full_passes(engine, tiny_prior, how):
    found = sample(engine, 6, 4, **how)
    expected = naive(tiny_prior, 6, (4, 4), found.labels, **how)
    np.testing.assert_array_equal(found.codes, expected[..., 0])
    assert found.codes.dtype == np.uint8
    assert len(np.unique(found.codes)) > 3


def test_equals_the_loop_for_two_codebooks(torch2, tiny_prior2):
    found = sample(torch2, 5, 2)
    assert found.labels is None
    assert found.codes.shape == (5, 4, 4, 2)
    np.testing.assert_array_equal(found.codes, naive(tiny_prior2, 5, (4, 4)))


@pytest.mark.slow
def test_two_codebooks_in_onnxruntime(torch2, tiny_prior_bundle2):
    found = sample(open_engine(find_model(tiny_prior_bundle2), EngineOptions("onnxruntime")), 5, 2)
    np.testing.assert_array_equal(found.codes, sample(torch2, 5).codes)


def test_the_same_samples_at_any_batch_and_number(engine):
    whole = sample(engine, 70, 64)
    for batch in (1, 5):
        np.testing.assert_array_equal(sample(engine, 12, batch).codes, whole.codes[:12])
    np.testing.assert_array_equal(sample(engine, 3, 64).codes, whole.codes[:3])
    assert (sample(engine, 12, seed=1).codes != whole.codes[:12]).any()
    assert len(np.unique(whole.codes, axis=0)) > 50


def test_labels_go_round_or_are_one(ort):
    classes = len(ort.priors["pixelcnn"].classes)
    assert classes > 1
    assert sample(ort, classes + 2).labels.tolist() == [*range(classes), 0, 1]
    one = sample(ort, 4, label=1)
    assert one.labels.tolist() == [1] * 4
    whole = sample(ort, 4)
    np.testing.assert_array_equal(one.codes[1], whole.codes[1])


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (5, 3)])
def test_another_shape(ort, tiny_prior, shape):
    found = sample(ort, 4, shape=shape)
    expected = naive(tiny_prior, 4, shape, found.labels)
    np.testing.assert_array_equal(found.codes, expected[..., 0])


def test_a_prefix_is_kept_and_goes_on(ort, tiny_prior):
    given = np.random.default_rng(0).integers(0, 16, (2, 4, 4)).astype(np.uint8)
    found = sample(ort, 5, 2, prefix=given, rows=2)
    repeated = given[np.arange(5) % 2, :2]
    np.testing.assert_array_equal(found.codes[:, :2], repeated)
    expected = naive(tiny_prior, 5, (4, 4), found.labels, prefix=repeated[..., None])
    np.testing.assert_array_equal(found.codes, expected[..., 0])
    whole = sample(ort, 2, prefix=given, rows=4)
    np.testing.assert_array_equal(whole.codes, given)


def test_temperature_0_has_no_noise(ort):
    one, other = (sample(ort, 3, seed=seed, temperature=0) for seed in (0, 1))
    np.testing.assert_array_equal(one.codes, other.codes)


def test_progress(ort):
    calls = []
    request = Request("pixelcnn", 5, prefix=np.zeros((1, 4, 4), np.uint8), rows=1)
    sample_codes(ort, request, batch_size=2, progress=lambda *call: calls.append(call))
    assert calls[0] == (1, 36)
    assert calls[-1] == (36, 36)
    assert all(after[0] == before[0] + 1 for before, after in pairwise(calls))


GRID = np.zeros((2, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num 0"),
        ({"label": 99}, "label 99: must be 0 to"),
        ({"label": -1}, "label -1"),
        ({"shape": (4, 40)}, "shape 4x40"),
        ({"shape": (0, 4)}, "shape 0x4"),
        ({"top_k": 0}, "top-k 0"),
        ({"top_k": 17}, "top-k 17: must be 1 to 16"),
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"top_p": 0.0}, "top-p 0.0"),
        ({"top_p": 1.01}, "top-p 1.01"),
        ({"top_p": float("nan")}, "top-p nan"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, "seed 9223372036854775808"),
        ({"rows": 1}, "--prefix"),
        ({"prefix": GRID + 16, "rows": 1}, "holds 16"),
        ({"prefix": GRID.astype(float), "rows": 1}, "float64"),
        ({"prefix": GRID[..., None], "rows": 1}, "shape"),
        ({"prefix": GRID[..., :3], "rows": 1}, "4 wide"),
        ({"prefix": GRID, "rows": 0}, "rows 1 to 4"),
        ({"prefix": GRID, "rows": 5}, "rows 1 to 4"),
        ({"prefix": GRID[:0], "rows": 1}, "no rows"),
    ],
)
def test_bad_requests(ort, options, message):
    with pytest.raises(VqtrtError, match=message) as caught:
        sample(ort, **options)
    assert "\n" not in str(caught.value)


def test_a_label_for_a_prior_without(torch2):
    with pytest.raises(VqtrtError, match="not conditioned on labels"):
        sample(torch2, label=0)


def test_priors_that_are_not_there_or_of_another_tokenizer(ort):
    with pytest.raises(VqtrtError, match=r"no prior 'other' \(it has: pixelcnn"):
        find_prior(ort, "other")
    stranger = FakeEngine()
    stranger.priors = ort.priors
    with pytest.raises(VqtrtError, match="another tokenizer"):
        find_prior(stranger, "pixelcnn")


def test_labels_by_number_and_name(ort):
    facts = ort.priors["pixelcnn"]
    assert label_number(None, facts) is None
    assert label_number("2", facts) == 2
    assert label_number(facts.classes[1], facts) == 1
    with pytest.raises(VqtrtError, match="no such class"):
        label_number("nonsense", facts)


@pytest.mark.parametrize("batch", [7, 8, 13, 33])
def test_streams_draw_what_one_stream_draws(tiny_prior, batch):
    engine = open_engine(find_model(tiny_prior), EngineOptions("onnxruntime"))
    engine.num_streams = 1
    whole = sample(engine, batch, batch)
    engine.num_streams = 3
    np.testing.assert_array_equal(sample(engine, batch, batch).codes, whole.codes)


def test_a_stream_that_fails_ends_the_batch(tiny_prior, monkeypatch):
    engine = open_engine(find_model(tiny_prior), EngineOptions("onnxruntime"))
    engine.num_streams = 2
    drawing = PixelCNNSampler.sample
    ends = []

    def failing(self, draw, samples, *args, **given):
        try:
            if samples.start:
                raise VqtrtError("out of memory")
            return drawing(self, draw, samples, *args, **given)
        finally:
            ends.append(samples.start)

    monkeypatch.setattr(PixelCNNSampler, "sample", failing)
    with pytest.raises(VqtrtError, match="out of memory"):
        sample(engine, 8, 8)
    assert sorted(ends) == [0, 4]


def test_an_interrupt_ends_all_lanes(tiny_prior):
    engine = open_engine(find_model(tiny_prior), EngineOptions("onnxruntime"))
    engine.num_streams = 2
    facts = find_prior(engine, "pixelcnn")
    sampler = BatchSampler(engine, "pixelcnn", facts.codebook_size, 8, 4)
    done = []

    def interrupt():
        done.append(1)
        raise KeyboardInterrupt

    labels = np.zeros(8, np.int32)
    with pytest.raises(KeyboardInterrupt):
        sampler.sample(SamplingParams(), range(8), 4, labels=labels, progress=interrupt)
    assert done == [1]
    assert sampler.sample(SamplingParams(), range(8), 4, labels=labels).shape == (8, 4, 4, 1)
