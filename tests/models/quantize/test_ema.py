import numpy as np
import pytest
import torch

from vqtrt.config.images import QuantizerConfig
from vqtrt.models.quantize import EMAQuantizer


def build(**settings):
    torch.manual_seed(0)
    settings = {"codebook_size": 5, "dim": 3, "restart_below": 0} | settings
    quantizer = EMAQuantizer(QuantizerConfig(**settings))
    quantizer.codebook.copy_(torch.randn_like(quantizer.codebook))
    quantizer.total.copy_(quantizer.codebook)
    return quantizer


class Reference:
    """Appendix A.1 with the smoothing of the authors' Sonnet code, in float64 loops."""

    def __init__(self, quantizer, decay, epsilon):
        self.final_decay, self.epsilon = decay, epsilon
        self.t = int(quantizer.updates)
        self.codebook = quantizer.codebook.double().numpy().copy()
        self.n = quantizer.usage.double().numpy().copy()
        self.m = quantizer.total.double().numpy().copy()

    def step(self, z):
        c, k, d = self.codebook.shape
        decay = min(self.final_decay, (1 + self.t) / (10 + self.t))
        self.t += 1
        vectors = z.double().permute(0, 2, 3, 1).reshape(-1, c, d).numpy()
        for book in range(c):
            entries = self.codebook[book]
            codes = [int(np.argmin(((v - entries) ** 2).sum(-1))) for v in vectors[:, book]]
            for i in range(k):
                mine = [v for v, code in zip(vectors[:, book], codes, strict=True) if code == i]
                count, total = len(mine), sum(mine, np.zeros(d))
                self.n[book, i] = decay * self.n[book, i] + (1 - decay) * count
                self.m[book, i] = decay * self.m[book, i] + (1 - decay) * total
            n = self.n[book].sum()
            for i in range(k):
                smoothed = (self.n[book, i] + self.epsilon) / (n + k * self.epsilon) * n
                self.codebook[book, i] = self.m[book, i] / smoothed


@pytest.mark.parametrize("num_codebooks", [1, 2])
@pytest.mark.parametrize(("decay", "epsilon"), [(0.99, 1e-5), (0.5, 0.1)])
@pytest.mark.parametrize("updates", [0, 10_000])
def test_update_against_reference(num_codebooks, decay, epsilon, updates):
    """At first the averages are short, (1 + t) / (10 + t); later they decay as configured."""
    quantizer = build(num_codebooks=num_codebooks, decay=decay, epsilon=epsilon)
    quantizer.updates.fill_(updates)
    reference = Reference(quantizer, decay, epsilon)
    for _ in range(10):
        z = torch.randn(2, 3 * num_codebooks, 3, 4)
        quantizer(z)
        reference.step(z)
        np.testing.assert_allclose(quantizer.usage, reference.n, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(quantizer.total, reference.m, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(quantizer.codebook, reference.codebook, rtol=1e-4, atol=1e-5)


def test_defaults_are_those_of_the_paper():
    config = QuantizerConfig()
    assert (config.kind, config.decay, config.epsilon, config.beta) == ("ema", 0.99, 1e-5, 0.25)


def test_loss_is_beta_times_commitment_only():
    quantizer = build(beta=0.7).eval()
    z = torch.randn(2, 3, 3, 4)
    chosen = quantizer.lookup(quantizer.encode(z)).double()
    expected = 0.7 * (z.double() - chosen).square().mean().item()
    assert quantizer(z).loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_codebook_is_no_parameter_and_is_saved():
    quantizer = build()
    assert list(quantizer.parameters()) == []
    assert set(quantizer.state_dict()) == {"codebook", "total", "usage", "updates"}


def test_loss_and_vectors_are_of_the_entries_before_the_update():
    quantizer = build(decay=0.1)
    z = torch.randn(2, 3, 3, 4)
    before = build(decay=0.1).eval()
    expected = before(z)
    out = quantizer(z)
    assert not torch.equal(quantizer.codebook, before.codebook)
    assert torch.equal(out.codes, expected.codes)
    assert torch.equal(out.vectors, expected.vectors)
    assert torch.equal(out.loss, expected.loss)


def test_entries_go_to_the_means_of_clusters():
    centres = torch.tensor([[0.0, 0.0, 5.0], [0.0, 5.0, 0.0], [5.0, 0.0, 0.0]])
    quantizer = build(codebook_size=3, decay=0.9)
    quantizer.codebook.copy_(centres[None] + 1)
    quantizer.total.copy_(quantizer.codebook)
    for _ in range(200):
        picked = centres[torch.randint(3, (64,))] + 0.1 * torch.randn(64, 3)
        quantizer(picked[..., None, None])
    torch.testing.assert_close(quantizer.codebook[0], centres, atol=0.1, rtol=0)
