"""Drawing a code from logits inside a graph, with the noise as an input.

Notable: top-k and top-p need the least probability that is still drawn. Small codebooks are sorted
for it. TensorRT sorts at most 3,840 numbers, so in larger codebooks it is found by bisection, which
needs nothing but sums. Both keep the same codes.
"""

import math

import torch
from torch import Tensor

MAX_SORTED = 3840
"""The largest codebook that is sorted: TensorRT's limit on K of a TopK."""


def draw(
    logits: Tensor,
    noise: Tensor,
    temperature: Tensor,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
) -> Tensor:
    """A code int64 (N,) of each distribution (N, K), by inverting its cumulative sum at `noise`.

    Temperature 0 gives the most likely code. Else only the `top_k` most likely are drawn, and of
    these the fewest that hold `top_p` of the probability; of equally likely codes the first ones
    are kept. The order of the codes stays that of the codebook, so a filter that keeps everything
    changes no sample.
    """
    cold = temperature < 1e-6  # below, the division would overflow
    p = torch.softmax(logits / torch.where(cold, torch.ones_like(temperature), temperature), -1)
    if top_k is not None and top_p is not None:
        keep = _keep_sorted if p.shape[-1] <= MAX_SORTED else _keep_bisected
        p = torch.where(keep(p, top_k, top_p), p, torch.zeros_like(p))
    # Along the first axis, and counted in floats, which hold such numbers exactly: ONNX Runtime is
    # several times as fast at both.
    cumulative = torch.cumsum(p.T, 0)
    below = cumulative <= noise * cumulative[-1:]
    drawn = below.to(p.dtype).sum(0).clamp_max(logits.shape[-1] - 1)
    return torch.where(cold, logits.argmax(-1), drawn.long())


def _keep_sorted(p: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Which of the probabilities (N, K) are drawn, bool (N, K), by sorting them."""
    ranked = torch.topk(p, p.shape[-1], sorted=True).values
    ahead = torch.cumsum(ranked, -1) - ranked
    # Rounded sums pass 1 before the last code: a `top_p` of 1 must not cut there.
    kept = (torch.arange(p.shape[-1], device=p.device) < top_k) & ((ahead < top_p) | (top_p >= 1))
    least = torch.where(kept, ranked, torch.full_like(ranked, 2.0)).amin(-1, keepdim=True)
    above, tied = p > least, p == least
    room = kept.sum(-1, keepdim=True) - above.sum(-1, keepdim=True)
    return above | (tied & (torch.cumsum(tied, -1) <= room))


def _keep_bisected(p: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """As `_keep_sorted`, without a sort; codes below the smallest normal float are never kept.

    A threshold is too low if the codes above it are `top_k` or more, or hold `top_p` or more. The
    highest such threshold is found two bits at a time, first of the exponent and then of the
    fraction, so it is exact: the least probability above it is the least that is kept.
    """
    most = top_k.to(p.dtype)
    # As above, a `top_p` of 1 must not cut, whatever the rounded sum is.
    share = torch.where(top_p >= 1, torch.full_like(top_p, 2.0), top_p)

    def raised(threshold: Tensor, higher: Tensor) -> Tensor:
        """The highest that is too low, of a threshold (N, 1, 1) and some higher ones (N, M, 1)."""
        count, held = _above(p[:, None], higher)
        too_low = (count >= most) | (held >= share)
        return torch.where(too_low, higher, threshold).amax(1, keepdim=True)

    powers, fractions = _digits(p.dtype)
    threshold = torch.full_like(p[:, :1, None], torch.finfo(p.dtype).tiny)
    for factors in powers:
        threshold = raised(threshold, threshold * p.new_tensor(factors)[:, None])
    power = threshold
    for parts in fractions:
        threshold = raised(threshold, threshold + power * p.new_tensor(parts)[:, None])
    over = p > threshold[:, 0]
    least = torch.where(over, p, torch.full_like(p, 2.0)).amin(-1, keepdim=True)
    count, held = _above(p, least)
    tied = p == least
    before = torch.cumsum(tied.to(p.dtype).T, 0).T - 1  # equal ones ahead of each of them
    room = (count + before < most) & (held + before * least < share)
    return (p > least) | (tied & room)


def _above(p: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the probabilities (…, K) are above a threshold (…, 1), and what they hold."""
    over = (p > threshold).to(p.dtype)
    # A product: ONNX Runtime selects several times as slowly.
    return over.sum(-1, keepdim=True), (over * p).sum(-1, keepdim=True)


def _digits(dtype: torch.dtype) -> tuple[list[list[float]], list[list[float]]]:
    """What two bits of a float can add to it, the high bits first.

    To its exponent, as factors of the smallest normal float, which is 2^-126 of float32; and to its
    fraction, as parts of the power of two.
    """
    limits = torch.finfo(dtype)
    exponents, bits = -round(math.log2(limits.tiny)), -round(math.log2(limits.eps))
    weights = [4**i for i in reversed(range((exponents.bit_length() + 1) // 2))]
    powers = [[2.0 ** (n * w) for n in (1, 2, 3) if n * w <= exponents] for w in weights]
    fractions = [[n * 0.25**i for n in (1, 2, 3)] for i in range(1, bits // 2 + 1)]
    return powers, fractions + [[limits.eps]] * (bits % 2)
