"""PyTorch, from a run's own weights: the reference that the other engines are compared with."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.base import BoundGraph, Engine, Graph
from vqtrt.engines.opened import Opened
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo, SpeechInfo, file_sha256
from vqtrt.system.cores import core_limit

if TYPE_CHECKING:
    from vqtrt.models.deployed import DeployedGraph
    from vqtrt.models.image import VQVAE
    from vqtrt.models.image_graphs import EncoderGraph
    from vqtrt.models.runs import AudioRun, ImageRun
    from vqtrt.priors.pixelcnn import PixelCNN
    from vqtrt.priors.wavenet import WaveNetPrior


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
        self._contents: Opened[str, _Images | _Speech] = Opened()
        self._graphs: Opened[str, DeployedGraph] = Opened()
        content = self._contents.get("run", self._open_run)
        self.facts = content.facts
        self.preprocessing: Preprocessing | None = content.preprocessing
        self.speech: SpeechInfo | None = content.speech
        self.weights_sha256 = content.weights_sha256
        self.priors: Mapping[str, PriorInfo] = content.priors

    def __getstate__(self) -> dict[str, Any]:
        # Another process may have another working directory.
        return self.__dict__ | {"_run": self._run.absolute()}

    def _open_run(self) -> "_Images | _Speech":
        self._use_threads()
        if self.device.type == "cuda" and _forked():
            raise VqtrtError(
                "CUDA cannot be used in a process that was forked after CUDA was used: start it "
                "with multiprocessing's `spawn`, or pass --engine onnxruntime"
            )
        return _open(self._run, self.device)

    def _content(self) -> "_Images | _Speech":
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
        if isinstance(content, _Speech):
            raise VqtrtError(
                "the model is of audio, and this needs one of images: name another --model"
            )
        return content.model

    def encoder(self) -> "EncoderGraph":
        """The images' encoder as the module that is exported."""
        from vqtrt.models.image_graphs import EncoderGraph

        return EncoderGraph(self.model).to(self.device)

    def open(self, graph: str) -> Graph:
        """The graph's module, run in inference mode."""
        return _OpenGraph(self, graph)

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

        return TorchBound(self._graph(graph), sizes, shared or {}, skip, self.device)


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


class _Images:
    """A run on images, its priors and its graphs."""

    speech: SpeechInfo | None = None

    def __init__(self, run: "ImageRun", device: Any) -> None:
        from vqtrt.models.info import model_info
        from vqtrt.priors.runs import trained_priors

        self.model = run.load_model().to(device)
        self.facts = model_info(run.config.model)
        self.preprocessing: Preprocessing | None = run.config.data.preprocessing
        self.weights_sha256 = file_sha256(run.weights)
        self._priors = trained_priors(run.path)
        self._loaded: dict[str, PixelCNN] = {}
        self.priors = {name: prior.facts() for name, prior in self._priors.items()}

    def graph(self, name: str) -> "DeployedGraph | None":
        from vqtrt.models.image_graphs import image_graph
        from vqtrt.priors.pixelcnn_graphs import pixelcnn_graph

        if name in ("encoder", "decoder"):
            return image_graph(self.model, name)
        prior, part = _prior_graph(name)
        if prior not in self._priors:
            return None
        if prior not in self._loaded:
            self._loaded[prior] = self._priors[prior].load()
        return pixelcnn_graph(self._loaded[prior], part)


class _Speech:
    """A run on speech, its priors and its graphs."""

    preprocessing: Preprocessing | None = None

    def __init__(self, run: "AudioRun", device: Any) -> None:
        from vqtrt.models.info import speech_info
        from vqtrt.priors.runs import trained_speech_priors

        self.model = run.load_model().to(device)
        self.facts, facts = speech_info(self.model, run.config)
        self.speech: SpeechInfo | None = facts
        self.weights_sha256 = file_sha256(run.weights)
        self._priors = trained_speech_priors(run.path)
        self._loaded: dict[str, WaveNetPrior] = {}
        self.priors = {name: prior.facts() for name, prior in self._priors.items()}

    def graph(self, name: str) -> "DeployedGraph | None":
        from vqtrt.models.audio_graphs import speech_graph, speech_graph_names
        from vqtrt.priors.wavenet_graphs import wavenet_graph

        if name in speech_graph_names(self.model):
            return speech_graph(self.model, name)
        prior, part = _prior_graph(name)
        if prior not in self._priors:
            return None
        if prior not in self._loaded:
            self._loaded[prior] = self._priors[prior].load()
        return wavenet_graph(self._loaded[prior], part)


def _forked() -> bool:
    """Whether this process was forked from one that had used torch."""
    global _began_in
    _began_in = _began_in or os.getpid()
    return _began_in != os.getpid()


def _open(run: Path, device: Any) -> _Images | _Speech:
    from vqtrt.models.runs import AudioRun, ImageRun, is_audio_run

    return (
        _Speech(AudioRun.open(run), device)
        if is_audio_run(run)
        else _Images(ImageRun.open(run), device)
    )


def _prior_graph(name: str) -> tuple[str, str]:
    """`priors/NAME/GRAPH` as NAME and GRAPH."""
    prior, _, part = name.removeprefix("priors/").rpartition("/")
    return prior, part
