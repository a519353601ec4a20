"""Heads: distributions of bytes that add up to one, and losses at some pixels without bias."""

import math

import pytest
import torch

from vqtrt.config.images import LikelihoodConfig
from vqtrt.models.heads import (
    CategoricalHead,
    GaussianHead,
    ValueHead,
    bits_per_dim,
    build_head,
    normalize,
)

HEADS = ["categorical", "gaussian"]


def head_of(kind: str):
    torch.manual_seed(1)
    return build_head(LikelihoodConfig(head=kind), 8)


def test_the_settings_name_the_head():
    assert isinstance(head_of("categorical"), CategoricalHead)
    assert isinstance(head_of("gaussian"), GaussianHead)
    assert isinstance(head_of("mse"), ValueHead)


@pytest.mark.parametrize("kind", HEADS)
def test_the_256_bytes_share_all_of_the_probability(kind):
    head, features = head_of(kind), 3 * torch.randn(1, 8, 2, 2)
    levels = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1).expand(256, 2, 2, 3)
    total = head.log_probs(features.expand(256, -1, -1, -1), levels).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2, 2, 3), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", HEADS)
def test_an_image_is_the_mean(kind):
    head, features = head_of(kind), torch.randn(1, 8, 3, 3)
    levels = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1).expand(256, 3, 3, 3)
    p = head.log_probs(features.expand(256, -1, -1, -1), levels).exp()
    mean = (p * (torch.arange(256.0) / 255 - 0.5).reshape(256, 1, 1, 1)).sum(0).permute(2, 0, 1)
    # The tails of a Gaussian lie outside of the bytes.
    torch.testing.assert_close(head.image(features)[0], mean, rtol=0, atol=0.2)
    if kind == "categorical":
        torch.testing.assert_close(head.image(features)[0], mean, rtol=0, atol=1e-5)


def test_equal_logits_cost_8_bits():
    head = head_of("categorical")
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    levels = torch.randint(0, 256, (4, 5, 6, 3), dtype=torch.uint8)
    wide = torch.where(torch.arange(6) < 3, 0.0, -1e6)  # a bell of almost no weight
    with torch.no_grad():
        head.bell.bias.copy_(wide)
    bits = bits_per_dim(head.log_prob(torch.randn(4, 8, 5, 6), levels), levels)
    # The bell's scale is bounded: its ends are 150 times as wide as the range.
    torch.testing.assert_close(bits, torch.full((4,), 8.0).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", HEADS)
def test_some_positions_estimate_all_without_bias(kind):
    head, features = head_of(kind), torch.randn(2, 8, 4, 4)
    levels = torch.randint(0, 256, (2, 4, 4, 3), dtype=torch.uint8)
    whole = head.log_prob(features, levels)
    torch.testing.assert_close(head.estimated(features, levels, None), whole)
    torch.testing.assert_close(head.estimated(features, levels, 16), whole)
    torch.manual_seed(0)
    some = torch.stack([head.estimated(features, levels, 4) for _ in range(2000)]).detach()
    error = some.std(0) / math.sqrt(2000)
    assert ((some.mean(0) - whole.detach()).abs() < 5 * error + 1e-6).all()


def test_a_far_byte_has_a_finite_likelihood_and_gradient():
    head = head_of("gaussian")
    with torch.no_grad():
        head.bell.weight.zero_()
        head.bell.bias.copy_(torch.tensor([-1.0, 1.0, 0.0, 7.0, 7.0, 7.0]))
    levels = torch.tensor([0, 1, 127, 254, 255], dtype=torch.uint8)
    levels = levels.reshape(5, 1, 1, 1).expand(5, 1, 1, 3)
    features = torch.randn(5, 8, 1, 1, requires_grad=True)
    log_p = head.log_probs(features, levels)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert features.grad.isfinite().all()
    assert head.bell.weight.grad.isfinite().all()


def test_bytes_come_back_from_their_normalized_values():
    """Truncation in place of rounding would give 63 of the 256 bytes one lower."""
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    back = ((normalize(levels) + 0.5) * 255).round().permute(0, 2, 3, 1)
    assert torch.equal(back.to(torch.uint8), levels)
