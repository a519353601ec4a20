"""What all quantizers share: the nearest code, the straight-through step, care for dead codes.

Nobody reads `codebook` but the quantizer itself: others use `encode`, `lookup`, `entries` and
`deployed`, so that a quantizer of another kind is a change of one file.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.parts import QuantizerConfig
from vqtrt.models.quantize.deployed import DeployedQuantizer, Nearest
from vqtrt.models.quantize.distances import distance_terms, nearest_codes
from vqtrt.models.quantize.estimators import ESTIMATORS


class Quantized(NamedTuple):
    """What a quantizer makes of the encoder's output."""

    vectors: Tensor
    """(N, C·D, h, w) float32, the chosen entries; gradients pass to the input by `estimator`."""
    codes: Tensor
    """(N, h, w, C) int64, 0 ≤ code < K."""
    loss: Tensor
    """Scalar: codebook loss plus β times commitment loss, each averaged over all latents."""
    perplexity: Tensor
    """Scalar: exp of the entropy of the batch's codes, averaged over the codebooks."""


class VectorQuantizer(nn.Module, ABC):
    """C codebooks of K entries of length D; `codebook` is (C, K, D), float32."""

    codebook: Tensor
    usage: Tensor
    """(C, K) float32: moving average of how often each code is used in a step."""
    updates: Tensor
    """Scalar int64: training steps so far."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.num_codebooks, config.codebook_size)
        self.register_buffer("usage", torch.ones(shape))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def _learn(self, z: Tensor, codes: Tensor, quantized: Tensor) -> Tensor:
        """Codebook loss for z (C, M, D), codes (C, M); in training also what moves the codebook."""

    @abstractmethod
    def _replace(self, mask: Tensor, vectors: Tensor, usage: Tensor) -> None:
        """Set the entries where mask (C, K) is true to vectors (C, K, D), used `usage` a step."""

    def _commitment(self, z: Tensor, quantized: Tensor) -> Tensor:
        """The loss that keeps z (C, M, D) near its entries, before it is weighted."""
        return F.mse_loss(z, quantized)

    def forward(self, z: Tensor) -> Quantized:
        """Quantize the encoder's output z (N, C·D, h, w); in training mode also learn from it."""
        with torch.autocast(z.device.type, enabled=False):
            flat = self._split(z.float())
            codes = self._nearest(flat.detach())
            quantized = self._gather(codes)
            commitment = self._commitment(flat, quantized.detach())
            loss = self.config.beta * commitment + self._learn(flat, codes, quantized)
            estimator = ESTIMATORS[self.config.estimator]
            vectors = self._join(estimator(flat, quantized), z.shape)
        n, _, h, w = z.shape
        return Quantized(vectors, codes.T.reshape(n, h, w, -1), loss, self._perplexity(codes))

    def encode(self, z: Tensor) -> Tensor:
        """Codes (N, h, w, C) int64 of the encoder's output z (N, C·D, h, w)."""
        n, _, h, w = z.shape
        with torch.autocast(z.device.type, enabled=False):
            return self._nearest(self._split(z.float())).T.reshape(n, h, w, -1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Entries (N, C·D, h, w) for codes (N, h, w, C)."""
        return entries_of(self.codebook, codes)

    def entries(self) -> Tensor:
        """What the codes of each codebook stand for: (C, K, D) float32, without gradients."""
        c, k = self.config.num_codebooks, self.config.codebook_size
        codes = torch.arange(k, device=self.usage.device)[:, None, None, None].expand(k, 1, 1, c)
        vectors = self.lookup(codes).detach()[:, :, 0, 0]
        return vectors.reshape(k, c, -1).transpose(0, 1).contiguous()

    def deployed(self) -> DeployedQuantizer:
        """The form that graphs have: a copy, which later training does not change."""
        return Nearest(self.entries())

    @torch.no_grad()
    def start_from(self, z: Tensor) -> None:
        """Take the first codebook from encoder output z (N, C·D, h, w): no entry starts dead."""
        flat = self._split(z.float())
        entries = _draw(flat, self.config.codebook_size)
        # More codes than latents: repeated entries would stay equal forever without a nudge.
        if self.config.codebook_size > flat.shape[1]:
            entries = entries + 1e-3 * entries.std() * torch.randn_like(entries)
        uniform = torch.full_like(self.usage, flat.shape[1] / self.config.codebook_size)
        self._replace(torch.ones_like(self.usage, dtype=torch.bool), _from_first(entries), uniform)

    @torch.no_grad()
    def _restart_dead(self, z: Tensor) -> None:
        """Replace the codes that are hardly used by vectors of this step, z (C, M, D)."""
        if self.config.restart_below == 0:
            return
        uniform = self.usage.sum(-1, keepdim=True) / self.config.codebook_size
        dead = self.usage < self.config.restart_below * uniform
        entries = _from_first(_draw(z, self.config.codebook_size))
        self._replace(dead, entries, uniform.expand_as(self.usage))

    def _next_decay(self) -> Tensor:
        """The decay of this step: the averages are short at first and grow to `config.decay`.

        In its first steps the encoder moves far. Averages over 100 steps would stay behind, a few
        entries would win all vectors, and the dead ones would not be noticed for hundreds of
        steps. (The authors' Sonnet code has short averages at first too: it removes their bias.)
        """
        step = self.updates.float()
        self.updates += 1
        return torch.clamp((1 + step) / (10 + step), max=self.config.decay)

    def _count(self, codes: Tensor) -> Tensor:
        """How often each code occurs in codes (C, M), summed over processes: (C, K) float32."""
        k = self.config.codebook_size
        counts = torch.stack([torch.bincount(row, minlength=k) for row in codes]).float()
        return sum_over_processes(counts)

    def _nearest(self, flat: Tensor) -> Tensor:
        terms = zip(flat, self.codebook, strict=True)
        return torch.stack([nearest_codes(z, *distance_terms(book)) for z, book in terms])

    def _gather(self, codes: Tensor) -> Tensor:
        pairs = zip(codes, self.codebook, strict=True)
        return torch.stack([F.embedding(row, book) for row, book in pairs])

    def _split(self, z: Tensor) -> Tensor:
        """(N, C·D, h, w) to (C, N·h·w, D)."""
        c, d = self.config.num_codebooks, self.config.dim
        return z.permute(0, 2, 3, 1).reshape(-1, c, d).transpose(0, 1)

    @staticmethod
    def _join(flat: Tensor, shape: torch.Size) -> Tensor:
        n, channels, h, w = shape
        return flat.transpose(0, 1).reshape(n, h, w, channels).permute(0, 3, 1, 2)

    @torch.no_grad()
    def _perplexity(self, codes: Tensor) -> Tensor:
        k = self.config.codebook_size
        counts = torch.stack([torch.bincount(row, minlength=k) for row in codes]).float()
        p = counts / codes.shape[1]
        return torch.exp(torch.special.entr(p).sum(-1)).mean()


def entries_of(codebook: Tensor, codes: Tensor) -> Tensor:
    """Entries (N, C·D, h, w) of a codebook (C, K, D) for codes (N, h, w, C)."""
    entries = [F.embedding(codes[..., i], book) for i, book in enumerate(codebook)]
    return torch.cat(entries, -1).permute(0, 3, 1, 2)


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum over all processes of a distributed run; the value itself in a single one."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(value)
    return value


def _from_first(value: Tensor) -> Tensor:
    """The first process's value on every process, so that all codebooks stay equal."""
    value = value.contiguous()
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(value, src=0)
    return value


def _draw(flat: Tensor, count: int) -> Tensor:
    """`count` random vectors of each (M, D) of flat (C, M, D), without repeats where M allows."""
    m = flat.shape[1]
    if m >= count:
        index = torch.randperm(m, device=flat.device)[:count]
    else:
        index = torch.randint(m, (count,), device=flat.device)
    return flat[:, index].detach().clone()
