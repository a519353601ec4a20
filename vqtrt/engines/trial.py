"""A graph of any model, run on inputs that are made up: to compare engines, and to time them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import BoundGraph, Engine
from vqtrt.formats.bundle import BundleInfo, GraphSpec
from vqtrt.formats.caches import is_cache
from vqtrt.formats.precision import PRECISIONS

_USUAL_CODES = 7
"""Of a clip."""


def plain_graphs(info: BundleInfo) -> dict[str, GraphSpec]:
    """The fp32 graphs of a bundle, by name."""
    halves = tuple(f"{each}/" for each in PRECISIONS if each != "fp32")
    return {name: spec for name, spec in info.graphs.items() if not name.startswith(halves)}


def usual_sizes(info: BundleInfo, name: str, spec: GraphSpec) -> dict[str, int]:
    """A number for each free size of a graph but the batch: the model's own, and short clips."""
    prior = info.priors.get(name.removeprefix("priors/").rpartition("/")[0])
    usual = {"t": _USUAL_CODES, "h": 8, "w": 8}
    if info.preprocessing is not None:
        usual["h"] = info.preprocessing.height // info.model.stride
        usual["w"] = info.preprocessing.width // info.model.stride
    if prior is not None:
        usual |= {"height": prior.height, "width": prior.width}
        usual["t"] = min(prior.width, _USUAL_CODES)
    free = {
        size.rpartition("*")[2]
        for tensor in (*spec.inputs, *spec.outputs)
        for size in tensor.shape
        if isinstance(size, str)
    }
    return {size: usual[size] for size in sorted(free - {"batch"}) if size in usual}


def run_trial(
    engine: Engine, name: str, spec: GraphSpec, sizes: dict[str, int], runs: int
) -> dict[str, NDArray[Any]]:
    """The outputs of the last of some runs, whose inputs are the same on every engine."""
    rng = np.random.default_rng(0)
    bound = engine.bind(name, sizes)
    for _ in range(runs):
        fill(bound, spec, rng)
        bound.run()
    return {output: np.array(array) for output, array in bound.outputs.items()}


def fill(bound: BoundGraph, spec: GraphSpec, rng: np.random.Generator) -> None:
    """Make up all inputs, with values that they can have, whatever the model."""
    for tensor in spec.inputs:
        if not is_cache(tensor):
            into = bound.inputs[tensor.name]
            into[...] = _random(tensor.name, into, rng)


def _random(name: str, array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any] | int:
    if name in ("codes", "above", "code", "previous"):
        return rng.integers(0, 2, array.shape)
    if name == "top_k":
        return 2
    if array.dtype == np.uint8:
        return rng.integers(0, 256, array.shape)
    if array.dtype == np.int32:
        return 0  # labels, speakers, columns
    return rng.uniform(0.05, 0.95, array.shape)
