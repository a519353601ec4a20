"""Engine files of a bundle, and what refuses them.

`load` stands for an engine that deserialises: what it was given is kept, and must stay nothing.
"""

import random
import re
from typing import Any

import pytest

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.tensorrt.plan_info import PlanInfo, plan_sha256
from vqtrt.engines.tensorrt.plans import find_plan, read_plan, write_plan
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import Bundle, BundleInfo, GraphSpec, ModelInfo, Source, TensorSpec

PLAN = random.Random(0).randbytes(4096)  # noqa: S311
HERE: dict[str, Any] = {"package": "tensorrt-rtx", "version": "1.7.1.116", "capability": "8.9"}
GPU: dict[str, Any] = {
    "package": "tensorrt",
    "version": "11.4.0.1",
    "gpu": "NVIDIA L4",
    "capability": "8.9",
}


def graph(sha: str) -> GraphSpec:
    images = TensorSpec(name="images", dtype="uint8", shape=("batch", "4*h", "4*w", 3))
    codes = TensorSpec(name="codes", dtype="int32", shape=("batch", "h", "w"))
    return GraphSpec(file="encoder.onnx", sha256=sha * 64, inputs=(images,), outputs=(codes,))


def make_bundle(tmp_path):
    info = BundleInfo(
        vqtrt_version="0",
        model=ModelInfo(codebook_size=16, num_codebooks=1, code_dim=8, stride=4),
        preprocessing=Preprocessing(height=16, width=16),
        graphs={"encoder": graph("a"), "fp16/encoder": graph("b")},
        opset=20,
        source=Source(run="runs/tiny", weights_sha256="c" * 64, recipe="tiny"),
    )
    path = tmp_path / "bundle"
    path.mkdir()
    Bundle.write_info(path, info)
    return Bundle.open(path)


def plan_info(bundle, **changes) -> PlanInfo:
    """That of an engine for RTX, of `encoder`, for batches of 1 to 8 at 16x16."""
    shapes = tuple((n, 16, 16, 3) for n in (1, 4, 8))
    made = {
        "graph": "encoder",
        "graph_sha256": "a" * 64,
        "package": HERE["package"],
        "package_version": HERE["version"],
        "precision": "fp32",
        "profile": {"images": shapes},
        "gpu": None,
        "compute_capabilities": (),
        "capturable": False,
        "plan_sha256": plan_sha256(PLAN),
        "plan_bytes": len(PLAN),
        "activation_bytes": 4096,
        "vqtrt_version": "0",
    }
    return PlanInfo.model_validate(made | changes)


def write(bundle, **changes):
    return write_plan(bundle.path / "engines", plan_info(bundle, **changes), PLAN, [], ["built"])


def for_gpu(bundle):
    """The same of `tensorrt`, built on an L4."""
    names = {"package": GPU["package"], "package_version": GPU["version"], "gpu": GPU["gpu"]}
    return write(bundle, compute_capabilities=("8.9",), **names)


def load(bundle, deserialised, graph="encoder", precision="fp32", **here):
    path, _ = find_plan(bundle, graph, precision, **here)
    deserialised.append(read_plan(bundle, path, **here))


def refused(bundle, path=None, **here):
    """The message of the refusal, by both ways in: by search, and of a path found before."""
    deserialised, here = [], HERE | here
    with pytest.raises(VqtrtError) as error:
        load(bundle, deserialised, **here)
    if path is not None:
        with pytest.raises(VqtrtError) as error:
            deserialised.append(read_plan(bundle, path, **here))
    assert deserialised == []
    message = str(error.value)
    assert "\n" not in message
    assert re.search(rf"`vqtrt export {bundle.path} --target {here['package']}", message)
    return message
