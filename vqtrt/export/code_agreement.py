"""How far two encoders agree: the codes that differ, and by what margin each does.

The margin of a code is the relative gap between the squared distance to the entry that was chosen
and to the nearest one. Float32 rounding can decide only between entries that are equally near, so
beyond a margin of 1e-5 every code has to agree. (Expected codes are those of torch in float64: in
float32 torch's own rounding would be the larger part of what is measured.)

The encoder also rounds. If its vector is off by δ, another entry can become the nearest if the
margin is below 4·|δ| / √d. In a model whose activations are large, that can be more than 1e-5. It
is measured where codes differ, as the distance of torch in float32 from torch in float64: a code
may then differ within twice that bound (engines add up in another order), but never beyond 1e-3.

In half precision what makes z is rounded: codes may differ within a wider margin, but 99.5 % (fp16)
have to agree.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MARGIN = 1e-5
"""Where two entries are nearer to each other than this, rounding may choose either."""
MARGINS = {"fp32": MARGIN, "fp16": 0.03, "bf16": 0.25}
"""The same by precision.

An error δ of z makes another entry the nearest only where the margin is below 4·|δ| / √d. Of the
recipe cifar10-small with all of fp16's rounding, |δ| is 6e-4 of |z| and that bound 0.009 in the
mean; codes changed up to a margin of 0.0035, and in bf16, which rounds 8 times as coarsely, 0.063.
"""
ROUNDING_SLACK = 2.0
"""How much more than torch an engine may round in float32: sums are added in another order."""
MAX_MARGIN = 1e-3
"""The largest margin that float32 rounding may excuse, whatever was measured.

On CIFAR-10's recipe after 38,405 steps, 3 of 163,840 codes differed, by margins of up to 2.3e-4;
the bound 4·|δ| / √d was 6e-5 in the median and 4e-4 at most.
"""
AGREEMENTS = {"fp16": 0.995, "bf16": 0.98}
"""The least share of equal codes; 0.9987 and 0.9887 were measured on cifar10-small in torch."""
_CHUNK = 1 << 22
"""Differences (float64) held at once while the nearest entries are looked for."""


class CodeAgreement:
    """Counts of codes that agreed and of those that did not.

    `codebooks` float64 (C, K, D).
    """

    def __init__(self, codebooks: Tensor, precision: str = "fp32") -> None:
        self.codebooks, self.precision = codebooks, precision
        self.codes = self.mismatches = self.beyond = 0
        self.max_margin = 0.0

    def expected(self, z: Tensor) -> Tensor:
        """The codes by definition, argmin |z − e|, int64 (M, C), of float64 vectors (M, C, D)."""
        squares = self.codebooks.square().sum(-1)[:, None]
        products = torch.baddbmm(squares, z.transpose(0, 1), self.codebooks.mT, alpha=-2)
        return products.argmin(-1).T

    def add(self, count: int) -> None:
        """Count codes that were compared."""
        self.codes += count

    def add_mismatches(
        self,
        z: Tensor,
        expected: NDArray[Any],
        tested: NDArray[Any],
        rounded: Tensor | None = None,
    ) -> None:
        """Judge codes some of which differ, of float64 vectors z (M, C, D); not counted anew.

        `rounded` are the vectors of torch in float32, for fp32.
        """
        margins, distances = self.margins(z, expected, tested)
        allowed = np.full(len(margins), MARGINS[self.precision])
        if rounded is not None and self.precision == "fp32" and len(margins):
            # Of the worst vector: how an engine rounds one is not how torch does.
            error = float((rounded.double() - z).square().sum(-1).max()) ** 0.5
            bound = ROUNDING_SLACK * 4 * error / np.sqrt(np.maximum(distances, 1e-300))
            allowed = np.maximum(allowed, np.minimum(bound, MAX_MARGIN))
        self.mismatches += len(margins)
        self.beyond += int((margins > allowed).sum())
        self.max_margin = max(self.max_margin, float(margins.max(initial=0.0)))

    def margins(
        self, z: Tensor, expected: NDArray[Any], tested: NDArray[Any]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The margin of each code that differs, and the squared distance to its chosen entry."""
        c, k, _ = self.codebooks.shape
        both = torch.from_numpy(np.stack([expected, tested], -1).astype(np.int64)).reshape(-1, c, 2)
        differs = both[..., 0] != both[..., 1]
        some = differs.any(1)
        z, both = z[some][:, :, None], both[some]
        chosen = (z - self.codebooks[torch.arange(c)[:, None], both]).square().sum(-1).amax(-1)
        nearest = torch.full_like(chosen, torch.inf)
        # In chunks: if all codes are wrong, all distances at once would not fit in memory.
        step = max(1, _CHUNK // max(1, z.numel()))
        for start in range(0, k, step):
            entries = self.codebooks[:, start : start + step]
            nearest = nearest.minimum((z - entries).square().sum(-1).amin(-1))
        margin = (chosen - nearest) / chosen.clamp_min(1e-300)
        where = differs[some]
        return margin[where].numpy(), chosen[where].numpy()

    @property
    def share(self) -> float:
        """Of equal codes."""
        return 1 - self.mismatches / self.codes

    @property
    def good(self) -> bool:
        """Whether rounding explains all that differs, and in half not too much does."""
        return self.beyond == 0 and self.share >= AGREEMENTS.get(self.precision, 0.0)

    def figures(self) -> dict[str, Any]:
        """All counts and shares, by the names that `verify` gives them."""
        return {
            "code_agreement": self.share,
            "code_agreement_beyond_margin": 1 - self.beyond / self.codes,
            "mismatches": self.mismatches,
            "max_mismatch_margin": self.max_margin,
            "codes": self.codes,
        }

    def invariance(self, what: str) -> dict[str, Any]:
        """The same of codes that were made twice, in other batches or chunks: `what` says which."""
        return {
            f"{what}_invariance": self.share,
            f"{what}_invariance_beyond_margin": 1 - self.beyond / self.codes,
            f"max_{what}_margin": self.max_margin,
        }
