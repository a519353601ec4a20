"""Bounds of log p(x), against enumeration of a model with 2 latents of 4 values, in float64."""

import itertools
import math

import pytest
import torch

from vqtrt.models.bounds import (
    draw_codes,
    gaussian_kl,
    leave_one_out,
    multi_sample_bound,
    vimco_surrogate,
)

K, PAIRS = 4, list(itertools.product(range(4), repeat=2))


class Toy:
    """log p(x | z) of one x for all 16 z, and q as two independent categoricals."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        noise = torch.randn(16 + 2 * K, generator=generator, dtype=torch.float64)
        self.log_px = (2 * noise[:16] - 3).requires_grad_()
        self.logits = noise[16:].reshape(2, K).clone().requires_grad_()

    def log_q(self) -> torch.Tensor:
        one, two = self.logits.log_softmax(-1)
        return (one[:, None] + two[None]).flatten()

    def log_w(self) -> torch.Tensor:
        return self.log_px - 2 * math.log(K) - self.log_q()

    def log_p(self) -> torch.Tensor:
        return (self.log_px - 2 * math.log(K)).logsumexp(0)

    def expected_bound(self, samples: int) -> torch.Tensor:
        """E_q log (1/S) Σ w, over all tuples of samples."""
        tuples = torch.tensor(list(itertools.product(range(16), repeat=samples)))
        log_q, log_w = self.log_q(), self.log_w()
        return (log_q[tuples].sum(-1).exp() * multi_sample_bound(log_w[tuples])).sum()


@pytest.fixture
def toy() -> Toy:
    return Toy()


def test_bounds_grow_with_the_samples_and_stay_below_log_p(toy):
    bounds = [float(toy.expected_bound(s).detach()) for s in (1, 2, 3, 4)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < float(toy.log_p().detach())


def test_one_sample_gives_reconstruction_less_kl(toy):
    q = toy.log_q().exp()
    kl = (q * (toy.log_q() + 2 * math.log(K))).sum()
    elbo = (q * toy.log_px).sum() - kl
    torch.testing.assert_close(toy.expected_bound(1), elbo, rtol=0, atol=1e-12)


def test_the_bound_of_any_code_is_below_log_p(toy):
    """A VQ-VAE may choose any of them: its q is one point, with KL 2 log K."""
    assert (toy.log_px - 2 * math.log(K) <= toy.log_p()).all()


@pytest.mark.parametrize("samples", [2, 3])
def test_vimcos_gradient_is_that_of_its_bound(toy, samples):
    """In expectation, over all tuples of samples, against finite differences of the bound."""
    tuples = torch.tensor(list(itertools.product(range(16), repeat=samples)))
    log_q, log_w = toy.log_q(), toy.log_w()
    weights = log_q[tuples].sum(-1).exp().detach()
    wanted = (weights * vimco_surrogate(log_w[tuples], log_q[tuples])).sum()
    made = torch.autograd.grad(wanted, (toy.logits, toy.log_px))
    step = 1e-5
    for parameter, gradient in zip((toy.logits, toy.log_px), made, strict=True):
        numeric = torch.zeros_like(parameter)
        for at in itertools.product(*map(range, parameter.shape)):
            values = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[at] += sign * step
                    values.append(float(toy.expected_bound(samples)))
                    parameter[at] -= sign * step
            numeric[at] = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-8)


def test_a_baseline_does_not_know_its_own_sample():
    log_w = torch.randn(5, 7, dtype=torch.float64)
    base = leave_one_out(log_w)
    changed = log_w.clone()
    changed[:, 2] += 3
    torch.testing.assert_close(leave_one_out(changed)[:, 2], base[:, 2])
    others = torch.cat([log_w[:, :2], log_w[:, 3:]], -1)
    filled = torch.cat([others, others.mean(-1, keepdim=True)], -1)
    torch.testing.assert_close(base[:, 2], multi_sample_bound(filled))


@pytest.mark.parametrize("spread", [30, 300])
def test_weights_that_differ_by_hundreds_of_nats_are_finite(spread):
    log_w = -9800 + spread * torch.randn(200, 50, dtype=torch.float64)
    base, bound = leave_one_out(log_w), multi_sample_bound(log_w)
    assert base.isfinite().all()
    assert bound.isfinite().all()
    assert (base <= log_w.amax(-1, keepdim=True) + 1e-9).all()


def test_the_kl_of_gaussians_is_that_of_torch():
    mean, log_scale = torch.randn(3, 2, 4, 4), 0.3 * torch.randn(3, 2, 4, 4)
    one = torch.distributions.Normal(mean.double(), log_scale.double().exp())
    zero = torch.zeros_like(mean).double()
    unit = torch.distributions.Normal(zero, zero + 1)
    wanted = torch.distributions.kl_divergence(one, unit).sum((1, 2, 3))
    torch.testing.assert_close(gaussian_kl(mean, log_scale), wanted)


def test_codes_are_drawn_as_often_as_their_probability():
    torch.manual_seed(0)
    log_p = torch.randn(3, 5).log_softmax(-1)
    codes = draw_codes(log_p, 100_000, None)
    assert codes.shape == (3, 100_000)
    shares = torch.stack([torch.bincount(row, minlength=5) for row in codes]) / 100_000
    torch.testing.assert_close(shares, log_p.exp(), rtol=0, atol=0.01)
    never = torch.tensor([[0.0, -1e9, -1e9]]).log_softmax(-1)
    assert (draw_codes(never, 1000, None) == 0).all()
