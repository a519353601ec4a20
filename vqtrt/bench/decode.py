"""How fast codes of speech become audio, beside real time and beside a naive loop.

The naive loop is what a plain torch implementation of WaveNet does: for each sample it computes the
whole receptive field anew. It has the same weights, runs in the same process, and goes on from
where the measured decoder stopped, with the same noise: it has to draw the same levels.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.inputs import require_speech
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.audio.wavenet_decoder import decoder_noise
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.mulaw import LEVELS, mulaw_encode
from vqtrt.engines.base import Engine
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.system.cores import usable_cores

if TYPE_CHECKING:
    from vqtrt.models.audio import SpeechVQVAE

_NAIVE_SECONDS = 10.0
_SPEAKERS = 6  # of a model of random weights

Progress = Callable[[int, int], None]


def bench_decode(
    engine: Engine,
    model: "SpeechVQVAE | None" = None,
    *,
    batch_size: int = 16,
    seconds: float = 1.0,
    repeat: int = 3,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Rates of decoding a batch of clips of `seconds`, each the median of `repeat` turns.

    `samples_per_second` of audio, all clips together, with everything from codes to audio in it.
    `real_time_factor`: seconds of audio in a second, all clips together. With a WaveNet decoder,
    and its `model`: `naive_samples_per_second` of the naive loop, which runs for 10 seconds or a
    clip's length; `naive_samples` that it drew; `ratio` of both rates; `naive_agreement`, the share
    of levels that both draw alike.
    """
    speech = require_speech(engine)
    tokenizer = AudioTokenizer(engine, batch_size=batch_size)
    rate, stride = speech.preprocessing.sample_rate, tokenizer.stride
    count = max(1, round(seconds * rate / stride))
    rng = np.random.default_rng(0)
    codes = list(rng.integers(0, tokenizer.codebook_size, (batch_size, count), np.int32))
    speakers = [index % (len(speech.speakers) + 1) for index in range(batch_size)]
    turns = repeat + (model is not None and speech.decoder == "wavenet")
    # A few codes first: what is made once, is not measured.
    tokenizer.decode([clip[: max(1, count // 8)] for clip in codes], speakers)
    times = []
    audio: list[NDArray[np.float32]] = []
    for turn in range(repeat):
        began = time.perf_counter()
        audio = tokenizer.decode(codes, speakers)
        times.append(time.perf_counter() - began)
        progress(turn + 1, turns)
    fast = batch_size * count * stride / median(times)
    figures: dict[str, Any] = {
        "samples_per_second": fast,
        "real_time_factor": fast / rate,
        "decoder": speech.decoder,
        "batch_size": batch_size,
        "seconds": count * stride / rate,
        "sample_rate": rate,
        "engine": engine.name,
    }
    if speech.decoder == "wavenet":
        figures["unroll"] = speech.unroll
        if model is not None:
            levels = mulaw_encode(np.stack(audio))
            naive = _naive(model, np.stack(codes), np.array(speakers), levels)
            figures |= naive | {"ratio": fast / naive["naive_samples_per_second"]}
            progress(turns, turns)
    return figures


def _naive(
    model: "SpeechVQVAE",
    codes: NDArray[np.int32],
    speakers: NDArray[np.int64],
    levels: NDArray[np.uint8],
) -> dict[str, Any]:
    """Draw the end of `levels` (N, T) anew, a whole receptive field for each sample."""
    import torch
    from torch.nn import functional as F

    from vqtrt.models.audio import WaveNetDecoder
    from vqtrt.models.audio_graphs import ConditioningGraph
    from vqtrt.models.sample import draw

    assert isinstance(model.decoder, WaveNetDecoder)  # noqa: S101 - for mypy: as the caller saw
    wavenet, hop = model.decoder.wavenet, model.decoder.hop
    n, total = levels.shape
    reach = min(wavenet.config.receptive_field, total)
    uniform = torch.from_numpy(decoder_noise(0, range(n), total))
    agreed = drawn = 0
    with torch.inference_mode(), _all_cores():
        biases = ConditioningGraph(model)(torch.from_numpy(codes), torch.from_numpy(speakers))
        biases = biases.transpose(0, 1).contiguous()
        known = torch.from_numpy(levels.astype(np.int64))
        previous = F.pad(known, (1, 0), value=LEVELS)
        began = taken = 0.0
        # The first is for warming up.
        for step in range(max(0, total - reach // 4) - 1, total):
            if drawn == 0:
                began = time.perf_counter()
            first = max(0, step + 1 - reach) // hop
            last = step // hop + 1
            window = previous[:, first * hop : last * hop]
            logits = wavenet(window, biases[:, first:last], hop)[:, step - first * hop]
            made = draw(logits, uniform[:, step], torch.ones(1))
            previous[:, step + 1] = made
            agreed += int((made == known[:, step]).sum())
            drawn += 1
            taken = time.perf_counter() - began
            if taken > _NAIVE_SECONDS:
                break
    return {
        "naive_samples_per_second": n * drawn / taken,
        "naive_samples": n * drawn,
        "naive_agreement": agreed / (n * drawn),
    }


@contextmanager
def _all_cores() -> Iterator[None]:
    """Torch on as many cores as the measured engine has."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bench_decode_model(
    model: ModelLocation, options: EngineOptions = AUTO, **sizes: Any
) -> dict[str, Any]:
    """`bench_decode` of a model on an engine; with its run, beside the naive loop."""
    opened = open_engine(model, options)
    require_speech(opened)
    if model.run is None:
        return bench_decode(opened, **sizes)
    from vqtrt.models.runs import AudioRun

    return bench_decode(opened, AudioRun.open(model.run).load_model(), **sizes)


def bench_decode_recipe(recipe: str, options: EngineOptions = AUTO, **sizes: Any) -> dict[str, Any]:
    """`bench_decode` of random weights: the cost of a recipe's decoder does not depend on them.

    Raises `VqtrtError` for an engine that needs a trained run (torch) or compiled plans (TensorRT).
    """
    if options.engine not in ("auto", "onnxruntime", "onnxruntime-cuda"):
        raise VqtrtError(
            f"--engine {options.engine} cannot run a recipe's random weights: pass --model with a "
            "trained run, or --engine onnxruntime or onnxruntime-cuda"
        )
    with tempfile.TemporaryDirectory(prefix="vqtrt-bench-") as scratch:
        folder = Path(scratch)
        model = random_decoder(folder, recipe)
        engine = open_engine(ModelLocation(None, folder, "named"), options)
        return bench_decode(engine, model, **sizes) | {"recipe": recipe}


def random_decoder(folder: Path, recipe: str) -> "SpeechVQVAE":
    """The model of a recipe with random weights; its decoder becomes a bundle in `folder`."""
    import torch

    from vqtrt.config.images import load_speech_config
    from vqtrt.export.audio import speech_graphs
    from vqtrt.export.graph_writer import GraphWriter
    from vqtrt.export.onnx import OPSET
    from vqtrt.formats.bundle import Bundle, BundleInfo, Source
    from vqtrt.models.audio import SpeechVQVAE
    from vqtrt.models.info import speech_info
    from vqtrt.version import __version__

    config = load_speech_config(recipe)
    speakers = tuple(f"speaker{index}" for index in range(_SPEAKERS))
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"speakers": speakers})}
    )
    torch.manual_seed(0)
    model = SpeechVQVAE(config.model, config.data.preprocessing.sample_rate)
    model = model.eval().requires_grad_(False)
    writer = GraphWriter(folder)
    speech_graphs(model, writer, skip=("encoder",))
    facts, speech = speech_info(model, config)
    info = BundleInfo(
        kind="speech",
        vqtrt_version=__version__,
        model=facts,
        speech=speech,
        graphs=writer.graphs,
        opset=OPSET,
        source=Source(run="", weights_sha256="", recipe=recipe),
    )
    Bundle.write_info(folder, info)
    return model
