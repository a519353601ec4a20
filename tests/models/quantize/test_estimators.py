"""Estimators: the entries to the bit, and gradients of the promised length and angle."""

import copy

import pytest
import torch
from pydantic import ValidationError

from vqtrt.config.parts import QuantizerConfig
from vqtrt.models.quantize import build_quantizer
from vqtrt.models.quantize.estimators import ESTIMATORS, rotation


def angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    return cosine.clamp(-1, 1)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_is_the_entry_to_the_bit(name, dtype):
    torch.manual_seed(0)
    z = (1e3 * torch.randn(3, 500, 7, dtype=dtype)).requires_grad_()
    entries = torch.randn(3, 500, 7, dtype=dtype)
    assert torch.equal(ESTIMATORS[name](z, entries), entries)


def test_straight_through_gives_the_gradient_as_it_is():
    z, entries = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4)
    gradient = torch.randn(5, 4)
    ESTIMATORS["straight-through"](z, entries).backward(gradient)
    assert torch.equal(z.grad, gradient)


@pytest.mark.parametrize("dim", [2, 3, 64])
def test_a_rotated_gradient_keeps_its_angle_and_scales_by_the_ratio(dim):
    torch.manual_seed(1)
    z = torch.randn(200, dim, dtype=torch.float64, requires_grad=True)
    entries = torch.randn(200, dim, dtype=torch.float64)
    gradient = torch.randn(200, dim, dtype=torch.float64)
    rotation(z, entries).backward(gradient)
    assert z.grad is not None
    near = torch.nn.functional.cosine_similarity(z.detach(), entries) < -0.999
    ratio = (entries.norm(dim=-1) / z.detach().norm(dim=-1))[~near]
    torch.testing.assert_close(z.grad[~near].norm(dim=-1), gradient[~near].norm(dim=-1) * ratio)
    torch.testing.assert_close(
        angle(z.grad, z.detach())[~near], angle(gradient, entries)[~near], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_vectors_have_finite_gradients(dtype):
    e = torch.tensor([3.0, -1.0, 0.5], dtype=dtype)
    pairs = [(0 * e, e), (e, 0 * e), (0 * e, 0 * e), (e, -2 * e), (1e-7 * e, e), (e, e), (e, 2 * e)]
    z = torch.stack([one for one, _ in pairs]).requires_grad_()
    entries = torch.stack([other for _, other in pairs])
    made = rotation(z, entries)
    assert torch.equal(made, entries)
    made.sum().backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert (z.grad.norm(dim=-1) < 10).all()
    torch.testing.assert_close(z.grad[5], torch.ones_like(e))
    torch.testing.assert_close(z.grad[6], 2 * torch.ones_like(e))


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_a_quantizer_rotates_if_it_is_told_to(kind):
    grads = []
    for estimator in ESTIMATORS:
        torch.manual_seed(2)
        config = QuantizerConfig(
            kind=kind, codebook_size=5, dim=4, num_codebooks=2, estimator=estimator, beta=0
        )
        quantizer, z = build_quantizer(config), torch.randn(3, 8, 2, 2, requires_grad=True)
        before = copy.deepcopy(quantizer)  # training moves the codebook
        made = quantizer(z)
        torch.testing.assert_close(made.vectors, before.lookup(made.codes), rtol=0, atol=0)
        made.vectors.square().sum().backward()
        grads.append(z.grad)
    assert not torch.equal(*grads)


def test_a_number_has_no_angle():
    with pytest.raises(ValidationError, match="a number has no angle"):
        QuantizerConfig(dim=1, estimator="rotation")
