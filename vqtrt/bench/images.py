"""How fast a folder becomes codes, stage by stage, beside the loop that people write by hand.

All of it is measured in one run, in turns, because machines are noisy: what counts is the ratios.
"""

import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.batches import read_batches
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.source import Images
from vqtrt.engines.choose import installed, open_engine
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.images.encode import encode_source
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.encode import list_source

_ENGINE_IMAGES = 2048

Progress = Callable[[int, int], None]
Stage = Callable[[], float]
"""Does some work, and returns how much: images, or seconds of audio."""


def bench_encode(
    model: ModelLocation,
    folder: str | Path,
    *,
    options: EngineOptions = AUTO,
    batch_size: int = 64,
    workers: int,
    repeat: int = 3,
    eager: bool = True,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Rates in images a second, the median of `repeat` turns, and the peak memory.

    `decode_images_per_second`: reading and decoding files alone, with all workers.
    `engine_images_per_second`: the encoder graph alone, on images in memory.
    `end_to_end_images_per_second`: what `vqtrt encode` does, files to codes file.
    `bound_images_per_second`: 1 / (1/decode + 1/engine), the rate of the stages one after the
    other, each at its best.
    `eager_loop_images_per_second`: a plain loop of Pillow and torch on the same weights and batch
    size, one step after the other; None without the run's weights.
    `peak_rss_bytes`: of the process while it encodes, before torch is loaded for the loop.
    """
    source = ImageFolder(Path(folder))
    count = list_source(source).items
    tokenizer = ImageTokenizer(open_engine(model, options), batch_size=batch_size)
    size = tokenizer.preprocessing
    batches = list(
        itertools.islice(
            read_batches(source, size, batch_size=batch_size, workers=workers),
            max(1, _ENGINE_IMAGES // batch_size),
        )
    )
    tokenizer.encode(batches[0].images)

    def decode() -> int:
        read = read_batches(source, size, batch_size=batch_size, workers=workers)
        return sum(len(batch.items) for batch in read)

    def run_engine() -> int:
        return sum(len(tokenizer.encode(batch.images)) for batch in batches)

    def end_to_end() -> int:
        with tempfile.TemporaryDirectory(prefix="vqtrt-bench-") as scratch:
            out = Path(scratch) / "codes.npy"
            return encode_source(
                tokenizer, source, out, root=str(folder), model=model, workers=workers
            ).rows

    loop = None
    if eager and model.run is not None:
        loop = partial(eager_loop, model.run, source, batch_size)
    stages = {"decode": decode, "engine": run_engine, "end_to_end": end_to_end}
    rates, peak = rates_in_turns(stages, loop, repeat, progress)
    figures: dict[str, Any] = {
        f"{name}_images_per_second": median(values) if values else None
        for name, values in rates.items()
    }
    bound = 1 / (1 / median(rates["decode"]) + 1 / median(rates["engine"]))
    return figures | {
        "bound_images_per_second": bound,
        "peak_rss_bytes": peak,
        "images": count,
        "batch_size": batch_size,
        "workers": workers,
        "engine": tokenizer.engine.name,
    }


def rates_in_turns(
    stages: Mapping[str, Stage],
    eager: Callable[[], Stage] | None,
    repeat: int,
    progress: Progress,
) -> tuple[dict[str, list[float]], int]:
    """What each stage gets done per second, `repeat` times in turns, and the peak memory in bytes.

    A stage returns how much it did. `eager` makes the plain loop, `eager_loop` among the rates; the
    stage `end_to_end` is timed again beside it. Without one its rates are empty.
    """
    rates: dict[str, list[float]] = {name: [] for name in [*stages, "eager_loop"]}
    turns = repeat * (len(stages) + 1)
    done = itertools.count(1)
    for _, (name, stage) in itertools.product(range(repeat), stages.items()):
        rates[name].append(_rate(stage))
        progress(next(done), turns)
    # Kilobytes on Linux. The loop comes after it: torch is not part of encoding.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if eager is not None:
        loop = eager()
        for _ in range(repeat):
            rates["eager_loop"].append(_rate(loop))
            # End to end again beside it, so that both saw the same machine.
            rates["end_to_end"].append(_rate(stages["end_to_end"]))
            progress(min(next(done), turns), turns)
    return rates, peak


def _rate(stage: Stage) -> float:
    began = time.perf_counter()
    done = stage()
    return done / (time.perf_counter() - began)


def require_torch() -> None:
    """Raise `VqtrtError` without torch, which the eager loop runs on."""
    if not installed("torch"):
        raise VqtrtError(
            'the eager loop needs torch: pip install "vqtrt[train]", or pass --no-eager'
        )


def eager_loop(run: Path, source: ImageFolder, batch_size: int) -> Callable[[], int]:
    """The loop that `vqtrt encode` is compared with: read a batch, stack it, run the model."""
    require_torch()
    import torch

    from vqtrt.models.runs import ImageRun

    opened = ImageRun.open(run)
    model, size = opened.load_model(), opened.config.data.preprocessing

    def read(name: str) -> Images:
        return size(Image.open(source.root / name).convert("RGB"))

    def loop() -> int:
        rows = 0
        items: Iterator[str] = (item.name for item in source.items())
        with torch.inference_mode():
            while names := list(itertools.islice(items, batch_size)):
                stacked = torch.from_numpy(np.stack([read(name) for name in names]))
                images = stacked.permute(0, 3, 1, 2).contiguous().float() / 255 - 0.5
                rows += len(model.quantizer.encode(model.encoder(images)).numpy())
        return rows

    return loop
