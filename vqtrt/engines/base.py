"""The protocol of an engine: it opens a model's graphs by name; a graph maps array to array."""

from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from vqtrt.bundle import ModelFacts
from vqtrt.data.preprocessing import Preprocessing

Graph = Callable[[NDArray[Any]], NDArray[Any]]
"""Runs once on an array whose dtype and shape the graph's table in docs/architecture.md gives."""


class Engine(Protocol):
    """A model, opened on one backend."""

    name: str
    """What `--engine` calls it."""
    facts: ModelFacts
    preprocessing: Preprocessing
    weights_sha256: str
    """Of the weights that the model was trained to: equal weights, equal codes."""

    def open(self, graph: str) -> Graph:
        """Make a graph ready to run: `encoder` or `decoder`."""
