"""WaveNet decoders made by hand: a few operations for each cache, so that any stack costs little.

What a run draws depends on all caches and, within a few runs, on every bit of them: a cache that
comes back too early, too late or not at all changes everything after it.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.formats.bundle import (
    Bundle,
    BundleInfo,
    GraphSpec,
    ModelInfo,
    Source,
    SpeechInfo,
    TensorSpec,
)

K, LEVELS = 16, 256
VCTK = tuple(2**i // 4 or 1 for i in range(10)) * 2
"""Delays of a vctk decoder: 20 layers of dilations 1 to 512, 4 samples a run. Its period is 256."""
MIX, KEEP, SHIFT = np.float32(1.37), np.float32(0.73), np.float32(0.1)


def step_bundle(
    folder: Path, delays: Sequence[int] = VCTK, *, unroll: int = 4, hop: int = 64
) -> Bundle:
    """A bundle of speech with `conditioning` and `step`; a code stands for a frame of `hop`."""
    folder.mkdir()
    bias = TensorSpec(name="bias", dtype="float32", shape=("batch", 1))
    caches = [
        TensorSpec(name=f"cache{i}", dtype="float32", shape=("batch", 1), delay=delay)
        for i, delay in enumerate(delays)
    ]
    kept = [c.model_copy(update={"name": c.name.replace("cache", "kept")}) for c in caches]
    step = [
        TensorSpec(name="previous", dtype="int32", shape=("batch",)),
        bias,
        TensorSpec(name="noise", dtype="float32", shape=("batch", unroll)),
        TensorSpec(name="temperature", dtype="float32", shape=(1,)),
        *caches,
    ]
    levels = TensorSpec(name="levels", dtype="int32", shape=("batch", unroll))
    logits = TensorSpec(name="logits", dtype="float32", shape=("batch", 1))
    codes = TensorSpec(name="codes", dtype="int32", shape=("batch", "t"))
    speakers = TensorSpec(name="speakers", dtype="int32", shape=("batch",))
    frames = bias.model_copy(update={"shape": ("t", "batch", 1)})
    graphs = {
        "step": _write(folder, "step", _step_nodes(len(delays)), step, [levels, logits, *kept]),
        "conditioning": _write(folder, "conditioning", _CONDITIONING, [codes, speakers], [frames]),
    }
    info = BundleInfo(
        kind="speech",
        vqtrt_version="0",
        model=ModelInfo(codebook_size=K, num_codebooks=1, code_dim=1, stride=hop),
        speech=SpeechInfo(
            preprocessing=AudioPreprocessing(sample_rate=8000),
            decoder="wavenet",
            speakers=("ann", "bob"),
            context=0,
            decoder_context=1,
            hop=hop,
            unroll=unroll,
        ),
        graphs=graphs,
        opset=20,
        source=Source(run="", weights_sha256="f" * 64, recipe="hand"),
    )
    Bundle.write_info(folder, info)
    return Bundle.open(folder)


class ByHand:
    """What the step graph does, in numpy: with a queue for each cache."""

    def __init__(self, delays: Sequence[int], batch: int) -> None:
        zeros = np.zeros((batch, 1), np.float32)
        self._queues = [deque([zeros] * delay) for delay in delays]
        self._previous = np.full(batch, LEVELS, np.int32)

    def run(self, bias: NDArray[np.float32], noise: NDArray[np.float32]) -> NDArray[np.int32]:
        """Levels (N, u)."""
        state = self._previous[:, None].astype(np.float32) / np.float32(LEVELS) + bias
        for queue in self._queues:
            state = state * MIX + queue.popleft() * KEEP + SHIFT
            state = state - np.floor(state)
            queue.append(state)
        drawn = state + noise
        levels = ((drawn - np.floor(drawn)) * np.float32(LEVELS)).astype(np.int32)
        self._previous = levels[:, -1]
        return levels


_CONDITIONING = [
    helper.make_node("Transpose", ["codes"], ["turned"], perm=[1, 0]),
    helper.make_node("Add", ["turned", "speakers"], ["summed"]),
    helper.make_node("Cast", ["summed"], ["cast"], to=TensorProto.FLOAT),
    helper.make_node("Div", ["cast", "levels_"], ["shares"]),
    helper.make_node("Unsqueeze", ["shares", "last"], ["bias"]),
]


def _step_nodes(layers: int) -> list:
    """The nodes of the step graph."""
    one = helper.make_node
    nodes = [
        one("Cast", ["previous"], ["before"], to=TensorProto.FLOAT),
        one("Unsqueeze", ["before", "last"], ["column"]),
        one("Div", ["column", "levels_"], ["share"]),
        one("Mul", ["temperature", "zero"], ["nothing"]),
        one("Add", ["share", "bias"], ["biased"]),
        one("Add", ["biased", "nothing"], ["kept-1"]),
    ]
    for i in range(layers):
        nodes += [
            one("Mul", [f"kept{i - 1}", "mix"], [f"mixed{i}"]),
            one("Mul", [f"cache{i}", "keep"], [f"past{i}"]),
            one("Add", [f"mixed{i}", f"past{i}"], [f"both{i}"]),
            one("Add", [f"both{i}", "shift"], [f"shifted{i}"]),
            one("Floor", [f"shifted{i}"], [f"whole{i}"]),
            one("Sub", [f"shifted{i}", f"whole{i}"], [f"kept{i}"]),
        ]
    return [
        *nodes,
        one("Identity", [f"kept{layers - 1}"], ["logits"]),
        one("Add", [f"kept{layers - 1}", "noise"], ["drawn"]),
        one("Floor", ["drawn"], ["whole"]),
        one("Sub", ["drawn", "whole"], ["rest"]),
        one("Mul", ["rest", "levels_"], ["scaled"]),
        one("Cast", ["scaled"], ["levels"], to=TensorProto.INT32),
    ]


def _write(folder: Path, name: str, nodes: list, ins: list, outs: list) -> GraphSpec:
    """An ONNX file of a bundle, and its entry in the table."""
    kinds = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
    inputs, outputs = (
        [helper.make_tensor_value_info(t.name, kinds[t.dtype], t.shape) for t in tensors]
        for tensors in (ins, outs)
    )
    constants: dict[str, Any] = {"mix": MIX, "keep": KEEP, "shift": SHIFT, "zero": np.float32(0)}
    constants |= {"levels_": np.float32(LEVELS), "last": np.array([-1])}
    used = {source for node in nodes for source in node.input}
    held = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used]
    graph = helper.make_graph(nodes, name, inputs, outputs, held)
    opset = helper.make_opsetid("", 20)
    content = helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    (folder / f"{name}.onnx").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return GraphSpec(file=f"{name}.onnx", sha256=sha256, inputs=tuple(ins), outputs=tuple(outs))
