"""A WaveNet prior of random weights, on a stand-in for an engine."""

from collections.abc import Callable, Collection, Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from doubles import EngineDouble
from shared_runs import shared

from vqtrt.config.audio import WaveNetConfig
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.engines.step_loop import HostStepLoop
from vqtrt.engines.torch_bound import TorchBound
from vqtrt.export.audio_prior import wavenet_prior_graphs
from vqtrt.export.graph_writer import GraphWriter
from vqtrt.export.onnx import OPSET
from vqtrt.formats.audio_codes import ClipCodes, ClipHeader
from vqtrt.formats.bundle import Bundle, BundleInfo, ModelInfo, PriorInfo, Source, SpeechInfo
from vqtrt.priors.wavenet import WaveNetPrior
from vqtrt.priors.wavenet_graphs import wavenet_graph

K, STRIDE, RATE = 13, 4, 8000
SPEAKERS = ("ann", "bob", "cy")
SHA = "f" * 64


def random_prior(**settings) -> WaveNetPrior:
    """Of 3 speakers, with a receptive field of 15 codes; its draws are far from even."""
    config = {"layers": 6, "cycles": 2, "channels": 8, "head": 16, "codebook_size": K}
    torch.manual_seed(0)
    prior = WaveNetPrior(WaveNetConfig(**config | {"num_classes": 3} | settings)).eval()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return prior.requires_grad_(False)


class PriorEngine(EngineDouble):
    """An engine in torch whose model has the prior `wavenet` and nothing else.

    `bound` are the graphs that were made ready, with their sizes; `ran` the shapes of the codes
    that an open graph was run on.
    """

    name = "double"
    weights_sha256 = SHA
    info = ModelInfo(codebook_size=K, num_codebooks=1, code_dim=1, stride=STRIDE)

    def __init__(
        self, prior: WaveNetPrior, voices: tuple[str, ...] = SPEAKERS, names=SPEAKERS
    ) -> None:
        self.prior = prior
        self.speech = SpeechInfo(
            preprocessing=AudioPreprocessing(sample_rate=RATE),
            decoder="conv",
            speakers=voices,
            context=0,
            decoder_context=0,
        )
        facts = PriorInfo(
            kind="wavenet",
            codebook_size=K,
            num_codebooks=1,
            width=8,
            receptive_field=prior.config.receptive_field,
            classes=names if prior.config.num_classes else (),
            weights_sha256=SHA,
            tokenizer_sha256=SHA,
        )
        self.priors = {"wavenet": facts}
        self.bound: list[tuple[str, dict[str, int]]] = []
        self.ran: list[tuple[int, ...]] = []

    def open(self, graph: str) -> Callable[..., np.ndarray]:
        folder, _, part = graph.rpartition("/")
        assert folder == "priors/wavenet"
        module = wavenet_graph(self.prior, part).module

        def run(*arrays: np.ndarray) -> np.ndarray:
            self.ran.append(arrays[0].shape)
            with torch.inference_mode():
                return module(*map(torch.from_numpy, arrays)).numpy()

        return run

    def bind(
        self,
        graph: str,
        sizes: Mapping[str, int],
        *,
        shared: Mapping[str, np.ndarray] | None = None,
        skip: Collection[str] = (),
        threads: int | None = None,
    ) -> TorchBound:
        folder, _, part = graph.rpartition("/")
        assert folder == "priors/wavenet"
        self.bound.append((part, dict(sizes)))
        made = wavenet_graph(self.prior, part)
        return TorchBound(made, sizes, shared or {}, skip, torch.device("cpu"))

    def bind_steps(
        self, graph: str, batch: int, *, runs: int, start: int, threads: int | None = None
    ) -> HostStepLoop:
        return HostStepLoop(self.bind(graph, {"batch": batch}, skip=("logits",)), runs, start)


def small_prior_engine() -> PriorEngine:
    """One whose prior has 3 layers, which export in a second or so."""
    return PriorEngine(random_prior(layers=3, cycles=1))


def write_prior(folder: Path, engine: PriorEngine, precision: str) -> Bundle:
    """A bundle with the graphs of an engine's prior and nothing else."""
    writer = GraphWriter(folder)
    wavenet_prior_graphs(engine.prior, "wavenet", writer, precision)
    info = BundleInfo(
        kind="speech",
        vqtrt_version="0",
        model=engine.info,
        speech=engine.speech,
        graphs=writer.graphs,
        priors=engine.priors,
        opset=OPSET,
        source=Source(run="", weights_sha256=SHA, recipe="tiny"),
    )
    Bundle.write_info(folder, info)
    return Bundle.open(folder)


def exported_prior() -> Path:
    """The bundle of `small_prior_engine` in fp32. Shared: copy it before you change it."""

    def make(path: Path) -> None:
        path.mkdir()
        write_prior(path, small_prior_engine(), "fp32")

    return shared("untrained/clip-prior", make)


def clip_codes(lengths, labels=(), classes=SPEAKERS, seed=0) -> ClipCodes:
    """Random codes of clips, as if they were read from `codes.npy`."""
    offsets = tuple(accumulate(lengths, initial=0))
    codes = np.random.default_rng(seed).integers(0, K, offsets[-1]).astype(np.uint8)
    header = ClipHeader(
        codebook_size=K,
        sample_rate=RATE,
        stride=STRIDE,
        classes=classes,
        root="speech",
        listing_sha256="0" * 64,
        weights_sha256=SHA,
        model={"path": "run", "engine": "double"},
        preprocessing={},
        vqtrt_version="0",
    )
    files = tuple(f"{number}.wav" for number in range(len(lengths)))
    samples = tuple(length * STRIDE for length in lengths)
    return ClipCodes(Path("codes.npy"), codes, offsets, header, files, tuple(labels), samples)
