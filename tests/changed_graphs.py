"""Bundles whose graphs do something else than they should."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import onnx

from vqtrt.formats.bundle import Bundle


def change_graph(bundle: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change a graph's file and mend the hashes, as an export from other code would."""
    path = bundle / f"{name}.onnx"
    proto = onnx.load(path)
    change(proto)
    path.write_bytes(proto.SerializeToString())
    opened = Bundle.open(bundle)
    spec = opened.info.graphs[name]
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    graphs = opened.info.graphs | {name: spec.model_copy(update={"sha256": sha256})}
    Bundle.write_info(bundle, opened.info.model_copy(update={"graphs": graphs}))
