"""PyTorch, from a run's own weights: the reference that the other engines are compared with."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from vqtrt.bundle import PriorFacts, SpeechFacts, file_sha256
from vqtrt.data.preprocessing import Preprocessing
from vqtrt.engines.base import BoundGraph, Graph
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.models.deployed import DeployedGraph
    from vqtrt.models.graphs import EncoderGraph
    from vqtrt.models.vqvae import VQVAE
    from vqtrt.training.run import Run
    from vqtrt.training.speech_run import SpeechRun


class TorchEngine:
    """A run's model in torch, float32, on the GPU number `gpu` if there is one, else on the CPU."""

    name = "torch"
    precision = "fp32"
    lanes = 1

    def __init__(
        self, run: Path, *, device: str | None = None, gpu: int = 0, threads: int | None = None
    ) -> None:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        # Rounding float32 to 10 bits before a product, as cuDNN does by default, would flip codes.
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device(
            device or (f"cuda:{gpu}" if torch.cuda.is_available() else "cpu")
        )
        self._content = _open(run, self.device)
        self.facts = self._content.facts
        self.preprocessing: Preprocessing | None = self._content.preprocessing
        self.speech: SpeechFacts | None = self._content.speech
        self.weights_sha256 = self._content.weights_sha256
        self.priors: Mapping[str, PriorFacts] = self._content.priors

    @property
    def model(self) -> "VQVAE":
        """The model of images. Raises `VqtrtError` for one of speech."""
        if isinstance(self._content, _Speech):
            raise VqtrtError("a model of speech, where one of images is wanted; give another model")
        return self._content.model

    def encoder(self) -> "EncoderGraph":
        """The images' encoder as the module that is exported."""
        from vqtrt.models.graphs import EncoderGraph

        return EncoderGraph(self.model).to(self.device)

    def open(self, graph: str) -> Graph:
        """The graph's module, run in inference mode."""
        import torch

        made = self._content.graph(graph)
        if made is None or made.caches or len(made.outputs) != 1:
            raise VqtrtError(f"the engine torch has no graph {graph!r}")
        module = made.module.to(self.device)
        names = [tensor.name for tensor in made.inputs]

        def run(*arrays: NDArray[Any]) -> NDArray[Any]:
            # torch warns of arrays that it could not write to.
            tensors = {
                name: torch.from_numpy(array if array.flags.writeable else array.copy())
                for name, array in zip(names, arrays, strict=True)
            }
            with torch.inference_mode():
                inputs = {name: tensor.to(self.device) for name, tensor in tensors.items()}
                result: NDArray[Any] = module(**inputs).cpu().numpy()
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

        made = self._content.graph(graph)
        if made is None:
            raise VqtrtError(f"the engine torch has no graph {graph!r}")
        return TorchBound(made, sizes, shared or {}, skip, self.device)


class _Images:
    """A run on images, its priors and its graphs."""

    speech: SpeechFacts | None = None

    def __init__(self, run: "Run", device: Any) -> None:
        from vqtrt.models.facts import model_facts
        from vqtrt.training.prior_run import trained_priors

        self.model = run.load_model().to(device)
        self.facts = model_facts(run.config.model)
        self.preprocessing: Preprocessing | None = run.config.data.preprocessing
        self.weights_sha256 = file_sha256(run.weights)
        self._priors = trained_priors(run.path)
        self.priors = {name: prior.facts() for name, prior in self._priors.items()}

    def graph(self, name: str) -> "DeployedGraph | None":
        from vqtrt.models.graphs import image_graph
        from vqtrt.priors.graphs import pixelcnn_graph

        if name in ("encoder", "decoder"):
            return image_graph(self.model, name)
        prior, part = _prior_graph(name)
        return pixelcnn_graph(self._priors[prior].load(), part) if prior in self._priors else None


class _Speech:
    """A run on speech, its priors and its graphs."""

    preprocessing: Preprocessing | None = None

    def __init__(self, run: "SpeechRun", device: Any) -> None:
        from vqtrt.training.prior_run import trained_speech_priors
        from vqtrt.training.speech_run import speech_facts

        self.model = run.load_model().to(device)
        self.facts, facts = speech_facts(self.model, run.config)
        self.speech: SpeechFacts | None = facts
        self.weights_sha256 = file_sha256(run.weights)
        self._priors = trained_speech_priors(run.path)
        self.priors = {name: prior.facts() for name, prior in self._priors.items()}

    def graph(self, name: str) -> "DeployedGraph | None":
        from vqtrt.models.speech_graphs import speech_graph, speech_graph_names
        from vqtrt.priors.wavenet_graphs import wavenet_graph

        if name in speech_graph_names(self.model):
            return speech_graph(self.model, name)
        prior, part = _prior_graph(name)
        return wavenet_graph(self._priors[prior].load(), part) if prior in self._priors else None


def _open(run: Path, device: Any) -> _Images | _Speech:
    from vqtrt.training.run import Run
    from vqtrt.training.speech_run import SpeechRun, is_speech_run

    return (
        _Speech(SpeechRun.open(run), device)
        if is_speech_run(run)
        else _Images(Run.open(run), device)
    )


def _prior_graph(name: str) -> tuple[str, str]:
    """`priors/NAME/GRAPH` as NAME and GRAPH."""
    prior, _, part = name.removeprefix("priors/").rpartition("/")
    return prior, part
