"""What is asked of a prior, checked, and drawn batch by batch (`vqtrt sample`)."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import Engine
from vqtrt.engines.priors import find_prior
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo
from vqtrt.formats.code_values import check_codes
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler


@dataclass(frozen=True)
class Request:
    """Which samples to draw from which prior."""

    prior: str
    num: int
    params: SamplingParams = field(default_factory=SamplingParams)
    label: int | None = None
    """Class of all samples; None goes through the classes in turn, where there are any."""
    shape: tuple[int, int] | None = None
    """(h, w) of the grid; None for the one that the prior was trained on."""
    prefix: NDArray[Any] | None = None
    """Codes (n, h, w[, C]) whose first `rows` rows sample i keeps, from row i modulo n."""
    rows: int = 0


class Samples(NamedTuple):
    """What was drawn."""

    codes: NDArray[Any]
    """(num, h, w), or (num, h, w, C) for C codebooks; the smallest unsigned dtype."""
    labels: NDArray[np.int32] | None
    """(num,), where the prior is conditioned on labels."""


def label_number(text: str | None, info: PriorInfo) -> int | None:
    """A class by its number or its name."""
    if text is None:
        return None
    if text in info.classes:
        return info.classes.index(text)
    try:
        return int(text)
    except ValueError:
        names = ", ".join(info.classes[:20]) or "none"
        raise VqtrtError(f"label {text!r}: no such class; the prior has {names}") from None


def sample_codes(
    engine: Engine,
    request: Request,
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Samples:
    """Draw samples 0 to num − 1 of a seed.

    `progress` is called with (steps done, steps in all). Raises `VqtrtError` for a request that
    the prior cannot meet.
    """
    info = find_prior(engine, request.prior)
    request.params.check(info.codebook_size)
    height, width = _grid(request, info)
    labels = _labels(request, info)
    prefix = _prefix(request, info, height, width)
    batch_size = min(batch_size, request.num)
    sampler = BatchSampler(engine, request.prior, info.codebook_size, batch_size, width)
    starts = range(0, request.num, batch_size)
    total = len(starts) * (height - request.rows) * width
    done = itertools.count(1)
    parts = []
    for start in starts:
        samples = range(start, min(start + batch_size, request.num))
        parts.append(
            sampler.sample(
                request.params,
                samples,
                height,
                labels=None if labels is None else labels[samples.start : samples.stop],
                prefix=None if prefix is None else prefix[np.array(samples) % len(prefix)],
                progress=lambda: progress(next(done), total),
            )
        )
    codes = np.concatenate(parts)
    return Samples(codes if info.num_codebooks > 1 else codes[..., 0], labels)


def _grid(request: Request, info: PriorInfo) -> tuple[int, int]:
    if request.num < 1:
        raise VqtrtError(f"num {request.num}: must be at least 1")
    height, width = request.shape or (info.height, info.width)
    limit = info.receptive_field + 1
    if not (1 <= height <= limit and 1 <= width <= limit):
        raise VqtrtError(
            f"shape {height}x{width}: the prior's receptive field is {info.receptive_field}, so it "
            f"takes grids of up to {limit}x{limit}"
        )
    return height, width


def _labels(request: Request, info: PriorInfo) -> NDArray[np.int32] | None:
    count = len(info.classes)
    if not count:
        if request.label is not None:
            raise VqtrtError(
                f"label {request.label}: the prior {request.prior!r} is not conditioned on labels"
            )
        return None
    if request.label is None:
        return np.arange(request.num, dtype=np.int32) % count
    if not 0 <= request.label < count:
        names = ", ".join(info.classes[:20])
        raise VqtrtError(f"label {request.label}: must be 0 to {count - 1} ({names})")
    return np.full(request.num, request.label, np.int32)


def _prefix(request: Request, info: PriorInfo, height: int, width: int) -> NDArray[np.int32] | None:
    if request.prefix is None:
        if request.rows:
            raise VqtrtError("rows: pass --prefix with the codes that they come from")
        return None
    codes = request.prefix
    check_codes(codes, info.codebook_size, None, info.num_codebooks, name="prefix")
    if not len(codes):
        raise VqtrtError("prefix: holds no rows of a codes file: there is nothing to complete")
    if codes.shape[2] != width or not 0 < request.rows <= min(codes.shape[1], height):
        raise VqtrtError(
            f"prefix of {codes.shape[1]}x{codes.shape[2]} codes, {request.rows} rows of it: for "
            f"samples of {height}x{width} it has to be {width} wide, and rows 1 to "
            f"{min(codes.shape[1], height)}"
        )
    kept = np.asarray(codes[:, : request.rows], np.int32)
    return kept.reshape(len(kept), request.rows, width, info.num_codebooks)
