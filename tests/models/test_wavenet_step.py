import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vqtrt.config.audio import WaveNetStack
from vqtrt.models.wavenet import WaveNet
from vqtrt.models.wavenet_step import WaveNetStep

K, HOP = 11, 16


def make(dtype=torch.float64, **settings) -> WaveNet:
    torch.manual_seed(0)
    config = {"layers": 10, "cycles": 2, "channels": 6, "head": 8} | settings
    wavenet = WaveNet(WaveNetStack(**config), K).to(dtype).eval()
    with torch.no_grad():
        for parameter in wavenet.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return wavenet.requires_grad_(False)


def drawn(wavenet, unroll, batch=3, steps=192, bias=None, temperature=1.0, dtype=None):
    """By a loop over runs: classes (N, T), and the logits (N, T / u, K) of each run's last."""
    step = WaveNetStep(wavenet, unroll, dtype).requires_grad_(False)
    outer = next(wavenet.parameters()).dtype
    queues = [
        [torch.zeros(cache.resolve({"batch": batch}), dtype=outer) for _ in range(cache.delay)]
        for cache in step.caches()
    ]
    uniform = torch.from_numpy(np.random.default_rng(0).random((16, steps))[:batch]).to(outer)
    previous = torch.full((batch,), K, dtype=torch.int32)
    sampling = {"temperature": torch.tensor([temperature], dtype=outer)}
    classes, logits = [], []
    for start in range(0, steps, unroll):
        made, last, kept = step(
            previous,
            uniform[:, start : start + unroll],
            sampling,
            [queue.pop(0) for queue in queues],
            None if bias is None else bias[:, start // HOP],
        )
        for queue, new in zip(queues, kept, strict=True):
            queue.append(new)
        previous = made[:, -1]
        classes.append(made)
        logits.append(last)
    return torch.cat(classes, 1), torch.stack(logits, 1)


def biases(wavenet, batch, steps):
    shape = (batch, steps // HOP, 2 * wavenet.config.layers * wavenet.config.channels)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return noise.to(next(wavenet.parameters()).dtype)


@pytest.mark.parametrize("unroll", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("settings", [{}, {"layers": 3, "cycles": 3}, {"layers": 6, "cycles": 1}])
def test_cached_against_full(unroll, settings):
    wavenet = make(**settings)
    for bias in (None, biases(wavenet, 3, 192)):
        classes, logits = drawn(wavenet, unroll, bias=bias)
        full = wavenet(wavenet.shift_right(classes), bias, HOP)
        assert (logits - full[:, unroll - 1 :: unroll]).abs().max() < 1e-12
        assert full.std() > 0.3
        assert len(classes.unique()) == K


def test_over_4096_samples_in_float32():
    """The paper's kind of stack: two cycles of 1 to 512."""
    wavenet = make(torch.float32, layers=20, cycles=2, channels=8)
    bias = biases(wavenet, 1, 4096)
    classes, logits = drawn(wavenet, 8, batch=1, steps=4096, bias=bias)
    full = wavenet(wavenet.shift_right(classes), bias, HOP)
    assert (logits - full[:, 7::8]).abs().max() < 1e-4


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_every_unroll_draws_the_same(temperature):
    wavenet = make()
    bias = biases(wavenet, 3, 192)
    wanted, _ = drawn(wavenet, 1, bias=bias, temperature=temperature)
    for unroll in (2, 8):
        found, _ = drawn(wavenet, unroll, bias=bias, temperature=temperature)
        assert torch.equal(found, wanted)
    alone, _ = drawn(wavenet, 4, batch=1, bias=bias[:1], temperature=temperature)
    assert torch.equal(alone, wanted[:1])


def test_cold_takes_the_most_likely():
    wavenet = make()
    classes, _ = drawn(wavenet, 4, temperature=0.0)
    full = wavenet(wavenet.shift_right(classes))
    assert torch.equal(classes, full.argmax(-1).int())


def test_half_is_near():
    wavenet = make(torch.float32)
    bias = biases(wavenet, 3, 192)
    classes, logits = drawn(wavenet, 4, steps=48, bias=bias, dtype=torch.float16)
    full = wavenet(wavenet.shift_right(classes), bias[:, :3], HOP)[:, 3::4]
    assert logits.dtype == torch.float32
    assert 1e-5 < (logits - full).abs().max() < 0.1
    assert next(wavenet.parameters()).dtype == torch.float32


def test_caches_hold_what_is_new_and_no_more():
    step = WaveNetStep(make(layers=6, cycles=1), 4)
    assert [(c.name, c.shape, c.delay) for c in step.caches()] == [
        ("cache0", ("batch", 6), 1),
        ("cache1", ("batch", 12), 1),
        ("cache2", ("batch", 24), 1),
        ("cache3", ("batch", 24), 2),
        ("cache4", ("batch", 24), 4),
        ("cache5", ("batch", 24), 8),
    ]


def test_the_step_keeps_weights_of_its_own():
    wavenet = make()
    step = WaveNetStep(wavenet, 1)
    caches = [torch.ones(cache.resolve({"batch": 1})).double() for cache in step.caches()]
    noise, sampling = torch.ones(1, 1).double() / 2, {"temperature": torch.ones(1)}
    arguments = torch.tensor([3], dtype=torch.int32), noise, sampling
    before = step(*arguments, caches)[1]
    with torch.no_grad():
        wavenet.layers[2].gates.weight.zero_()
    assert torch.equal(step(*arguments, caches)[1], before)
    assert F.softmax(before, 1).isfinite().all()
