"""How an engine is opened: one object that goes unchanged from the command to the engine.

It imports nothing heavy, so that the command line can name it before anything else is loaded.
A new option of engines is a field here: the commands, their help and the reference pages are made
from the fields, and every engine is given the whole object.
"""

from dataclasses import dataclass, field

from vqtrt.formats.precision import PRECISIONS

TENSORRT = ("tensorrt", "tensorrt-rtx")
ENGINES = ("auto", *TENSORRT, "onnxruntime-cuda", "onnxruntime", "torch")


@dataclass(frozen=True)
class EngineOptions:
    """Which engine runs a model, where, and on what terms.

    The metadata of a field is its command-line option: `help`, `choices` and the smallest value.
    """

    engine: str = field(
        default="auto",
        metadata={
            "help": "Engine that runs the model; auto: the fastest here.",
            "choices": ENGINES,
        },
    )
    """One of `ENGINES`; `auto` is the fastest that works here."""
    precision: str = field(
        default="fp32",
        metadata={
            "help": "Precision of the graphs to run; see `vqtrt export --precision`.",
            "choices": PRECISIONS,
        },
    )
    """Precision of the graphs, one of `formats.precision.PRECISIONS`; torch runs fp32 only."""
    device: int = field(
        default=0, metadata={"help": "Index of the GPU; CPU engines ignore it.", "min": 0}
    )
    """Index of the GPU, as CUDA counts those in CUDA_VISIBLE_DEVICES; ignored on a CPU."""
    threads: int | None = field(
        default=None,
        metadata={"help": "CPU threads of the engine (default: one per usable core).", "min": 1},
    )
    """Largest number of CPU threads for one run of a graph; None for all usable cores."""
    trust_engines: bool = field(
        default=False,
        metadata={
            "help": "Load TensorRT engines that this machine did not build; they run as code."
        },
    )
    """Load TensorRT plans that this machine did not build. A plan is code: see SECURITY.md."""


AUTO = EngineOptions()
"""The fastest engine that works here, in fp32."""
