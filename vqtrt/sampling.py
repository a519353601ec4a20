"""Drawing codes from a prior, one position at a time, over any engine.

A row graph runs once a row and a step graph once a position, with caches that stay where the
engine keeps them: a whole batch costs about as much as one or two forward passes, where a loop
over full passes would cost one a position. Buffers are bound once for a batch size and reused.

The noise is an input, counter-based and keyed by (seed, sample, position): sample 17 of seed 0 is
the same whatever the batch, the number asked for, or the engine.
"""

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vqtrt.bundle import PriorFacts
from vqtrt.data.codes import check_codes, codes_dtype
from vqtrt.engines import BoundGraph, Engine
from vqtrt.errors import VqtrtError


@dataclass(frozen=True)
class Draw:
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


def noise(seed: int, samples: range, count: int) -> NDArray[np.float32]:
    """Uniform numbers inside (0, 1), `count` for each sample number: (n, count) float32.

    Philox keyed by (seed, sample), whose raw stream numpy guarantees never to change. 23 bits and
    a half, so that every number is exact in float32 and none is 0 or 1.
    """
    out = np.empty((len(samples), count), np.float32)
    for row, sample in enumerate(samples):
        key = np.array([seed, sample], np.uint64)
        raw = np.random.Philox(key=key).random_raw(count)
        out[row] = ((raw >> np.uint64(41)).astype(np.float64) + 0.5) * 2.0**-23
    return out


class Bind(Protocol):
    """`Engine.bind`."""

    def __call__(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, NDArray[Any]] | None = None,
        skip: Collection[str] = (),
    ) -> BoundGraph:
        """A graph with its buffers."""


class PixelCNNSampler:
    """A PixelCNN prior, bound for a batch size and a width of the grid."""

    def __init__(
        self, bind: Bind, name: str, codebook_size: int, batch_size: int, width: int
    ) -> None:
        self.codebook_size, self.batch_size = codebook_size, batch_size
        self._bind, self._name = bind, name
        self._sizes = {"batch": batch_size, "width": width}
        self._row = self._graph("row")
        self._steps: dict[str, BoundGraph] = {}

    def _graph(self, part: str, shared: Mapping[str, NDArray[Any]] | None = None) -> BoundGraph:
        graph = f"priors/{self._name}/{part}"
        return self._bind(graph, self._sizes, shared=shared, skip=("logits",))

    def _step(self, draw: Draw) -> BoundGraph:
        """The step graph that a draw needs, told what it asks for."""
        filtered = draw.top_k is not None or draw.top_p < 1
        part = "step_filtered" if filtered else "step"
        if part not in self._steps:
            self._steps[part] = self._graph(part, {"bias": self._row.outputs["bias"]})
        step = self._steps[part]
        step.inputs["temperature"][:] = draw.temperature
        if filtered:
            step.inputs["top_k"][:] = draw.top_k or self.codebook_size
            step.inputs["top_p"][:] = draw.top_p
        return step

    def sample(
        self,
        draw: Draw,
        samples: range,
        height: int,
        labels: NDArray[np.int32] | None = None,
        prefix: NDArray[Any] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> NDArray[Any]:
        """Codes (n, height, width, C) of the sample numbers `samples`, n at most the batch size.

        `labels` (n,); `prefix` (n, rows, width, C) are first rows, which are kept. `progress` is
        called after each position.
        """
        row, step, count = self._row, self._step(draw), len(samples)
        width, books = row.inputs["above"].shape[1:]
        nothing = self.codebook_size
        out = np.zeros((self.batch_size, height, width, books), np.int32)
        known = 0 if prefix is None else prefix.shape[1]
        if prefix is not None:
            out[:count, :known] = prefix
        uniform = np.full((height, width, self.batch_size, books), 0.5, np.float32)
        drawn = noise(draw.seed, samples, height * width * books)
        uniform[:, :, :count] = drawn.reshape(count, height, width, books).transpose(1, 2, 0, 3)
        if labels is not None:
            row.inputs["labels"][:] = 0
            row.inputs["labels"][:count] = labels
        row.reset()
        above, code, column = row.inputs["above"], step.inputs["code"], step.inputs["column"]
        for r in range(height):
            above[:] = out[:, r - 1] if r else nothing
            row.run()
            if r < known:
                continue
            step.reset()
            code[:] = nothing
            for c in range(width):
                column[0] = c
                step.inputs["noise"][:] = uniform[r, c]
                step.run()
                code[:] = step.outputs["codes"]
                out[:, r, c] = code
                progress()
        return out[:count].astype(codes_dtype(nothing))


@dataclass(frozen=True)
class Request:
    """Which samples to draw from which prior."""

    prior: str
    num: int
    draw: Draw = Draw()
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


def find_prior(engine: Engine, name: str) -> PriorFacts:
    """The facts of a model's prior; `VqtrtError` where there is none, or one of other codes."""
    facts = engine.priors.get(name)
    if facts is None:
        known = ", ".join(engine.priors) or "none"
        raise VqtrtError(
            f"the model has no prior {name!r} (it has: {known}); `vqtrt train-prior` trains one, "
            "and `vqtrt export` brings it into the bundle"
        )
    if facts.tokenizer_sha256 != engine.weights_sha256:
        raise VqtrtError(
            f"the prior {name!r} was trained on the codes of another tokenizer than this model: "
            "train it again on codes of this one"
        )
    return facts


def label_number(text: str | None, facts: PriorFacts) -> int | None:
    """A class by its number or its name."""
    if text is None:
        return None
    if text in facts.classes:
        return facts.classes.index(text)
    try:
        return int(text)
    except ValueError:
        names = ", ".join(facts.classes[:20]) or "none"
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
    facts = find_prior(engine, request.prior)
    request.draw.check(facts.codebook_size)
    height, width = _grid(request, facts)
    labels = _labels(request, facts)
    prefix = _prefix(request, facts, height, width)
    batch_size = min(batch_size, request.num)
    sampler = PixelCNNSampler(engine.bind, request.prior, facts.codebook_size, batch_size, width)
    starts = range(0, request.num, batch_size)
    total = len(starts) * (height - request.rows) * width
    done = itertools.count(1)
    parts = []
    for start in starts:
        samples = range(start, min(start + batch_size, request.num))
        parts.append(
            sampler.sample(
                request.draw,
                samples,
                height,
                None if labels is None else labels[samples.start : samples.stop],
                None if prefix is None else prefix[np.array(samples) % len(prefix)],
                lambda: progress(next(done), total),
            )
        )
    codes = np.concatenate(parts)
    return Samples(codes if facts.num_codebooks > 1 else codes[..., 0], labels)


def _grid(request: Request, facts: PriorFacts) -> tuple[int, int]:
    if request.num < 1:
        raise VqtrtError(f"num {request.num}: must be at least 1")
    height, width = request.shape or (facts.height, facts.width)
    limit = facts.reach + 1
    if not (1 <= height <= limit and 1 <= width <= limit):
        raise VqtrtError(
            f"shape {height}x{width}: this prior sees {facts.reach} positions far, so it takes "
            f"grids of up to {limit}x{limit}"
        )
    return height, width


def _labels(request: Request, facts: PriorFacts) -> NDArray[np.int32] | None:
    count = len(facts.classes)
    if not count:
        if request.label is not None:
            raise VqtrtError(
                f"label {request.label}: the prior {request.prior!r} is not conditioned on labels"
            )
        return None
    if request.label is None:
        return np.arange(request.num, dtype=np.int32) % count
    if not 0 <= request.label < count:
        names = ", ".join(facts.classes[:20])
        raise VqtrtError(f"label {request.label}: must be 0 to {count - 1} ({names})")
    return np.full(request.num, request.label, np.int32)


def _prefix(
    request: Request, facts: PriorFacts, height: int, width: int
) -> NDArray[np.int32] | None:
    if request.prefix is None:
        if request.rows:
            raise VqtrtError("rows: pass --prefix with the codes that they come from")
        return None
    codes = request.prefix
    check_codes(codes, facts.codebook_size, None, facts.num_codebooks, name="prefix")
    if not len(codes):
        raise VqtrtError("prefix: holds no rows of a codes file: there is nothing to complete")
    if codes.shape[2] != width or not 0 < request.rows <= min(codes.shape[1], height):
        raise VqtrtError(
            f"prefix of {codes.shape[1]}x{codes.shape[2]} codes, {request.rows} rows of it: for "
            f"samples of {height}x{width} it has to be {width} wide, and rows 1 to "
            f"{min(codes.shape[1], height)}"
        )
    kept = np.asarray(codes[:, : request.rows], np.int32)
    return kept.reshape(len(kept), request.rows, width, facts.num_codebooks)
