"""The precisions that a bundle's graphs come in, and how their graphs are named.

A bundle always holds the fp32 graphs, under their plain names. Half precision is in the graph
itself, as weights and casts: TensorRT for RTX and TensorRT 11 know no other way.
"""

import copy
from typing import TYPE_CHECKING, TypeVar

from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle

if TYPE_CHECKING:
    import torch

    _M = TypeVar("_M", bound=torch.nn.Module)

PRECISIONS = ("fp32", "fp16", "bf16")


def graph_key(precision: str, name: str) -> str:
    """What a graph is called in the bundle: `encoder`, or `fp16/encoder`."""
    return name if precision == "fp32" else f"{precision}/{name}"


def require_precision(bundle: Bundle, precision: str) -> None:
    """Raise `VqtrtError` where a bundle has no graphs of this precision."""
    if precision not in PRECISIONS:
        raise VqtrtError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "fp32" and not any(k.startswith(f"{precision}/") for k in bundle.info.graphs):
        raise VqtrtError(
            f"{bundle.path} has no {precision} graphs: type "
            f"`vqtrt export {bundle.info.source.run} --precision {precision}`"
        )


def torch_dtype(precision: str) -> "torch.dtype":
    """What convolutions and products are computed in."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def in_dtype(module: "_M", dtype: "torch.dtype") -> "_M":
    """A module with its weights in `dtype`: a copy, or the module itself where they are already."""
    values = (value for value in module.state_dict().values() if value.is_floating_point())
    same = all(value.dtype == dtype for value in values)
    return module if same else copy.deepcopy(module).to(dtype)
