"""What drawing a batch of codes costs, counted in full forward passes of the same prior.

Sampling, the full pass and the naive loop (a full pass a position) run in turns in one process, on
the same engine and batch: machines are noisy, and what counts is the ratio.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vqtrt.engines.base import Engine
from vqtrt.engines.noise import noise
from vqtrt.engines.priors import find_prior
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler

_NAIVE_SECONDS = 20.0


def bench_sample(
    engine: Engine,
    prior: str,
    *,
    shape: tuple[int, int],
    batch_size: int = 16,
    repeat: int = 3,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Times of one batch, each the median of `repeat` turns.

    `seconds_per_batch`: drawing a batch of codes. `forward_seconds`: one full forward pass of that
    batch. `forward_passes`: the first over the second. `naive_seconds`: a full pass for each
    position, each followed by a draw; after 20 seconds the rest is taken to go on at the same pace,
    and `naive_positions` says how many were run. `images_per_second`: samples drawn a second.
    """
    facts = find_prior(engine, prior)
    height, width = shape
    sampler = BatchSampler(engine, prior, facts.codebook_size, batch_size, width)
    labels = np.zeros(batch_size, np.int32) if facts.classes else None
    sizes = {"batch": batch_size, "height": height, "width": width}
    full = engine.bind(f"priors/{prior}/logits", sizes)
    if labels is not None:
        full.inputs["labels"][:] = labels

    def draw() -> None:
        sampler.sample(SamplingParams(), range(batch_size), height, labels=labels)

    draw()
    full.run()
    drawing, forward = [], []
    for turn in range(repeat):
        drawing.append(_seconds(draw))
        forward.append(_seconds(full.run))
        progress(turn + 1, repeat + 1)
    naive, positions = _naive(full, shape, batch_size)
    progress(repeat + 1, repeat + 1)
    seconds, pass_seconds = median(drawing), median(forward)
    return {
        "forward_passes": seconds / pass_seconds,
        "seconds_per_batch": seconds,
        "forward_seconds": pass_seconds,
        "naive_seconds": naive,
        "naive_positions": positions,
        "images_per_second": batch_size / seconds,
        "shape": [height, width],
        "batch_size": batch_size,
        "engine": engine.name,
    }


def _seconds(run: Callable[[], None]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _naive(full: Any, shape: tuple[int, int], batch_size: int) -> tuple[float, int]:
    """Seconds of the loop that computes everything for every position, and positions run."""
    height, width = shape
    codes, logits = full.inputs["codes"], full.outputs["logits"]
    uniform = noise(0, range(batch_size), height * width)
    codes[:] = 0
    began = time.perf_counter()
    for done, (row, column) in enumerate(np.ndindex(height, width), 1):
        full.run()
        values = logits[:, row, column, 0].astype(np.float64)
        cumulative = np.exp(values - values.max(-1, keepdims=True)).cumsum(-1)
        drawn = (cumulative <= uniform[:, done - 1, None] * cumulative[:, -1:]).sum(-1)
        codes[:, row, column, 0] = drawn
        taken = time.perf_counter() - began
        if taken > _NAIVE_SECONDS:
            break
    return taken / done * height * width, done


def random_prior(
    folder: Path, shape: tuple[int, int], *, layers: int, channels: int, codebook_size: int
) -> tuple[Engine, str]:
    """A PixelCNN of random weights, exported and opened in onnxruntime; its engine and name."""
    import torch

    from vqtrt.config.images import PixelCNNConfig
    from vqtrt.data.images.preprocessing import Preprocessing
    from vqtrt.engines.onnxruntime import OnnxRuntimeEngine
    from vqtrt.export.bundle import prior_graphs
    from vqtrt.export.graph_writer import GraphWriter
    from vqtrt.export.onnx import OPSET
    from vqtrt.formats.bundle import Bundle, BundleInfo, ModelInfo, PriorInfo, Source
    from vqtrt.priors.pixelcnn import PixelCNN
    from vqtrt.version import __version__

    torch.manual_seed(0)
    config = PixelCNNConfig(layers=layers, channels=channels, codebook_size=codebook_size)
    config = config.fitted(*shape)
    writer = GraphWriter(folder)
    drawn = PixelCNN(config).eval()
    prior_graphs(drawn, "random", shape[1], writer, skip=("step_filtered",))  # the bench cuts none
    height, width = shape
    facts = PriorInfo(
        codebook_size=codebook_size,
        num_codebooks=1,
        height=height,
        width=width,
        receptive_field=config.receptive_field(config.kernel or 3),
        weights_sha256="",
        tokenizer_sha256="",
    )
    info = BundleInfo(
        vqtrt_version=__version__,
        model=ModelInfo(codebook_size=codebook_size, num_codebooks=1, code_dim=1, stride=4),
        preprocessing=Preprocessing(height=4 * height, width=4 * width),
        graphs=writer.graphs,
        priors={"random": facts},
        opset=OPSET,
        source=Source(run="", weights_sha256="", recipe="random"),
    )
    return OnnxRuntimeEngine(Bundle(folder, info)), "random"


def bench_random(
    shape: tuple[int, int],
    *,
    batch_size: int,
    repeat: int,
    layers: int = 15,
    channels: int = 64,
    codebook_size: int = 512,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`bench_sample` of random weights: what the shape of a prior costs, whatever it has learnt."""
    with tempfile.TemporaryDirectory(prefix="vqtrt-bench-") as scratch:
        engine, prior = random_prior(
            Path(scratch), shape, layers=layers, channels=channels, codebook_size=codebook_size
        )
        figures = bench_sample(
            engine, prior, shape=shape, batch_size=batch_size, repeat=repeat, progress=progress
        )
    return figures | {"layers": layers, "channels": channels, "codebook_size": codebook_size}
