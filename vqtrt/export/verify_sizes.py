"""Do the graphs of a bundle take other sizes than the example that they were exported with?

What the exporter made a constant works at the example's size, and at every other one fails or makes
something else: so each graph runs with fewer and with more, and its outputs are compared with those
of torch. The inputs are random; what trained data makes of them is for the other verifications.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import Engine
from vqtrt.engines.torch import TorchEngine
from vqtrt.engines.trial import plain_graphs, run_trial, usual_sizes
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, GraphSpec

_CLOSE = 1e-3
"""Difference of floats, of the largest (or of 1): rounding in float32 stays far below it."""
_EQUAL = 0.9
"""Share of integers that are equal: random vectors can lie near the edge of two codes."""
_RUNS = 2
"""So that caches are used."""


def verify_sizes(bundle: Bundle, engine: Engine, reference: TorchEngine) -> None:
    """Raise `VqtrtError` for a graph that an engine runs otherwise than torch, at some size.

    The fp32 graphs: those of half precision are exported from the same modules.
    """
    for name, spec in plain_graphs(bundle.info).items():
        for sizes in _sizes(bundle, name, spec):
            where = ", ".join(f"{size} {value}" for size, value in sizes.items())
            wrong = f"{bundle.path}: the graph {name!r} does not do what torch does at {where}"
            try:
                tested = run_trial(engine, name, spec, sizes, _RUNS)
            except VqtrtError as error:
                raise VqtrtError(f"{wrong}: {error}") from error
            for output, expected in run_trial(reference, name, spec, sizes, _RUNS).items():
                if not _alike(tested[output], expected):
                    raise VqtrtError(f"{wrong}: its {output} differ; do not use this bundle")


def _sizes(bundle: Bundle, name: str, spec: GraphSpec) -> list[dict[str, int]]:
    """Three batches; shorter, twice as long, and both."""
    usual = usual_sizes(bundle.info, name, spec)
    made = []
    for batch, factors in ((1, (0.5, 0.5)), (2, (0.5, 2)), (3, (2, 0.5))):
        lengths = {
            size: max(1, int(value * factors[index % 2]))
            for index, (size, value) in enumerate(usual.items())
        }
        made.append({"batch": batch} | lengths)
    return made


def _alike(tested: NDArray[Any], expected: NDArray[Any]) -> bool:
    if tested.shape != expected.shape:
        return False
    if expected.dtype == np.int32:
        return float((tested == expected).mean()) >= _EQUAL
    apart = np.abs(tested.astype(np.float64) - expected.astype(np.float64)).max(initial=0)
    if expected.dtype == np.uint8:
        return bool(apart <= 1)
    return bool(apart <= _CLOSE * max(1.0, float(np.abs(expected).max(initial=0))))
