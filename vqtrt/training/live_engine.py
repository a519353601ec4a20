"""A model that is being trained, as an engine: evaluations draw and decode as a command would."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray

from vqtrt.engines.base import Binding, Engine, Graph
from vqtrt.engines.torch_bound import TorchBound
from vqtrt.formats.bundle import PriorInfo, SpeechInfo
from vqtrt.models.deployed import DeployedGraph


class LiveEngine(Engine):
    """Graphs over a model's present weights, float32, on the device that trains it.

    `make` gives a graph by the last part of its name: `step` for `priors/NAME/step`. What the
    model is (`info`, `speech`) is for the caller to set, if anything asks for it.
    """

    name, precision, weights_sha256 = "torch", "fp32", ""
    preprocessing = None
    speech: SpeechInfo | None = None
    priors: Mapping[str, PriorInfo] = {}

    def __init__(self, make: Callable[[str], DeployedGraph], device: torch.device) -> None:
        self._make, self._device = make, device

    def open(self, graph: str) -> Graph:
        """A graph of one output and no caches, from arrays to an array."""
        module = self._graph(graph).module.to(self._device)

        def run(*arrays: NDArray[Any]) -> NDArray[Any]:
            with torch.inference_mode():
                tensors = [torch.from_numpy(array).to(self._device) for array in arrays]
                made: NDArray[Any] = module(*tensors).cpu().numpy()
            return made

        return run

    def _bind(self, graph: str, sizes: Mapping[str, int], how: Binding) -> TorchBound:
        """As `Engine.bind`; torch has one number of threads for all."""
        return TorchBound(self._graph(graph), sizes, how.shared, how.skip, self._device)

    def _graph(self, name: str) -> DeployedGraph:
        return self._make(name.rpartition("/")[2])
