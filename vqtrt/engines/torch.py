"""PyTorch, from a run's own weights: the reference that the other engines are compared with."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.base import Binding, BoundGraph, Engine, Graph
from vqtrt.engines.opened import Opened
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import ModelInfo, PriorInfo, SpeechInfo, file_sha256
from vqtrt.system.cores import core_limit

if TYPE_CHECKING:
    from vqtrt.models.deployed import DeployedGraph
    from vqtrt.models.image import VQVAE
    from vqtrt.models.image_graphs import EncoderGraph
    from vqtrt.models.runs import AudioRun, ImageRun, TrainedRun
    from vqtrt.priors.runs import PriorFolder


_began_in: int | None = None
"""The process in which torch was first used here."""


class TorchEngine(Engine):
    """A run's model in torch, float32, on the GPU of `options.device`, or on the CPU without one.

    `device` is where it runs whatever there is, such as `cpu`.

    Another process that gets it, by a fork or a pickle, reads the run again; raises `VqtrtError`
    if the run was trained further meanwhile.
    """

    name = "torch"
    precision = "fp32"

    def __init__(
        self, run: Path, options: EngineOptions = AUTO, *, device: str | None = None
    ) -> None:
        import torch

        # Rounding float32 to 10 bits before a product, as cuDNN does by default, would flip codes.
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device(
            device or (f"cuda:{options.device}" if torch.cuda.is_available() else "cpu")
        )
        self.shape_specialized = self.device.type == "cuda"  # cuDNN chooses by shape
        limit, threads = core_limit(), options.threads
        if threads is None and limit is not None and limit < torch.get_num_threads():
            threads = limit
        self._run, self._threads = run, threads
        self._contents: Opened[str, _Content] = Opened()
        self._graphs: Opened[str, DeployedGraph] = Opened()
        content = self._contents.get("run", self._open_run)
        self.info = content.info
        self.preprocessing: Preprocessing | None = content.preprocessing
        self.speech: SpeechInfo | None = content.speech
        self.weights_sha256 = content.weights_sha256
        self.priors: Mapping[str, PriorInfo] = content.priors

    def __getstate__(self) -> dict[str, Any]:
        # Another process may have another working directory.
        return self.__dict__ | {"_run": self._run.absolute()}

    def _open_run(self) -> "_Content":
        self._use_threads()
        if self.device.type == "cuda" and _forked():
            raise VqtrtError(
                "CUDA cannot be used in a process that was forked after CUDA was used: start it "
                "with multiprocessing's `spawn`, or pass --engine onnxruntime"
            )
        return _open(self._run, self.device)

    def _content(self) -> "_Content":
        """The run: read again in another process."""
        content = self._contents.get("run", self._open_run)
        if (content.weights_sha256, content.priors) != (self.weights_sha256, self.priors):
            raise VqtrtError(
                f"{self._run} has other weights than when it was opened: it was trained meanwhile; "
                "open it again"
            )
        return content

    def _graph(self, name: str) -> "DeployedGraph":
        """The module of a graph, one for all threads of this process."""

        def make() -> "DeployedGraph":
            made = self._content().graph(name)
            if made is None:
                raise VqtrtError(f"the engine torch has no graph {name!r}")
            made.module.to(self.device)
            return made

        return self._graphs.get(name, make)

    def _use_threads(self) -> None:
        """Bound the cores of this thread's runs: their number changes how torch rounds.

        A forked process has one: it lacks the threads of the OpenMP that its parent used, and would
        wait for them forever.
        """
        import torch

        wanted = 1 if _forked() else self._threads
        if wanted is not None and torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)

    @property
    def model(self) -> "VQVAE":
        """The model of images. Raises `VqtrtError` for one of speech."""
        content = self._content()
        if content.speech is not None:
            raise VqtrtError(
                "the model is of audio, and this needs one of images: name another --model"
            )
        model: VQVAE = content.model
        return model

    def encoder(self) -> "EncoderGraph":
        """The images' encoder as the module that is exported."""
        from vqtrt.models.image_graphs import EncoderGraph

        return EncoderGraph(self.model).to(self.device)

    def open(self, graph: str) -> Graph:
        """The graph's module, run in inference mode."""
        return _OpenGraph(self, graph)

    def _bind(self, graph: str, sizes: Mapping[str, int], how: Binding) -> BoundGraph:
        """As `Engine.bind`; torch has one number of threads for all."""
        from vqtrt.engines.torch_bound import TorchBound

        return TorchBound(self._graph(graph), sizes, how.shared, how.skip, self.device)


class _OpenGraph:
    """A graph of one output and no caches, from arrays to an array."""

    def __init__(self, engine: TorchEngine, name: str) -> None:
        graph = engine._graph(name)
        if graph.caches or len(graph.outputs) != 1:
            raise VqtrtError(f"the engine torch has no graph {name!r} of one output")
        self._engine, self._name = engine, name

    def __call__(self, *arrays: NDArray[Any]) -> NDArray[Any]:
        """Run on arrays of the table's dtypes and shapes."""
        import torch

        graph, device = self._engine._graph(self._name), self._engine.device
        self._engine._use_threads()
        # torch warns of arrays that it could not write to.
        tensors = {
            tensor.name: torch.from_numpy(array if array.flags.writeable else array.copy())
            for tensor, array in zip(graph.inputs, arrays, strict=True)
        }
        with torch.inference_mode():
            inputs = {name: tensor.to(device) for name, tensor in tensors.items()}
            result: NDArray[Any] = graph.module(**inputs).cpu().numpy()
        return result


class _Content:
    """A run, its priors and its graphs."""

    speech: SpeechInfo | None = None
    preprocessing: Preprocessing | None = None

    def __init__(
        self,
        run: "TrainedRun[Any]",
        model: Any,
        priors: "Mapping[str, PriorFolder[Any]]",
        graphs: "Mapping[str, Callable[[], DeployedGraph]]",
        prior_graph: "Callable[[Any, str], DeployedGraph]",
    ) -> None:
        self.model = model
        self.weights_sha256 = file_sha256(run.weights)
        self._priors, self._graphs, self._prior_graph = priors, graphs, prior_graph
        self._loaded: dict[str, Any] = {}
        self.priors = {name: prior.info() for name, prior in priors.items()}
        self.info: ModelInfo

    def graph(self, name: str) -> "DeployedGraph | None":
        """A graph by its name in a bundle; None if there is none."""
        if name in self._graphs:
            return self._graphs[name]()
        prior, part = _prior_graph(name)
        if prior not in self._priors:
            return None
        if prior not in self._loaded:
            self._loaded[prior] = self._priors[prior].load()
        return self._prior_graph(self._loaded[prior], part)


def _open_images(run: "ImageRun", device: Any) -> _Content:
    from vqtrt.models.image_graphs import image_graph
    from vqtrt.models.info import model_info
    from vqtrt.priors.pixelcnn_graphs import pixelcnn_graph
    from vqtrt.priors.runs import trained_priors

    model = run.load_model().to(device)
    graphs = {name: partial(image_graph, model, name) for name in ("encoder", "decoder")}
    content = _Content(run, model, trained_priors(run.path), graphs, pixelcnn_graph)
    content.info, content.preprocessing = (
        model_info(run.config.model),
        run.config.data.preprocessing,
    )
    return content


def _open_audio(run: "AudioRun", device: Any) -> _Content:
    from vqtrt.models.audio_graphs import speech_graph, speech_graph_names
    from vqtrt.models.info import speech_info
    from vqtrt.priors.runs import trained_speech_priors
    from vqtrt.priors.wavenet_graphs import wavenet_graph

    model = run.load_model().to(device)
    graphs = {name: partial(speech_graph, model, name) for name in speech_graph_names(model)}
    content = _Content(run, model, trained_speech_priors(run.path), graphs, wavenet_graph)
    content.info, content.speech = speech_info(model, run.config)
    return content


def _forked() -> bool:
    """Whether this process was forked from one that had used torch."""
    global _began_in
    _began_in = _began_in or os.getpid()
    return _began_in != os.getpid()


def _open(run: Path, device: Any) -> _Content:
    from vqtrt.models.runs import AudioRun, ImageRun, is_audio_run

    if is_audio_run(run):
        return _open_audio(AudioRun.open(run), device)
    return _open_images(ImageRun.open(run), device)


def _prior_graph(name: str) -> tuple[str, str]:
    """`priors/NAME/GRAPH` as NAME and GRAPH."""
    prior, _, part = name.removeprefix("priors/").rpartition("/")
    return prior, part
