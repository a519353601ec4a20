"""The sampling parameters: one table, from which graphs, samplers, commands and docs are built.

A parameter is a field of `SamplingParams`. Its metadata says what it is on the command line
(`help`), and as what a step graph takes it (`dtype`, one number). Parameters that filter codes are
inputs of the graph `step_filtered` only: `step` is cheaper, and draws without them. The noise is
no parameter: `engines/noise.py` makes it from the seed.

To add one: add the field, check it in `check`, and use the graph input of its name in
`models/sample.py: draw`, which all step graphs call with their sampling inputs by name.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from vqtrt.formats.bundle import TensorSpec


@dataclass(frozen=True)
class SamplingParams:
    """How codes are drawn from the distribution at a position."""

    temperature: float = field(
        default=1.0,
        metadata={
            "help": "Divides the logits; 0 takes the most likely code.",
            "dtype": "float32",
        },
    )
    """Divides the logits; 0 takes the most likely code."""
    top_k: int | None = field(
        default=None,
        metadata={
            "help": "Sample from the K most likely codes only (default: all).",
            "dtype": "int32",
            "filters": True,
        },
    )
    """Sample from the K most likely codes only; None for all."""
    top_p: float = field(
        default=1.0,
        metadata={
            "help": "Nucleus sampling: keep the smallest set of codes whose probability reaches P.",
            "dtype": "float32",
            "filters": True,
        },
    )
    """Keep the smallest set of codes whose probability reaches this."""
    seed: int = field(default=0, metadata={"help": "Seed of the sampling noise."})

    def check(self, codebook_size: int) -> None:
        """Raise `VqtrtError` for a value out of range."""
        if not 0 <= self.temperature < float("inf"):
            raise VqtrtError(f"temperature {self.temperature}: must be 0 or more")
        if self.top_k is not None and not 1 <= self.top_k <= codebook_size:
            raise VqtrtError(f"top-k {self.top_k}: must be 1 to {codebook_size}, the codebook")
        if not 0 < self.top_p <= 1:
            raise VqtrtError(f"top-p {self.top_p}: must be above 0 and at most 1")
        if not 0 <= self.seed < 2**63:
            raise VqtrtError(f"seed {self.seed}: must be 0 to 2^63 - 1")

    @property
    def step(self) -> str:
        """The step graph that draws so: `step`, or `step_filtered` if a parameter filters codes."""
        plain = _inputs(filters=False)
        filters = (each for each in _inputs(filters=True) if each not in plain)
        filtered = any(getattr(self, each.name) != each.default for each in filters)
        return "step_filtered" if filtered else "step"

    def write(self, inputs: "Mapping[str, NDArray[Any]]", codebook_size: int) -> None:
        """Write each parameter into the input (1,) of its name, if a step graph has one."""
        for each in _inputs(filters=True):
            if each.name in inputs:
                value = getattr(self, each.name)
                inputs[each.name][:] = codebook_size if value is None else value


def sampling_inputs(*, filters: bool) -> "tuple[TensorSpec, ...]":
    """The inputs (1,) of a step graph, with or without the parameters that filter codes."""
    from vqtrt.formats.bundle import TensorSpec

    return tuple(
        TensorSpec(name=each.name, dtype=each.metadata["dtype"], shape=(1,))
        for each in _inputs(filters=filters)
    )


def _inputs(*, filters: bool) -> "list[Field[Any]]":
    """The parameters that step graphs take, in the order of their inputs."""
    of_graphs = [each for each in fields(SamplingParams) if "dtype" in each.metadata]
    return [each for each in of_graphs if filters or not each.metadata.get("filters", False)]


SAMPLING_INPUTS = tuple(each.name for each in _inputs(filters=True))
"""Names of the inputs of step graphs that hold parameters."""
