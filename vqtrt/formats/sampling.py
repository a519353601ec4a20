"""How codes are drawn from the distribution at a position."""

from dataclasses import dataclass

from vqtrt.errors import VqtrtError


@dataclass(frozen=True)
class SamplingParams:
    """How codes are drawn from the distribution at a position."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most likely code."""
    top_k: int | None = None
    """Only the k most likely codes; None for all."""
    top_p: float = 1.0
    """Only the fewest codes that hold this share of the probability."""
    seed: int = 0

    def check(self, codebook_size: int) -> None:
        """Raise `VqtrtError` for a value out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise VqtrtError(f"temperature {self.temperature}: must be 0 or more")
        if self.top_k is not None and not 1 <= self.top_k <= codebook_size:
            raise VqtrtError(f"top-k {self.top_k}: must be 1 to {codebook_size}, the codebook")
        if not 0 < self.top_p <= 1:
            raise VqtrtError(f"top-p {self.top_p}: must be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise VqtrtError(f"seed {self.seed}: must be 0 to 2^63 - 1")
