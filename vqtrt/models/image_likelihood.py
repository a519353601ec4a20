"""The three models of the paper's likelihoods (section 4.1), on the same encoder and decoder.

VQ-VAE, a continuous VAE (Kingma & Welling 2013) and VIMCO (Mnih & Rezende 2016). All take bytes,
and all give log p(x | z) by the same head.
"""

import math
from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vqtrt.config.images import ModelConfig
from vqtrt.models.bounds import (
    Bound,
    draw_codes,
    gaussian_kl,
    leave_one_out,
    multi_sample_bound,
)
from vqtrt.models.heads import LikelihoodHead, bits_per_dim, build_head, normalize
from vqtrt.models.image import VQVAE
from vqtrt.models.image_parts import Decoder, Encoder, feature_channels
from vqtrt.models.quantize.base import entries_of

_START_LOG_SCALE = -2.0
"""Of the VAE's latents at first: little noise, so that the decoder has something to learn from."""
_DECODED_AT_ONCE = 64
"""Images that are decoded in one run without gradients."""


class LikelihoodLosses(NamedTuple):
    """What a training step looks at; scalars."""

    total: Tensor
    """What is minimized, in nats for each channel of each pixel."""
    bits_per_dim: Tensor
    """The model's bound, in bits for each channel of each pixel."""
    reconstruction: Tensor
    """-log p(x | z), in the same unit."""
    latents: Tensor
    """What the latents cost, in the same unit: KL, or the codes under a uniform prior."""


class LikelihoodModel(nn.Module):
    """A model of bytes `images` (N, H, W, 3) uint8; H and W divisible by the stride."""

    head: LikelihoodHead

    @abstractmethod
    def forward(self, images: Tensor, kl_weight: float = 1.0) -> LikelihoodLosses:
        """The losses of a batch."""

    @abstractmethod
    def bounds(
        self, images: Tensor, samples: int, generator: torch.Generator | None = None
    ) -> Bound:
        """Bounds of log p(x), without gradients; `samples` is S of the bound from several."""

    @abstractmethod
    def reconstructed(self, images: Tensor) -> Tensor:
        """Reconstructions (N, 3, H, W) about [−0.5, 0.5] without noise."""


class LikelihoodVQVAE(VQVAE, LikelihoodModel):
    """The VQ-VAE with a likelihood: log p(x | z_q(x)) + log p(z_q(x)), a bound by Jensen (3.2)."""

    head: LikelihoodHead

    def encode(self, images: Tensor) -> Tensor:
        """Codes (N, h, w, C) int64."""
        return self.quantizer.encode(self.encoder(normalize(images)))

    def forward(  # type: ignore[override]
        self, images: Tensor, kl_weight: float = 1.0
    ) -> LikelihoodLosses:
        """Equation 3; the prior is uniform while it trains, so the KL is constant (3.1)."""
        quantized = self.quantizer(self.encoder(normalize(images)))
        features = self.decoder(
            self._hidden(quantized.vectors) if self.training else quantized.vectors
        )
        log_p = self.head.estimated(features, images, self.config.likelihood.positions).mean()
        cost = torch.full_like(log_p, _code_nats(self.config, images))
        return _losses(images, log_p, cost, log_p / images[0].numel() - quantized.loss)

    @torch.no_grad()
    def bounds(
        self, images: Tensor, samples: int, generator: torch.Generator | None = None
    ) -> Bound:
        """The bound with the uniform prior; `samples` changes nothing."""
        codes = self.encode(images)
        log_p = self.head.log_prob(self.decoder(self.quantizer.lookup(codes)), images)
        cost = torch.full_like(log_p, _code_nats(self.config, images))
        return Bound(log_p - cost, log_p - cost, log_p, cost)

    def reconstructed(self, images: Tensor) -> Tensor:
        """From the codes."""
        return self.decode(self.encode(images))


class VAE(LikelihoodModel):
    """The continuous VAE: diagonal Gaussians, the reparametrization trick, the ELBO."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.channels = config.likelihood.gaussian_channels
        self.encoder = Encoder(config, 2 * self.channels)
        self.decoder = Decoder(config, self.channels)
        self.head = _head(config)

    def posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (N, L, h, w) of q(z | x)."""
        mean, log_scale = self.encoder(normalize(images)).float().chunk(2, 1)
        return mean, (log_scale + _START_LOG_SCALE).clamp(-10, 5)

    def forward(self, images: Tensor, kl_weight: float = 1.0) -> LikelihoodLosses:
        """−ELBO with one sample; the KL in closed form, times `kl_weight`."""
        mean, log_scale = self.posterior(images)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        features = self.decoder(z)
        log_p = self.head.estimated(features, images, self.config.likelihood.positions).mean()
        kl = gaussian_kl(mean, log_scale).mean()
        return _losses(images, log_p, kl, (log_p - kl_weight * kl) / images[0].numel())

    @torch.no_grad()
    def bounds(
        self, images: Tensor, samples: int, generator: torch.Generator | None = None
    ) -> Bound:
        """ELBO of the first sample with the KL in closed form; IWAE of all."""
        mean, log_scale = self.posterior(images)
        kl = gaussian_kl(mean, log_scale)
        log_w, log_p = [], []
        for _ in range(samples):
            noise = torch.empty_like(mean).normal_(generator=generator)
            z = mean + log_scale.exp() * noise
            log_p.append(self.head.log_prob(self.decoder(z), images))
            # log p(z) − log q(z | x); the constants of the two densities cancel.
            ratio = 0.5 * (noise.double() ** 2 - z.double() ** 2) + log_scale.double()
            log_w.append(log_p[-1] + ratio.flatten(1).sum(-1))
        single = log_p[0] - kl
        multi = multi_sample_bound(torch.stack(log_w, -1)) if samples > 1 else single
        return Bound(single, multi, log_p[0], kl)

    def reconstructed(self, images: Tensor) -> Tensor:
        """From the mean of q."""
        return self.head.image(self.decoder(self.posterior(images)[0]))


class VIMCO(LikelihoodModel):
    """Discrete latents: independent categoricals, a uniform prior, a bound of several samples.

    The encoder gives logits; a sample is a code at each position for each codebook, and the decoder
    gets their entries. The loss is −log (1/S) Σ w with the gradient of arXiv 1602.06725.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        c, k, d = (
            config.quantizer.num_codebooks,
            config.quantizer.codebook_size,
            config.quantizer.dim,
        )
        self.encoder = Encoder(config, c * k)
        self.codebook = nn.Parameter(torch.randn(c, k, d) / d**0.5)
        self.decoder = Decoder(config, c * d)
        self.head = _head(config)

    def log_q(self, images: Tensor) -> Tensor:
        """log q(z | x) of each code: (N, h, w, C, K)."""
        c = self.config.quantizer.num_codebooks
        logits = self.encoder(normalize(images)).float().permute(0, 2, 3, 1)
        out: Tensor = logits.unflatten(-1, (c, -1)).log_softmax(-1)
        return out

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries (N, C·D, h, w) of codes (N, h, w, C)."""
        return entries_of(self.codebook, codes)

    def log_p(self, codes: Tensor, images: Tensor) -> Tensor:
        """log p(x | z) (N,) float64 of codes (N, h, w, C)."""
        return self.head.log_prob(self.decoder(self.lookup(codes)), images)

    def sampled(
        self, log_q: Tensor, images: Tensor, samples: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes (S, N, h, w, C) of q, log p(x | z) and log q(z | x), both (N, S) float64.

        log q has its gradient; log p has none, so that memory does not grow with S.
        """
        drawn = draw_codes(log_q.detach(), samples, generator)
        chosen = log_q.gather(-1, drawn).double().sum((1, 2, 3))
        codes = drawn.movedim(-1, 0)
        with torch.no_grad():
            count = max(1, _DECODED_AT_ONCE // len(images))
            log_p = [
                self.log_p(some.flatten(0, 1), images.repeat(len(some), 1, 1, 1))
                for some in torch.split(codes, count)
            ]
        return codes, torch.cat(log_p).reshape(samples, -1).T, chosen

    def forward(self, images: Tensor, kl_weight: float = 1.0) -> LikelihoodLosses:
        """The gradient of VIMCO, with one sample's decoder in memory.

        With v = softmax(log w), the gradient is Σ (L − L₋ⱼ − vⱼ) ∇log q(zⱼ) + Σ vⱼ ∇log p(x | zⱼ).
        The second sum is estimated by one sample that is drawn by v, which is unbiased.
        """
        samples = self.config.likelihood.samples
        log_q = self.log_q(images)
        codes, log_p, chosen = self.sampled(log_q, images, samples)
        log_w = (log_p - _code_nats(self.config, images) - chosen).detach()
        bound, weights = multi_sample_bound(log_w), log_w.softmax(-1)
        signal = bound[:, None] - leave_one_out(log_w) - weights
        which = torch.multinomial(weights, 1)[:, 0]
        drawn = codes[which, torch.arange(len(images), device=codes.device)]
        wanted = (signal * chosen).sum(-1) + self.log_p(drawn, images)
        reconstruction = (weights * log_p).sum(-1).mean()
        out = _losses(
            images, reconstruction, reconstruction - bound.mean(), wanted.mean() / images[0].numel()
        )
        return out

    @torch.no_grad()
    def bounds(
        self, images: Tensor, samples: int, generator: torch.Generator | None = None
    ) -> Bound:
        """The bounds from one sample and from all of them."""
        log_q = self.log_q(images)
        _, log_p, chosen = self.sampled(log_q, images, samples, generator)
        log_w = log_p - _code_nats(self.config, images) - chosen
        return Bound(log_w[:, 0], multi_sample_bound(log_w), log_p[:, 0], log_p[:, 0] - log_w[:, 0])

    def reconstructed(self, images: Tensor) -> Tensor:
        """From the most likely codes."""
        return self.head.image(self.decoder(self.lookup(self.log_q(images).argmax(-1))))


def build_likelihood_model(config: ModelConfig) -> LikelihoodModel:
    """The model that the settings name; they have a head with a likelihood."""
    kinds: dict[str, type[LikelihoodModel]] = {
        "codes": LikelihoodVQVAE,
        "gaussian": VAE,
        "vimco": VIMCO,
    }
    return kinds[config.likelihood.latents](config)


def _code_nats(config: ModelConfig, images: Tensor) -> float:
    """−log p(z) of all codes of an image (N, H, W, 3) under the uniform prior: N log K."""
    height, width = images.shape[1] // config.stride, images.shape[2] // config.stride
    count = height * width * config.quantizer.num_codebooks
    return count * math.log(config.quantizer.codebook_size)


def _head(config: ModelConfig) -> LikelihoodHead:
    head = build_head(config.likelihood, feature_channels(config))
    assert isinstance(head, LikelihoodHead)  # noqa: S101 - the settings see to it
    return head


def _losses(images: Tensor, log_p: Tensor, cost: Tensor, wanted: Tensor) -> LikelihoodLosses:
    """Losses from the batch's mean log p and cost in nats, and from what is to grow."""
    log_p, cost = log_p.detach(), cost.detach()
    bits = [bits_per_dim(value, images) for value in (log_p - cost, log_p, -cost)]
    return LikelihoodLosses(-wanted.float(), *(value.float() for value in bits))
