"""A module as it is exported, with the table of its inputs and outputs.

One description serves the exporter and the torch engine, so that both mean the same graph.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from vqtrt.formats.bundle import TensorSpec
from vqtrt.formats.caches import CACHE, KEPT
from vqtrt.formats.sampling import SAMPLING_INPUTS

T = TypeVar("T")


@dataclass(frozen=True)
class DeployedGraph:
    """A module that takes its inputs by name, and gives its outputs.

    The inputs that hold sampling parameters go in together, as `sampling`, by name. A module with
    caches takes them as the list `caches`, and gives the list of new ones last.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    caches: tuple[TensorSpec, ...] = ()

    @property
    def all_inputs(self) -> tuple[TensorSpec, ...]:
        """All that it takes, as a bundle's table has it: inputs, then caches."""
        return self.inputs + self.caches

    @property
    def all_outputs(self) -> tuple[TensorSpec, ...]:
        """All that it gives: outputs, then new caches."""
        return self.outputs + self.kept()

    def kept(self) -> tuple[TensorSpec, ...]:
        """The new caches, as outputs."""
        return tuple(
            tensor.model_copy(update={"name": tensor.name.replace(CACHE, KEPT, 1)})
            for tensor in self.caches
        )

    def call(
        self, inputs: Mapping[str, Tensor], caches: Sequence[Tensor] = ()
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Run the module: its outputs by name, and its new caches."""
        kept: list[Tensor] = []
        if self.caches:
            *made, kept = self.module(**self.arguments(inputs), caches=caches)
        else:
            out = self.module(**self.arguments(inputs))
            made = [out] if isinstance(out, Tensor) else list(out)
        names = (tensor.name for tensor in self.outputs)
        return dict(zip(names, made, strict=True)), kept

    def arguments(self, inputs: Mapping[str, T]) -> dict[str, Any]:
        """Inputs by name as the module takes them."""
        sampling = {name: value for name, value in inputs.items() if name in SAMPLING_INPUTS}
        others = {name: value for name, value in inputs.items() if name not in sampling}
        return {**others, "sampling": sampling} if sampling else others


def int32(name: str, *shape: int | str) -> TensorSpec:
    """A tensor of a table."""
    return TensorSpec(name=name, dtype="int32", shape=shape)


def float32(name: str, *shape: int | str) -> TensorSpec:
    """A tensor of a table."""
    return TensorSpec(name=name, dtype="float32", shape=shape)


def multiple(factor: int, size: str) -> str:
    """A size that follows from another, as tables name it: `4*h`."""
    return size if factor == 1 else f"{factor}*{size}"
