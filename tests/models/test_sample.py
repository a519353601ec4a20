"""Which codes top-k and top-p leave, against a plain sort in float64."""

import numpy as np
import pytest
import torch

from vqtrt.models.sample import MAX_SORTED, draw

ROUNDING = 1e-6
"""Probability by which float32 sums may move the end of top-p."""


def distributions(size: int) -> torch.Tensor:
    """Logits (6, size): flat, near, with ties, steep, with one that takes all, and with none."""
    made = np.random.default_rng(size).normal(0, 1, (6, size)).astype(np.float32)
    made *= np.array([0, 0.5, 3, 40, 1, 3], np.float32)[:, None]
    made[2] = made[2].round()
    made[4, size // 3] = 200
    made[5, ::2] = -np.inf
    return torch.from_numpy(made)


def expected(p: np.ndarray, top_k: int, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """Of probabilities (K,): the codes to keep by definition, and those that rounding decides."""
    order = np.argsort(-p, kind="stable")
    ranked = p[order].astype(np.float64)
    ahead = np.cumsum(ranked) - ranked
    places = np.arange(len(p))
    keep, unsure = np.zeros(len(p), bool), np.zeros(len(p), bool)
    keep[order] = (places < top_k) & ((ahead < top_p) | (top_p >= 1))
    unsure[order] = (places < top_k) & (abs(ahead - top_p) < ROUNDING) & (top_p < 1)
    return keep, unsure


def kept(logits: torch.Tensor, top_k: int, top_p: float) -> np.ndarray:
    """The codes (N, K) that can be drawn: `draw` itself sums them up, which this looks at."""
    seen = []
    real = torch.cumsum

    def cumsum(values: torch.Tensor, axis: int) -> torch.Tensor:
        seen.append(values)
        return real(values, axis)

    one = torch.ones(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "cumsum", cumsum)
        draw(
            logits,
            torch.full((len(logits),), 0.5),
            one,
            torch.tensor([top_k], dtype=torch.int32),
            one * top_p,
        )
    return (seen[-1].T > 0).numpy()  # the last sum is that of what is drawn from


@pytest.mark.parametrize("size", [16, 512, MAX_SORTED, MAX_SORTED + 1, 8192, 65536])
def test_filters_keep_what_a_sort_in_float64_keeps(size: int) -> None:
    logits = distributions(size)
    p = torch.softmax(logits, -1).numpy()
    # Less is never drawn, however it is cut.
    matters = p >= np.finfo(np.float32).tiny
    cuts = [(k, 1.0) for k in (1, 2, size // 3, size - 1, size)]
    cuts += [(size, share) for share in (1e-6, 0.3, 0.9, 0.99999)] + [(size // 3, 0.5)]
    for top_k, top_p in cuts:
        found = kept(logits, top_k, top_p)
        for row in range(len(p)):
            keep, unsure = expected(p[row], top_k, float(np.float32(top_p)))
            wrong = (found[row] != keep) & matters[row]
            assert not (wrong & ~unsure).any(), (row, top_k, top_p)
            # As many codes of equal probability may stand on either side of the end.
            assert (p[row] * wrong).sum() < ROUNDING + p[row][wrong].max(initial=0)


@pytest.mark.parametrize("size", [MAX_SORTED, MAX_SORTED + 1])
def test_of_equally_likely_codes_the_first_are_kept(size: int) -> None:
    logits = torch.zeros(1, size)
    logits[0, 7::2] = 1
    high = np.flatnonzero(logits[0].numpy() == 1)
    for count in (1, 5, len(high)):
        np.testing.assert_array_equal(np.flatnonzero(kept(logits, count, 1.0)), high[:count])
    low = np.setdiff1d(np.arange(size), high)
    found = np.flatnonzero(kept(logits, len(high) + 3, 1.0))
    np.testing.assert_array_equal(found, np.sort(np.concatenate([high, low[:3]])))
    # A thousandth more than five of them hold takes a sixth.
    share = float(torch.softmax(logits, -1)[0, 7])
    np.testing.assert_array_equal(np.flatnonzero(kept(logits, size, 5.001 * share)), high[:6])


def test_a_large_codebook_draws_as_the_plain_form() -> None:
    """A filter that keeps everything changes no sample, and a code that is cut is not drawn."""
    size = MAX_SORTED + 1
    logits = distributions(size)[[1, 2, 3]].repeat(40, 1)
    noise = torch.from_numpy(np.random.default_rng(0).random(120).astype(np.float32))
    heat, everything = torch.tensor([0.8]), torch.tensor([size], dtype=torch.int32)
    plain = draw(logits, noise, heat)
    assert torch.equal(draw(logits, noise, heat, everything, torch.ones(1)), plain)
    few = draw(logits, noise, heat, torch.tensor([9], dtype=torch.int32), torch.ones(1))
    ranks = (-logits).argsort(dim=-1, stable=True).argsort(dim=-1)
    assert int(ranks.gather(1, few[:, None]).max()) < 9
    assert len(few.unique()) > 10
