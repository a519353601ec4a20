"""The precisions that a bundle's graphs come in, and how their graphs are named.

A bundle always holds the fp32 graphs, under their plain names. Half precision is in the graph
itself, as weights and casts: TensorRT for RTX and TensorRT 11 know no other way.
"""

from typing import TYPE_CHECKING

from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.formats.bundle import Bundle

PRECISIONS = ("fp32", "fp16", "bf16")


def graph_key(precision: str, name: str) -> str:
    """What a graph is called in the bundle: `encoder`, or `fp16/encoder`."""
    return name if precision == "fp32" else f"{precision}/{name}"


def require_precision(bundle: "Bundle", precision: str) -> None:
    """Raise `VqtrtError` where a bundle has no graphs of this precision."""
    if precision not in PRECISIONS:
        raise VqtrtError(f"no precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if precision != "fp32" and not any(k.startswith(f"{precision}/") for k in bundle.info.graphs):
        raise VqtrtError(
            f"{bundle.path} has no {precision} graphs: type "
            f"`vqtrt export {bundle.info.source.run} --precision {precision}`"
        )
