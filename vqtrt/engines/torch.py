"""PyTorch, from a run's own weights: the reference that the other engines are compared with."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from vqtrt.bundle import PriorFacts, file_sha256
from vqtrt.engines.base import BoundGraph, Graph
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.models.graphs import EncoderGraph


class TorchEngine:
    """A run's model in torch, float32, on the GPU where there is one."""

    name = "torch"
    precision = "fp32"
    lanes = 1

    def __init__(self, run: Path, *, device: str | None = None, threads: int | None = None) -> None:
        import torch

        from vqtrt.models.facts import model_facts
        from vqtrt.training.prior_run import trained_priors
        from vqtrt.training.run import Run

        if threads is not None:
            torch.set_num_threads(threads)
        # Rounding float32 to 10 bits before a product, as cuDNN does by default, would flip codes.
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        opened = Run.open(run)
        self.model = opened.load_model().to(self.device)
        self.facts = model_facts(opened.config.model)
        self.preprocessing = opened.config.data.preprocessing
        self.weights_sha256 = file_sha256(opened.weights)
        self._priors = trained_priors(run)
        self.priors: Mapping[str, PriorFacts] = {
            name: prior.facts() for name, prior in self._priors.items()
        }

    def encoder(self) -> "EncoderGraph":
        """The encoder as the module that is exported."""
        from vqtrt.models.graphs import EncoderGraph

        return EncoderGraph(self.model).to(self.device)

    def open(self, graph: str) -> Graph:
        """The graph's module, run in inference mode."""
        import torch

        from vqtrt.models.graphs import DecoderGraph

        module: torch.nn.Module
        if graph == "encoder":
            module = self.encoder()
        elif graph == "decoder":
            module = DecoderGraph(self.model).to(self.device)
        else:
            raise VqtrtError(f"the engine torch has no graph {graph!r}")

        def run(array: NDArray[Any]) -> NDArray[Any]:
            # torch warns of arrays that it could not write to.
            tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
            with torch.inference_mode():
                result: NDArray[Any] = module(tensor.to(self.device)).cpu().numpy()
            return result

        return run

    def bind(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, NDArray[Any]] | None = None,
        skip: Collection[str] = (),
        threads: int | None = None,
    ) -> BoundGraph:
        """As `Engine.bind`; torch has one number of threads for all."""
        from vqtrt.engines.torch_bound import TorchBound
        from vqtrt.priors.graphs import pixelcnn_graph

        kind, _, rest = graph.partition("/")
        name, _, part = rest.rpartition("/")
        if kind != "priors" or name not in self._priors:
            raise VqtrtError(f"the engine torch has no graph {graph!r}")
        prior = self._priors[name].load().to(self.device)
        made = pixelcnn_graph(prior, part)
        return TorchBound(made, sizes, shared or {}, skip, self.device)
