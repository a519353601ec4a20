"""How fast recordings become codes, in times real time; as `bench/images.py` for images."""

import tempfile
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vqtrt.audio.encode import clips_ahead, encode_source
from vqtrt.audio.source import open_recordings
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.bench.images import Progress, rates_in_turns, require_torch
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.decode import Audio
from vqtrt.data.audio.folder import AudioSource
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.formats.audio_codes import read_clip_codes

_ENGINE_SECONDS = 300


def bench_encode_speech(
    model: ModelLocation,
    data: str,
    *,
    options: EngineOptions = AUTO,
    batch_size: int = 16,
    workers: int,
    repeat: int = 3,
    eager: bool = True,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Seconds of audio encoded per second, the median of `repeat` turns, and the peak memory.

    `read_real_time_factor`: reading, decoding and resampling alone, with all workers.
    `engine_real_time_factor`: the tokenizer alone, on recordings in memory.
    `end_to_end_real_time_factor`: what `vqtrt encode` does, files to codes file.
    `bound_real_time_factor`: 1 / (1/read + 1/engine), the rate of both stages one after the other.
    `eager_loop_real_time_factor`: a plain loop of torch on the same weights, one recording after
    the other; None without the run's weights.
    `peak_rss_bytes`: of the process while it encodes, before torch is loaded for the loop.
    `seconds` is the audio of all `recordings`. Raises `AudioError` for one that cannot be read.
    """
    tokenizer = AudioTokenizer(open_engine(model, options), batch_size=batch_size)
    source, rate = open_recordings(model, data), tokenizer.preprocessing.sample_rate
    loaded = _first(tokenizer, source, workers, _ENGINE_SECONDS * rate)
    counted: tuple[int, ...] = ()

    def read() -> float:
        return sum(map(len, _recordings(tokenizer, source, workers))) / rate

    def run_engine() -> float:
        tokenizer.encode(loaded)
        return sum(map(len, loaded)) / rate

    def end_to_end() -> float:
        nonlocal counted
        with tempfile.TemporaryDirectory(prefix="vqtrt-bench-") as scratch:
            out = Path(scratch) / "codes.npy"
            encode_source(tokenizer, source, out, root=data, model=model, workers=workers)
            counted = read_clip_codes(out).samples
        return sum(counted) / rate

    run_engine()  # what is made once is not measured
    stages = {"read": read, "engine": run_engine, "end_to_end": end_to_end}
    loop = None
    if eager and model.run is not None:
        loop = partial(eager_loop, model.run, source)
    rates, peak = rates_in_turns(stages, loop, repeat, progress)
    figures: dict[str, Any] = {
        f"{name}_real_time_factor": median(values) if values else None
        for name, values in rates.items()
    }
    return figures | {
        "bound_real_time_factor": 1 / (1 / median(rates["read"]) + 1 / median(rates["engine"])),
        "peak_rss_bytes": peak,
        "recordings": len(counted),
        "seconds": sum(counted) / rate,
        "batch_size": batch_size,
        "workers": workers,
        "engine": tokenizer.engine.name,
    }


def _recordings(
    tokenizer: AudioTokenizer, source: AudioSource, workers: int
) -> Generator[Audio, None, None]:
    """The samples of all recordings, in whole or in parts, read as `vqtrt encode` reads them."""
    with closing(clips_ahead(tokenizer, source, tokenizer.preprocessing, workers=workers)) as clips:
        for clip in clips:
            if clip.error is not None:
                raise clip.error
            yield from [clip.audio] if clip.audio is not None else clip.blocks or ()


def _first(
    tokenizer: AudioTokenizer, source: AudioSource, workers: int, samples: int
) -> list[Audio]:
    """Recordings from the first on that have so many samples together, or all."""
    first, count = list[Audio](), 0
    with closing(_recordings(tokenizer, source, workers)) as recordings:
        for audio in recordings:
            first.append(audio)
            count += len(audio)
            if count >= samples:
                break
    return first


def eager_loop(run: Path, source: AudioSource) -> Callable[[], float]:
    """The loop that `vqtrt encode` is compared with: read a recording, pad it, run the model.

    It gives the seconds of audio that went through.
    """
    require_torch()
    import torch

    from vqtrt.models.audio_graphs import SpeechEncoderGraph
    from vqtrt.models.runs import AudioRun

    opened = AudioRun.open(run)
    encoder, how = SpeechEncoderGraph(opened.load_model()), opened.config.data.preprocessing
    stride = opened.config.model.stride

    def loop() -> float:
        samples = 0
        with torch.inference_mode():
            for item in source.items():
                audio = source.read(item, how)
                padded = np.pad(audio, (0, -len(audio) % stride))
                encoder(torch.from_numpy(padded)[None]).numpy()
                samples += len(audio)
        return samples / how.sample_rate

    return loop
