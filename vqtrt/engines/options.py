"""How an engine is opened: one object that goes unchanged from the command to the engine.

It imports nothing, so that the command line can name it before anything heavy is loaded.
"""

from dataclasses import dataclass

TENSORRT = ("tensorrt", "tensorrt-rtx")
ENGINES = ("auto", *TENSORRT, "onnxruntime-cuda", "onnxruntime", "torch")


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs a model, where, and on what terms."""

    engine: str = "auto"
    """One of `ENGINES`; `auto` is the fastest that works here."""
    precision: str = "fp32"
    """Precision of the graphs, one of `formats.precision.PRECISIONS`; torch runs fp32 only."""
    device: int = 0
    """Index of the GPU, as CUDA counts those in CUDA_VISIBLE_DEVICES; ignored on a CPU."""
    threads: int | None = None
    """Largest number of CPU threads for one run of a graph; None for all usable cores."""
    trust_engines: bool = False
    """Load TensorRT plans that this machine did not build. A plan is code: see SECURITY.md."""


AUTO = EngineOptions()
"""The fastest engine that works here, in fp32."""
