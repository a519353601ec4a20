import numpy as np
import pytest
import torch

from vqtrt.config.audio import WaveNetConfig
from vqtrt.priors.wavenet import WaveNetPrior
from vqtrt.priors.wavenet_graphs import WAVENET_GRAPHS, wavenet_graph

K, STEPS = 13, 200
"""Steps that no cache is as long as: each comes back several times."""


def make(dtype=torch.float64, **settings) -> WaveNetPrior:
    config = {"layers": 12, "cycles": 2, "channels": 8, "head": 16, "codebook_size": K}
    torch.manual_seed(0)
    prior = WaveNetPrior(WaveNetConfig(**config | {"num_classes": 3} | settings)).to(dtype).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return prior.requires_grad_(False)


def run(prior, batch, graph="step", steps=STEPS, temperature=1.0, dtype=None, **filters):
    """Codes (N, t) and logits (N, t, K), with caches that come back after their delay."""
    made = wavenet_graph(prior, graph, dtype)
    outer = next(prior.parameters()).dtype
    sizes = {"batch": batch}
    queues = [
        [torch.zeros(cache.resolve(sizes), dtype=outer) for _ in range(cache.delay)]
        for cache in made.caches
    ]
    uniform = np.random.default_rng(0).random((64, steps))[:batch]
    inputs = {"temperature": torch.tensor([temperature], dtype=outer)}
    if prior.config.num_classes:
        inputs["speakers"] = torch.arange(batch, dtype=torch.int32) % 3
    inputs |= {name: torch.tensor([value]) for name, value in filters.items()}
    previous = torch.full((batch,), K, dtype=torch.int32)
    codes, logits = [], []
    for t in range(steps):
        noise = torch.from_numpy(uniform[:, t : t + 1]).to(outer)
        given = {"previous": previous, "noise": noise, **inputs}
        assert set(given) == {tensor.name for tensor in made.inputs}
        out, kept = made.call(given, [queue.pop(0) for queue in queues])
        for queue, new in zip(queues, kept, strict=True):
            queue.append(new)
        previous = out["codes"][:, 0]
        codes.append(previous)
        logits.append(out["logits"])
    return torch.stack(codes, 1), torch.stack(logits, 1)


@pytest.mark.parametrize("batch", [1, 4, 16])
@pytest.mark.parametrize("classes", [0, 3])
def test_cached_against_full(batch, classes):
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        prior = make(dtype, num_classes=classes)
        codes, logits = run(prior, batch)
        speakers = torch.arange(batch) % 3 if classes else None
        expected = prior(codes, speakers)
        assert (logits - expected).abs().max() < limit
        assert expected.std() > 0.3
        assert len(codes.unique()) == K


@pytest.mark.parametrize("settings", [{"cycles": 1, "layers": 3}, {"cycles": 4}])
def test_cached_against_full_in_other_shapes(settings):
    prior = make(**settings)
    codes, logits = run(prior, 2)
    assert (logits - prior(codes, torch.arange(2))).abs().max() < 1e-10


def test_the_same_codes_at_any_batch():
    prior = make()
    whole, _ = run(prior, 16)
    for batch in (1, 4):
        torch.testing.assert_close(run(prior, batch)[0], whole[:batch], rtol=0, atol=0)


def test_filters():
    prior = make()
    plain, logits = run(prior, 4)
    everything, _ = run(prior, 4, "step_filtered", top_k=K, top_p=1.0)
    torch.testing.assert_close(everything, plain, rtol=0, atol=0)
    best, logits = run(prior, 4, "step_filtered", top_k=1, top_p=1.0)
    torch.testing.assert_close(best.long(), logits.argmax(-1), rtol=0, atol=0)
    cold, _ = run(prior, 4, temperature=0.0)
    torch.testing.assert_close(cold, best, rtol=0, atol=0)


def test_half_is_near():
    prior = make(torch.float32)
    codes, logits = run(prior, 4, dtype=torch.float16)
    difference = (logits - prior(codes, torch.arange(4) % 3)).abs().max()
    assert logits.dtype == torch.float32
    assert 1e-4 < difference < 0.05
    full = wavenet_graph(prior, "logits", torch.float16).module(
        codes=codes, speakers=torch.arange(4) % 3
    )
    assert full.dtype == torch.float32
    assert (full - logits).abs().max() < 0.05


def test_the_tables():
    prior = make()
    step, filtered, logits = (wavenet_graph(prior, name) for name in WAVENET_GRAPHS)
    assert [cache.delay for cache in step.caches] == [1, 2, 4, 8, 16, 32] * 2
    assert {cache.shape for cache in step.caches} == {("batch", 8)}
    assert [kept.name for kept in step.kept()] == [f"kept{i}" for i in range(12)]
    names = ["previous", "speakers", "noise", "temperature"]
    assert [tensor.name for tensor in step.inputs] == names
    assert [tensor.name for tensor in filtered.inputs] == [*names, "top_k", "top_p"]
    assert filtered.outputs == step.outputs
    assert [tensor.shape for tensor in step.outputs] == [("batch", 1), ("batch", K)]
    assert (logits.caches, logits.outputs[0].shape) == ((), ("batch", "t", K))
    assert "speakers" not in {t.name for t in wavenet_graph(make(num_classes=0), "step").inputs}
    with pytest.raises(ValueError, match="no graph 'row'"):
        wavenet_graph(prior, "row")
