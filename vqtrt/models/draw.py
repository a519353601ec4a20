"""Drawing a code from logits inside a graph, with the noise as an input."""

import torch
from torch import Tensor


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
        p = _filter(p, top_k, top_p)
    # Along the first axis, and counted in floats, which hold such numbers exactly: ONNX Runtime is
    # several times as fast at both.
    cumulative = torch.cumsum(p.T, 0)
    below = cumulative <= noise * cumulative[-1:]
    drawn = below.to(p.dtype).sum(0).clamp_max(logits.shape[-1] - 1)
    return torch.where(cold, logits.argmax(-1), drawn.long())


def _filter(p: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Probabilities (N, K) with those that are not to be drawn set to 0."""
    ranked = torch.topk(p, p.shape[-1], sorted=True).values
    ahead = torch.cumsum(ranked, -1) - ranked
    # Rounded sums pass 1 before the last code: a `top_p` of 1 must not cut there.
    kept = (torch.arange(p.shape[-1], device=p.device) < top_k) & ((ahead < top_p) | (top_p >= 1))
    least = torch.where(kept, ranked, torch.full_like(ranked, 2.0)).amin(-1, keepdim=True)
    above, tied = p > least, p == least
    room = kept.sum(-1, keepdim=True) - above.sum(-1, keepdim=True)
    chosen = above | (tied & (torch.cumsum(tied, -1) <= room))
    return torch.where(chosen, p, torch.zeros_like(p))
