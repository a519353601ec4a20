"""What a network is made of, and whether its precision is the one that was asked for.

Read from the network as the package parsed it. The networks are strongly typed: the types that
its tensors have there are those that the engine computes in.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vqtrt.engines.cuda import on_device
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import REFUSED, Package
from vqtrt.errors import VqtrtError

_PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "EINSUM", "MATRIX_MULTIPLY"}
_CHOICES = {"CUMULATIVE", "SOFTMAX", "TOPK"}
"""What picks a code: of distances the smallest, of logits one by chance."""
_BEFORE_CHOICE = 2
"""Products that may be float32 in a row before a choice: what makes z, and the distances."""
_OF_SPECTRUM = 2
"""Products that a mel spectrogram is made by: with waves, and with filters."""
_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_WANTED = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Layer:
    """A layer of a network; its tensors are pairs of name and dtype."""

    name: str
    type: str
    """As the package names it: `CONVOLUTION`, `TOPK`, …"""
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


def layers_of(network: Any) -> list[Layer]:
    """The layers of an `INetworkDefinition`, in its order."""
    return [_layer(network.get_layer(index)) for index in range(network.num_layers)]


def engine_layers(package: Package, plan: bytes, device: int) -> list[Any] | None:
    """The layers of an engine that was built just now, if it can be loaded here and asked.

    None without a GPU, and for an inspector that fails: what it says is for people, and no reason
    to lose the plan.
    """
    if trt_package.device(device) is None:
        return None
    kind = package.module.LayerInformationFormat.JSON
    try:
        with on_device(device):
            engine = package.module.Runtime(package.logger).deserialize_cuda_engine(plan)
            if engine is None:
                return None
            told = json.loads(engine.create_engine_inspector().get_engine_information(kind))
    except (*REFUSED, VqtrtError, ValueError):
        return None
    layers = told.get("Layers") if isinstance(told, dict) else None
    return layers if isinstance(layers, list) else None


def as_json(layers: Sequence[Layer], engine: Sequence[Any] | None) -> dict[str, Any]:
    """What `KEY.layers.json` holds: the network, and the engine's layers where they are known."""
    network = [
        {
            "name": layer.name,
            "type": layer.type,
            "inputs": [f"{name}: {kind}" for name, kind in layer.inputs],
            "outputs": [f"{name}: {kind}" for name, kind in layer.outputs],
        }
        for layer in layers
    ]
    return {"network": network, "engine": engine}


def check_precision(
    layers: Sequence[Layer],
    precision: str,
    what: str = "the network",
    *,
    spectrum: bool = False,
) -> None:
    """Raise `VqtrtError` unless the convolutions and matrix products compute in `precision`.

    In half precision all do, and there is at least one, but for the last two before a choice, which
    are float32 if from there on everything is: z and distances decide which code it is. With
    `spectrum`, the first two may also be, which make a mel spectrogram.
    """
    wanted = _WANTED[precision]
    products = [layer for layer in layers if layer.type in _PRODUCTS and _float_type(layer)]
    choosing = _choosing(layers) if precision != "fp32" else set()
    if spectrum:
        choosing |= _spectrum(layers)
    wrong = [
        layer
        for layer in products
        if _float_type(layer) != wanted
        and not (_float_type(layer) == "float32" and layer.name in choosing)
    ]
    if not wrong and (precision == "fp32" or any(_float_type(p) == wanted for p in products)):
        return
    if wrong:
        named = ", ".join(f"{layer.name} is {_float_type(layer)}" for layer in wrong[:3])
        reason = f"{len(wrong)} of its {len(products)} products are not ({named})"
    else:
        reason = "it has no convolution and no matrix product in it"
    raise VqtrtError(
        f"{what} was to be built in {precision}, but {reason}: export the graph in {precision}, "
        f"with `vqtrt export RUN --precision {precision}`"
    )


def check_engine(engine: Sequence[Any] | None, precision: str, what: str) -> None:
    """Raise `VqtrtError` if an engine's inspector tells of another precision than was asked for.

    It names a dtype for each tensor of each layer that it knows of, which need not be all: what is
    not there proves nothing, and a half precision that was not asked for is an error.
    """
    found = {kind for layer in engine or () for kind in _kinds(layer)}
    if strange := sorted(found - {"float32", _WANTED[precision]}):
        raise VqtrtError(
            f"{what} was to be built in {precision}, but its engine computes in "
            f"{', '.join(strange)}: build it again, and report this if it is so again"
        )


_KINDS = {"float32": r"FP32|Float", "float16": r"FP16|Half", "bfloat16": r"BF16|BFloat16"}


def _kinds(layer: Any) -> set[str]:
    """The kinds of float that an inspected layer's tensors have."""
    if not isinstance(layer, dict):
        return set()
    tensors = [each for side in ("Inputs", "Outputs") for each in layer.get(side) or ()]
    told = " ".join(
        str(value)
        for tensor in tensors
        if isinstance(tensor, dict)
        for key, value in tensor.items()
        if "datatype" in key.lower() or "format" in key.lower()
    )
    return {kind for kind, names in _KINDS.items() if re.search(rf"\b({names})\b", told)}


def _layer(parsed: Any) -> Layer:
    inputs = (parsed.get_input(index) for index in range(parsed.num_inputs))
    outputs = (parsed.get_output(index) for index in range(parsed.num_outputs))
    return Layer(
        parsed.name,
        parsed.type.name,
        tuple(_tensor(tensor) for tensor in inputs if tensor is not None),
        tuple(_tensor(tensor) for tensor in outputs),
    )


def _tensor(tensor: Any) -> tuple[str, str]:
    kind = tensor.dtype.name
    return tensor.name, _TYPES.get(kind, kind.lower())


def _float_type(layer: Layer) -> str | None:
    """What a layer gives, if that is a kind of float."""
    kinds = [kind for _, kind in layer.outputs]
    return next((kind for kind in kinds if kind in _TYPES.values()), None)


def _spectrum(layers: Sequence[Layer]) -> set[str]:
    """Names of the first float32 products, with nothing but float32 before them."""
    after: dict[str, int] = {}
    names = set()
    for layer in layers:
        floats = [name for name, kind in layer.inputs if kind in _TYPES.values()]
        kinds = {kind for _, kind in (*layer.inputs, *layer.outputs)} & set(_TYPES.values())
        # Products between the graph's inputs and here; many, where something half was among them.
        count = max((after.get(name, 0) for name in floats), default=0)
        if kinds - {"float32"}:
            count = len(layers)
        elif layer.type in _PRODUCTS:
            count += 1
            if count <= _OF_SPECTRUM:
                names.add(layer.name)
        after.update((name, count) for name, _ in layer.outputs)
    return names


def _choosing(layers: Sequence[Layer]) -> set[str]:
    """Names of the last float32 products before a choice, with nothing but float32 on the way."""
    readers = defaultdict(list)
    for layer in layers:
        for name, kind in layer.inputs:
            if kind == "float32":
                readers[name].append(layer)

    def leads_to_choice(product: Layer, products: int) -> bool:
        pending, seen = [product], {product.name}
        while pending:
            layer = pending.pop()
            if layer.type in _CHOICES:
                return True
            for reader in (reader for name, _ in layer.outputs for reader in readers[name]):
                if reader.name in seen:
                    continue
                seen.add(reader.name)
                if reader.type not in _PRODUCTS:
                    pending.append(reader)
                elif products > 1 and leads_to_choice(reader, products - 1):
                    return True
        return False

    products = (layer for layer in layers if layer.type in _PRODUCTS)
    return {layer.name for layer in products if leads_to_choice(layer, _BEFORE_CHOICE)}
