"""A graph in torch, bound as `BoundGraph`: the module that is exported."""

from collections import deque
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from vqtrt.models.deployed import DeployedGraph


class TorchBound:
    """Runs a graph on arrays; on the CPU, arrays and tensors share their memory."""

    def __init__(
        self,
        graph: "DeployedGraph",
        sizes: Mapping[str, int],
        shared: Mapping[str, NDArray[Any]],
        skip: Collection[str],
        device: "torch.device",
    ) -> None:
        self._graph, self._device = graph, device
        graph.module.to(device)
        self.inputs = {
            tensor.name: shared.get(tensor.name, np.zeros(tensor.resolve(sizes), tensor.dtype))
            for tensor in graph.inputs
        }
        self.outputs = {
            tensor.name: np.zeros(tensor.resolve(sizes), tensor.dtype)
            for tensor in graph.outputs
            if tensor.name not in skip
        }
        self._shapes = [(tensor.resolve(sizes), tensor.delay) for tensor in graph.caches]
        self._caches: list[deque[torch.Tensor]] = []
        self.reset()

    def run(self) -> None:
        """Run once; the caches move on."""
        import torch

        with torch.inference_mode():
            inputs = {
                name: torch.from_numpy(array).to(self._device)
                for name, array in self.inputs.items()
            }
            made, kept = self._graph.call(inputs, [queue.popleft() for queue in self._caches])
            for queue, cache in zip(self._caches, kept, strict=True):
                queue.append(cache)
            for name, array in self.outputs.items():
                array[...] = made[name].cpu().numpy()

    def reset(self) -> None:
        """Set the caches to zero."""
        import torch

        self._caches = [
            deque(torch.zeros(shape, device=self._device) for _ in range(delay))
            for shape, delay in self._shapes
        ]
