"""The doctor's own model: a bundle of a few KB whose results numpy can tell.

Its ONNX files are written byte by byte, because an inference machine has no `onnx`. The weights are
fixed fractions, the same on every machine, and need more than the 10 bits that TF32 keeps.

`encoder`   two layers: a convolution of stride 4 with a ReLU, then the argmax of 64 scores
`static`    the same at one shape: 4 pictures of 32x32
`step`      a cell with a cache that comes back after two runs: for loops, and CUDA graphs
"""

import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.formats.bundle import Bundle, BundleInfo, GraphSpec, ModelInfo, Source, TensorSpec
from vqtrt.version import __version__

STRIDE, CHANNELS, CODES, WIDTH = 4, 8, 64, 16
STATIC = (4, 32, 32, 3)
SHA256 = {
    "encoder": "1ce92b1e6e47b3f559f6e6a2338f7f96e4f7213aea9cf94a7b6e90e7705b18cd",
    "static": "64ccc41a252f2300d13f1d1693228693623ee2f51687f7a41765371fd9703a47",
    "step": "47b4f7b21750cb2072a93536dfb137dc79a8fd5f3a33d9db893426faad36dc39",
}
_UINT8, _INT32, _INT64, _FLOAT = 2, 6, 7, 1
_TYPES = {"uint8": _UINT8, "int32": _INT32, "float32": _FLOAT}
_IR, _OPSET = 8, 17


def fractions(*shape: int, seed: int) -> NDArray[np.float32]:
    """Numbers in [-0.5, 0.5) with 24 bits, from integers alone."""
    count = int(np.prod(shape))
    numbers = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed)) * np.uint64(2654435761)
    mixed = (numbers ^ (numbers >> np.uint64(13))) * np.uint64(1597334677) % np.uint64(1 << 24)
    return ((mixed.astype(np.float64) / (1 << 24)) - 0.5).astype(np.float32).reshape(shape)


KERNEL = fractions(CHANNELS, 3, STRIDE, STRIDE, seed=1) * np.float32(1 / 128)
SCORES = fractions(CODES, CHANNELS, 1, 1, seed=2)
CELL, OUT = fractions(WIDTH, WIDTH, seed=3), fractions(WIDTH, WIDTH, seed=4)


def encode(images: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """What `encoder` has to give, in float64: codes (N, h, w), and by how much each one is ahead.

    The margin is the gap to the second best score, as a share of the best.
    """
    n, height, width, _ = images.shape
    h, w = height // STRIDE, width // STRIDE
    patches = images.astype(np.float64).reshape(n, h, STRIDE, w, STRIDE, 3)
    hidden = np.einsum("nhiwjc,kcij->nhwk", patches, KERNEL.astype(np.float64)).clip(0)
    scores = hidden @ SCORES[:, :, 0, 0].T.astype(np.float64)
    ranked = np.sort(scores, -1)
    margins = (ranked[..., -1] - ranked[..., -2]) / np.abs(ranked[..., -1]).clip(1e-9)
    return scores.argmax(-1).astype(np.int32), margins


def steps(inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """What `step` has to give for inputs (runs, N, WIDTH), in float64."""
    states = [np.zeros(inputs.shape[1:]), np.zeros(inputs.shape[1:])]
    made = []
    for x in inputs.astype(np.float64):
        states.append(np.tanh(x @ CELL.astype(np.float64) + states[-2]))
        made.append(states[-1] @ OUT.astype(np.float64))
    return np.stack(made)


def write_bundle(folder: Path) -> Bundle:
    """Write the model into an empty folder, and open it."""
    specs = {}
    for name, (content, inputs, outputs) in graphs().items():
        (folder / f"{name}.onnx").write_bytes(content)
        # The known hash: reading the graph fails if this machine wrote other bytes.
        known = {"file": f"{name}.onnx", "sha256": SHA256[name]}
        specs[name] = GraphSpec(**known, inputs=inputs, outputs=outputs)
    info = BundleInfo(
        vqtrt_version=__version__,
        model=ModelInfo(codebook_size=CODES, num_codebooks=1, code_dim=CHANNELS, stride=STRIDE),
        preprocessing=Preprocessing(height=STATIC[1], width=STATIC[2]),
        graphs=specs,
        opset=_OPSET,
        source=Source(run="", weights_sha256="0" * 64, recipe="doctor"),
    )
    Bundle.write_info(folder, info)
    return Bundle.open(folder)


Tables = tuple[TensorSpec, ...]


def graphs() -> dict[str, tuple[bytes, Tables, Tables]]:
    """The three ONNX files, each with its table."""
    free = ("batch", f"{STRIDE}*h", f"{STRIDE}*w", 3)
    made = {}
    for name, shape, grid in (
        ("encoder", free, ("batch", "h", "w")),
        ("static", STATIC, (STATIC[0], STATIC[1] // STRIDE, STATIC[2] // STRIDE)),
    ):
        images = TensorSpec(name="images", dtype="uint8", shape=shape)
        codes = TensorSpec(name="codes", dtype="int32", shape=grid)
        made[name] = _model(_ENCODER, {"kernel": KERNEL, "scores": SCORES}, (images,), (codes,))
    row = ("batch", WIDTH)
    x, y = (TensorSpec(name=name, dtype="float32", shape=row) for name in ("x", "y"))
    cache = TensorSpec(name="cache0", dtype="float32", shape=row, delay=2)
    kept = cache.model_copy(update={"name": "kept0"})
    made["step"] = _model(_STEP, {"cell": CELL, "out": OUT}, (x, cache), (y, kept))
    return made


# ONNX's messages in protobuf's wire format (onnx.proto): a field is its number and kind, then an
# integer, or a length and as many bytes.


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _message(field: int, content: bytes | str) -> bytes:
    data = content.encode() if isinstance(content, str) else content
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _node(kind: str, inputs: Iterable[str], output: str, *attributes: bytes) -> bytes:
    parts = [_message(1, name) for name in inputs]
    parts += [_message(2, output), _message(4, kind)]
    return b"".join([*parts, *(_message(5, attribute) for attribute in attributes)])


def _int_attribute(name: str, value: int) -> bytes:
    return _message(1, name) + _integer(3, value) + _integer(20, 2)


def _ints_attribute(name: str, values: Iterable[int]) -> bytes:
    return _message(1, name) + b"".join(_integer(8, value) for value in values) + _integer(20, 7)


_ENCODER = (
    _node("Cast", ["images"], "pixels", _int_attribute("to", _FLOAT)),
    _node("Transpose", ["pixels"], "planes", _ints_attribute("perm", (0, 3, 1, 2))),
    _node(
        "Conv",
        ["planes", "kernel"],
        "first",
        _ints_attribute("kernel_shape", (STRIDE, STRIDE)),
        _ints_attribute("strides", (STRIDE, STRIDE)),
    ),
    _node("Relu", ["first"], "hidden"),
    _node("Conv", ["hidden", "scores"], "scored", _ints_attribute("kernel_shape", (1, 1))),
    _node("ArgMax", ["scored"], "best", _int_attribute("axis", 1), _int_attribute("keepdims", 0)),
    _node("Cast", ["best"], "codes", _int_attribute("to", _INT32)),
)
_STEP = (
    _node("MatMul", ["x", "cell"], "moved"),
    _node("Add", ["moved", "cache0"], "sum"),
    _node("Tanh", ["sum"], "kept0"),
    _node("MatMul", ["kept0", "out"], "y"),
)


def _model(
    nodes: Iterable[bytes],
    weights: Mapping[str, NDArray[np.float32]],
    inputs: Tables,
    outputs: Tables,
) -> tuple[bytes, Tables, Tables]:
    graph = b"".join(_message(1, node) for node in nodes) + _message(2, "doctor")
    for name, array in weights.items():
        dims = b"".join(_integer(1, size) for size in array.shape)
        values = struct.pack(f"<{array.size}f", *array.ravel().tolist())
        graph += _message(5, dims + _integer(2, _FLOAT) + _message(8, name) + _message(9, values))
    graph += b"".join(_message(11, _value(tensor)) for tensor in inputs)
    graph += b"".join(_message(12, _value(tensor)) for tensor in outputs)
    opset = _message(1, "") + _integer(2, _OPSET)
    model = _integer(1, _IR) + _message(2, "vqtrt doctor") + _message(7, graph)
    return model + _message(8, opset), inputs, outputs


def _value(tensor: TensorSpec) -> bytes:
    dims = b"".join(
        _message(1, _integer(1, size) if isinstance(size, int) else _message(2, size))
        for size in tensor.shape
    )
    kind = _message(1, _integer(1, _TYPES[tensor.dtype]) + _message(2, dims))
    return _message(1, tensor.name) + _message(2, kind)
