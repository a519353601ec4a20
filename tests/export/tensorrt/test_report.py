import dataclasses
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
from tensorrt_doubles import pretend
from tensorrt_graphs import PROFILE, RTX, layer, products, without_engines

from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Package
from vqtrt.errors import VqtrtError
from vqtrt.export.tensorrt.build import (
    Options,
    build_engines,
    build_plan,
    check_precision,
    graphs_in,
)
from vqtrt.export.tensorrt.report import Layer, check_engine, engine_layers
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.precision import PRECISIONS

pytest.importorskip("tensorrt_rtx", reason='compiling needs pip install "vqtrt[rtx]"')


@pytest.fixture
def package() -> Package:
    return trt_package.load(RTX)


@pytest.fixture
def bundle(tiny_run, tmp_path) -> Bundle:
    return without_engines(tiny_run / "bundle", tmp_path)


def test_float32_is_not_rounded_to_tf32(package):
    config = []

    class Builder:
        def __init__(self, logger):
            self.real = package.module.Builder(logger)

        def __getattr__(self, name):
            return getattr(self.real, name)

        def create_builder_config(self):
            config.append(self.real.create_builder_config())
            return config[-1]

    class Module:
        def __getattr__(self, name):
            return Builder if name == "Builder" else getattr(package.module, name)

    build_plan(dataclasses.replace(package, module=Module()), products("fp32", "fp32"), PROFILE)
    (made,) = config
    assert not made.get_flag(package.module.BuilderFlag.TF32)


@pytest.mark.parametrize("told", ["", "no JSON", "[]", '{"Layers": 7}', None])
def test_an_inspector_that_fails_is_no_reason_to_lose_a_plan(
    monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    """It runs where a GPU is, after the build."""
    inspector = SimpleNamespace(get_engine_information=lambda kind: told)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector)
    fake = pretend(monkeypatch)
    formats = SimpleNamespace(JSON=1)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    monkeypatch.setattr(fake, "LayerInformationFormat", formats, raising=False)
    package = Package(RTX, fake, "1.7.1")
    fake.fails = {"Runtime"}
    assert engine_layers(package, b"plan", 0) is None
    monkeypatch.setattr(fake, "Runtime", lambda logger: runtime)
    assert engine_layers(package, b"plan", 0) is None
    inspector.get_engine_information = lambda kind: '{"Layers": [{"Name": "conv"}]}'
    assert engine_layers(package, b"plan", 0) == [{"Name": "conv"}]


def inspected(*kinds: str) -> list[dict[str, Any]]:
    """Layers as an inspector tells them, each of a dtype."""
    return [
        {"Inputs": [{"Name": "x", "Format/Datatype": f"Row major linear {kind}"}], "Outputs": []}
        for kind in kinds
    ]


def test_the_engine_computes_in_no_other_half() -> None:
    check_engine(None, "fp32", "it")
    check_engine(["a name alone"], "fp32", "it")
    check_engine(inspected("FP32", "Int32"), "fp32", "it")
    check_engine(inspected("FP32", "FP16"), "fp16", "it")
    check_engine(inspected("FP32"), "fp16", "it")  # what it does not tell proves nothing
    check_engine(inspected("BF16"), "bf16", "it")
    for precision, kind, name in [
        ("fp32", "FP16", "float16"),
        ("fp32", "Half", "float16"),
        ("fp16", "BF16", "bfloat16"),
    ]:
        with pytest.raises(VqtrtError, match=f"built in {precision}, .* computes in {name}"):
            check_engine(inspected("FP32", kind), precision, "it")


@pytest.mark.parametrize("asked", PRECISIONS)
@pytest.mark.parametrize("there", PRECISIONS)
def test_the_report_proves_the_precision(package, asked, there):
    layers = build_plan(package, products(there, there), PROFILE).layers
    if asked == there:
        check_precision(layers, asked)
        return
    with pytest.raises(VqtrtError, match=f"in {asked}, but 2 of its 2 products are not"):
        check_precision(layers, asked)


@pytest.mark.parametrize("asked", PRECISIONS)
@pytest.mark.parametrize(("first", "second"), [("fp16", "fp32"), ("fp32", "fp16")])
def test_half_of_the_products_is_not_enough(package, asked, first, second):
    layers = build_plan(package, products(first, second), PROFILE).layers
    with pytest.raises(VqtrtError, match="of its 2 products are not"):
        check_precision(layers, asked, "the graph 'encoder'")


def test_z_and_distances_stay_float32():
    conv = layer("CONVOLUTION", "a", "b", "float16")
    cast = Layer("cast", "CAST", (("b", "float16"),), (("c", "float32"),))
    last, product = layer("CONVOLUTION", "c", "z", "float32"), layer("EINSUM", "z", "d", "float32")
    shuffle, choice = (
        layer(*each, "float32") for each in (("SHUFFLE", "d", "e"), ("TOPK", "e", "f"))
    )
    check_precision([conv, cast, last, product, shuffle, choice], "fp16")
    with pytest.raises(VqtrtError, match="2 of its 3 products are not"):
        check_precision([conv, cast, last, product, shuffle], "fp16")
    with pytest.raises(VqtrtError, match="1 of its 3 products are not"):
        check_precision([conv, cast, last, product, shuffle, choice], "fp32")
    with pytest.raises(VqtrtError, match="it has no convolution and no matrix product in it"):
        check_precision([last, product, shuffle, choice], "fp16")
    # A float32 product before those in half is none of them, and nor is a third in a row.
    early = layer("CONVOLUTION", "o", "a", "float32")
    with pytest.raises(VqtrtError, match="CONVOLUTION-a is float32"):
        check_precision([early, conv, cast, last, product, shuffle, choice], "fp16")
    back = Layer("back", "CAST", (("a", "float32"),), (("h", "float16"),))
    half = layer("CONVOLUTION", "h", "b", "float16")
    with pytest.raises(VqtrtError, match="1 of its 4 products are not"):
        check_precision([early, back, half, cast, last, product, shuffle, choice], "fp16")
    third = layer("CONVOLUTION", "c", "y", "float32")
    last = layer("CONVOLUTION", "y", "z", "float32")
    with pytest.raises(VqtrtError, match="CONVOLUTION-y is float32"):
        check_precision([conv, cast, third, last, product, shuffle, choice], "fp16")


def test_a_half_graph_that_is_float32_is_an_error(half_run, package, tmp_path):
    shutil.copytree(half_run / "bundle", tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    full = bundle.graph_bytes("decoder")
    bundle.graph_bytes = lambda name: full
    with pytest.raises(VqtrtError, match=r"'fp16/encoder'|'fp16/decoder' was to be built in fp16"):
        build_engines(bundle, Options(package), ["fp16"])
    assert not (tmp_path / "bundle/engines").exists()


def test_a_precision_that_the_bundle_lacks(bundle, package):
    assert graphs_in(bundle, "fp32") == ["encoder", "decoder"]
    with pytest.raises(VqtrtError, match=r"has no fp16 graphs: .*--precision fp16"):
        build_engines(bundle, Options(package), ["fp16"])
    with pytest.raises(VqtrtError, match="no precision 'int8'"):
        build_engines(bundle, Options(package), ["int8"])
