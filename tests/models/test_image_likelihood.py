"""The VQ-VAE, VAE and VIMCO with a likelihood: bounds by hand, gradients, and what they cost."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vqtrt.config.images import ModelConfig
from vqtrt.models.bounds import multi_sample_bound, vimco_surrogate
from vqtrt.models.heads import normalize
from vqtrt.models.image_graphs import DecoderGraph, EncoderGraph
from vqtrt.models.image_likelihood import VAE, VIMCO, LikelihoodVQVAE, build_likelihood_model

DIMENSIONS = 8 * 8 * 3


def model_of(latents: str, **likelihood: Any):
    torch.manual_seed(0)
    config = ModelConfig.model_validate(
        {
            "hidden": 8,
            "residual_hidden": 4,
            "residual_blocks": 1,
            "quantizer": {"codebook_size": 6, "dim": 3, "num_codebooks": 2, "kind": "gradient"},
            "likelihood": {
                "head": "categorical",
                "latents": latents,
                "gaussian_channels": 3,
                "samples": 4,
            }
            | likelihood,
        }
    )
    return build_likelihood_model(config)


def pictures(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(
    ("latents", "kind"), [("codes", LikelihoodVQVAE), ("gaussian", VAE), ("vimco", VIMCO)]
)
@pytest.mark.parametrize("head", ["categorical", "gaussian"])
def test_the_parts_of_a_bound_add_up(latents, kind, head):
    model, images = model_of(latents, head=head), pictures()
    assert isinstance(model, kind)
    model.eval()
    bound = model.bounds(images, 3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(bound.single, bound.reconstruction - bound.latents)
    assert all(value.shape == (5,) and value.dtype == torch.float64 for value in bound)
    assert model.reconstructed(images).shape == (5, 3, 8, 8)
    losses = model(images)
    torch.testing.assert_close(losses.bits_per_dim, losses.reconstruction + losses.latents)
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_codes_cost_what_a_uniform_prior_says():
    model, images = model_of("codes").eval(), pictures()
    bound = model.bounds(images, 1)
    torch.testing.assert_close(bound.latents, torch.full((5,), 2 * 4 * math.log(6)).double())
    torch.testing.assert_close(bound.single, bound.multi)
    codes = model.quantizer.encode(model.encoder(normalize(images)))
    logits = model.head(model.decoder(model.quantizer.lookup(codes))).double()
    wanted = torch.distributions.Categorical(logits=logits).log_prob(images.long()).sum((1, 2, 3))
    torch.testing.assert_close(bound.reconstruction, wanted)


def test_a_sampled_elbo_is_that_of_the_closed_form():
    """And the bound from several samples is not below it."""
    model, image = model_of("gaussian").eval(), pictures(1).expand(400, -1, -1, -1)
    mean, log_scale = model.posterior(image)
    bound = model.bounds(image, 1, torch.Generator().manual_seed(0))
    one = torch.distributions.Normal(mean.double(), log_scale.double().exp())
    z = one.sample()
    zero = torch.zeros_like(z)
    prior = torch.distributions.Normal(zero, zero + 1).log_prob(z) - one.log_prob(z)
    log_p = model.head.log_prob(model.decoder(z.float()), image)
    sampled = log_p + prior.sum((1, 2, 3))
    error = sampled.std() / 20 + bound.single.std() / 20
    assert (sampled.mean() - bound.single.mean()).abs() < 4 * error
    many = model.bounds(image[:50], 20, torch.Generator().manual_seed(0))
    assert many.multi.mean() > many.single.mean()


def test_uniform_logits_cost_nothing():
    model = model_of("vimco").eval()
    torch.nn.init.zeros_(model.encoder[-1].weight)
    torch.nn.init.zeros_(model.encoder[-1].bias)
    bound = model.bounds(pictures(), 4)
    torch.testing.assert_close(bound.latents, torch.zeros(5).double(), rtol=0, atol=1e-4)


def test_vimco_steps_along_the_gradient_of_all_samples(monkeypatch):
    """The encoder's gradient exactly; the decoder's, by one sample, in expectation."""
    model, images = model_of("vimco"), pictures(2)
    names = dict(model.named_parameters())
    torch.manual_seed(5)
    log_q = model.log_q(images)
    codes, _, chosen = model.sampled(log_q, images, 4)
    log_p = torch.stack([model.log_p(some, images) for some in codes], -1)
    log_w = log_p - 2 * 4 * math.log(6) - chosen
    wanted = torch.autograd.grad(
        vimco_surrogate(log_w, chosen).mean() / DIMENSIONS,
        list(names.values()),
        retain_graph=True,
    )
    sums = [torch.zeros_like(p) for p in names.values()]
    draws = 300
    for draw in range(draws):
        monkeypatch.setattr(model, "sampled", lambda *args: (codes, log_p.detach(), chosen))
        torch.manual_seed(draw)
        made = torch.autograd.grad(-model(images).total, list(names.values()), retain_graph=True)
        for total, gradient in zip(sums, made, strict=True):
            total += gradient / draws
    for name, mean, gradient in zip(names, sums, wanted, strict=True):
        if name.startswith("encoder"):
            torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-7)
        else:
            assert (mean - gradient).norm() < 0.2 * gradient.norm() + 1e-7, name


def test_more_samples_give_a_tighter_bound():
    model, images = model_of("vimco").eval(), pictures(40)
    generator = torch.Generator().manual_seed(0)
    few, many = model.bounds(images, 2, generator), model.bounds(images, 50, generator)
    assert many.multi.mean() > few.multi.mean() > few.single.mean()


def test_the_weight_of_the_kl_rises():
    model, images = model_of("gaussian"), pictures()
    torch.manual_seed(0)
    without = model(images, 0.0)
    torch.manual_seed(0)
    with_kl = model(images, 1.0)
    more = (with_kl.total - without.total) / math.log(2)
    torch.testing.assert_close(more, with_kl.latents, rtol=1e-4, atol=1e-5)


def test_graphs_of_a_model_with_a_likelihood_give_the_mean():
    model, images = model_of("codes").eval().requires_grad_(False), pictures()
    codes = EncoderGraph(model)(images)
    decoded = DecoderGraph(model)(codes)
    wanted = (model.decode(codes.long()) + 0.5) * 255
    assert decoded.dtype == torch.uint8
    assert (decoded.permute(0, 3, 1, 2).float() - wanted.clamp(0, 255)).abs().max() <= 0.501


def test_latents_without_a_likelihood_are_an_error():
    with pytest.raises(ValidationError, match="set head to categorical"):
        ModelConfig.model_validate({"likelihood": {"latents": "vimco"}})


def test_the_bound_of_equal_weights_is_their_logarithm():
    log_w = torch.full((3, 7), -2.5).double()
    torch.testing.assert_close(multi_sample_bound(log_w), log_w[:, 0])
