import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cuda_doubles import FakeCuda, pretend
from doubles import flip_byte, vqtrt
from onnx import TensorProto, helper

from vqtrt.config.location import find_model
from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Device, Package, PackageName
from vqtrt.engines.tensorrt.plan_info import Profile
from vqtrt.engines.tensorrt.plans import find_plan, read_plan
from vqtrt.errors import VqtrtError
from vqtrt.export.tensorrt import build as module
from vqtrt.export.tensorrt.build import (
    Options,
    activation_bytes,
    build_engines,
    build_plan,
    check_precision,
    engine_options,
    graphs_in,
    in_loop,
)
from vqtrt.export.tensorrt.profiles import parse_batch, parse_sizes
from vqtrt.export.tensorrt.report import Layer, check_engine, engine_layers
from vqtrt.formats.bundle import Bundle
from vqtrt.formats.precision import PRECISIONS

pytest.importorskip("tensorrt_rtx", reason='compiling needs pip install "vqtrt[rtx]"')

RTX: PackageName = "tensorrt-rtx"
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture
def package() -> Package:
    return trt_package.load(RTX)


@pytest.fixture
def bundle(tiny_run, tmp_path) -> Bundle:
    """A copy, without engines."""
    shutil.copytree(
        tiny_run / "bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("engines")
    )
    return Bundle.open(tmp_path / "bundle")


def model(nodes, ins, outs, constants=()) -> bytes:
    """An ONNX file; `ins` and `outs` are (name, type, shape)."""
    inputs, outputs = (
        [helper.make_tensor_value_info(*each) for each in part] for part in (ins, outs)
    )
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    opset = helper.make_opsetid("", 20)
    return helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()


def products(first: str, second: str) -> bytes:
    """Two matrix products one after the other, each in its precision, between float32."""
    nodes, at = [], "x"
    for index, precision in enumerate((first, second)):
        kind = TYPES[precision]
        nodes += [
            helper.make_node("Cast", [at], [f"in{index}"], to=kind),
            helper.make_node("Cast", ["weight"], [f"weight{index}"], to=kind),
            helper.make_node("MatMul", [f"in{index}", f"weight{index}"], [f"out{index}"]),
        ]
        at = f"out{index}"
    nodes.append(helper.make_node("Cast", [at], ["y"], to=TensorProto.FLOAT))
    weight = helper.make_tensor("weight", TensorProto.FLOAT, (4, 4), [0.5] * 16)
    float_ = TensorProto.FLOAT
    return model(nodes, [("x", float_, ["n", 4])], [("y", float_, ["n", 4])], [weight])


PROFILE: Profile = {"x": ((1, 4), (2, 4), (8, 4))}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_of_a_run_compiles(half_run, package, precision, tmp_path):
    shutil.copytree(half_run / "bundle", tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    told = []
    results = build_engines(
        bundle, Options(package), [precision], progress=lambda done, total: told.append(done)
    )
    prefix = "" if precision == "fp32" else f"{precision}/"
    parts = ["row", "step", "step_filtered", "logits"]
    names = ["encoder", "decoder", *(f"priors/pixelcnn/{part}" for part in parts)]
    assert set(results) == {prefix + name for name in names}
    assert told == sorted(told)
    assert told[-1] == 100
    for name in names:
        result = results[prefix + name]
        assert result["built"]
        here = {"package": RTX, "version": package.version}
        path, info = find_plan(bundle, name, precision=precision, **here, fits={"batch": 64})
        assert str(path) == result["engine"]
        assert len(read_plan(bundle, path, **here)) == result["bytes"] == info.plan_bytes
        layers = json.loads(path.with_suffix(".layers.json").read_text())["network"]
        assert any(layer["type"] in ("CONVOLUTION", "MATRIX_MULTIPLY") for layer in layers)
        assert "Engine generation completed" in path.with_suffix(".log").read_text()


def test_engines_that_are_whole_are_kept(bundle, package):
    first = build_engines(bundle, Options(package))
    path = Path(first["decoder"]["engine"])
    flip_byte(path, 1000)
    written = Path(first["encoder"]["engine"]).stat().st_mtime_ns
    second = build_engines(bundle, Options(package))
    assert [second[name]["built"] for name in ("encoder", "decoder")] == [False, True]
    assert Path(second["encoder"]["engine"]).stat().st_mtime_ns == written
    assert second["encoder"]["bytes"] == first["encoder"]["bytes"]
    assert read_plan(bundle, path, package=RTX, version=package.version)
    other = build_engines(bundle, Options(package, batch=(1, 1, 1), compute_capabilities=("8.9",)))
    assert all(result["built"] for result in other.values())
    assert len(list(path.parent.glob("*.engine"))) == 4


def test_shapes_of_a_profile(half_run, package, monkeypatch):
    profiles = {}

    def recorded(bundle, options, device, graph, precision, profile, progress):
        profiles[graph] = profile
        return {}

    monkeypatch.setattr(module, "_engine", recorded)
    bundle = Bundle.open(half_run / "bundle")
    build_engines(bundle, Options(package, (1, 2, 3)))
    assert profiles["encoder"] == {"images": tuple((n, 16, 16, 3) for n in (1, 2, 3))}
    assert profiles["decoder"] == {"codes": tuple((n, 4, 4) for n in (1, 2, 3))}
    step = profiles["priors/pixelcnn/step"]
    assert step["code"] == ((1, 1), (2, 1), (3, 1))
    assert step["bias"] == tuple((4, n, 64) for n in (1, 2, 3))
    sizes = [(16, 32), (32, 32), (32, 64)]
    build_engines(bundle, Options(package, (1, 2, 3), sizes))
    wanted = tuple((n, h, w, 3) for n, (h, w) in zip((1, 2, 3), sizes, strict=True))
    assert profiles["encoder"] == {"images": wanted}
    assert profiles["priors/pixelcnn/logits"]["codes"] == (
        (1, 4, 8, 1),
        (2, 8, 8, 1),
        (3, 8, 16, 1),
    )
    with pytest.raises(VqtrtError, match="multiples of 4, the model's stride"):
        build_engines(bundle, Options(package, (1, 2, 3), [(16, 18)] * 3))


def test_a_size_that_no_option_gives(bundle, package):
    spec = bundle.info.graphs["encoder"]
    strange = spec.inputs[0].model_copy(update={"shape": ("batch", "seconds")})
    graphs = {"encoder": spec.model_copy(update={"inputs": (strange,)})}
    bundle = Bundle(bundle.path, bundle.info.model_copy(update={"graphs": graphs}))
    with pytest.raises(VqtrtError, match="no profile has all these sizes"):
        build_engines(bundle, Options(package))


def test_the_parser_says_what_it_refuses(package):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0], name="early"),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
    ]
    content = model(
        nodes, [("x", TensorProto.UINT8, ["n", 4])], [("y", TensorProto.FLOAT, [4, "n"])]
    )
    with pytest.raises(VqtrtError) as error:
        build_plan(package, content, PROFILE)
    assert "cannot parse it" in str(error.value)
    assert "early and operator: Transpose" in str(error.value)
    assert "first input has type UInt8" in str(error.value)
    assert "\n" not in str(error.value)
    assert "catchCudaError" not in str(error.value)  # no build needs the driver
    with pytest.raises(VqtrtError, match="Failed to parse the ONNX model"):
        build_plan(package, b"no onnx", PROFILE)


def test_a_refused_graph_is_named(bundle, package):
    node = helper.make_node("Multinomial", ["x"], ["y"], sample_size=3)
    content = model(
        [node], [("x", TensorProto.FLOAT, ["n", 4])], [("y", TensorProto.INT32, ["n", 3])]
    )
    bundle.graph_bytes = lambda name: content
    with pytest.raises(VqtrtError, match=r"the graph 'encoder': .*Multinomial"):
        build_engines(bundle, Options(package))
    assert not (bundle.path / "engines").exists()


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"x": ((4, 4), (2, 4), (8, 4))}, r"refuses the profile .*MIN<=OPT<=MAX"),
        ({"x": ((1, 4), (2, 4), (8, 5))}, r"cannot build it: .*Dimension mismatch"),
        ({"x": ((1,), (2, 4), (8, 4))}, "refuses the profile"),
        ({}, r"differ: \['x'\]"),
        (PROFILE | {"z": PROFILE["x"]}, r"differ: \['z'\]"),
    ],
)
def test_profiles_that_are_refused(package, profile, message):
    with pytest.raises(VqtrtError, match=message):
        build_plan(package, products("fp32", "fp32"), profile)


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


def test_an_interrupted_build_stops(package, half_run, monkeypatch):
    monkeypatch.setattr(module, "_TICK", 0.001)
    bundle = Bundle.open(half_run / "bundle")
    content = bundle.graph_bytes("priors/pixelcnn/logits")
    shapes = (1, 4, 4, 1), (2, 4, 4, 1), (3, 4, 4, 1)
    profile: Profile = {"codes": shapes, "labels": ((1,), (2,), (3,))}

    def interrupt(share):
        raise KeyboardInterrupt

    with package.logging() as log, pytest.raises(KeyboardInterrupt):
        build_plan(package, content, profile, progress=interrupt)
    assert log  # of the builder, until it stopped
    assert build_plan(package, content, profile).plan


class Timed(Package):
    has_timing_cache = True


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # RTX has the calls, and ignores them
def test_a_timing_cache_is_kept(package, tmp_path):
    path = tmp_path / "engines" / "gpu.timing-cache"
    timed = Timed(package.name, package.module, package.version)
    for _ in range(2):
        assert build_plan(timed, products("fp32", "fp32"), PROFILE, timing_cache=path).plan
        assert path.stat().st_size > 32
        flip_byte(path, 40)
    assert build_plan(package, products("fp32", "fp32"), PROFILE, timing_cache=tmp_path / "x").plan
    assert not (tmp_path / "x").exists()


def test_engines_of_priors_allocate_nothing_while_they_run(
    tiny_prior, package, monkeypatch, tmp_path
):
    asked = []

    def build(*given, capturable, **options):
        asked.append(capturable)
        return build_plan(*given, capturable=capturable, **options)

    monkeypatch.setattr("vqtrt.export.tensorrt.build.build_plan", build)
    shutil.copytree(tiny_prior / "bundle", tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    results = build_engines(bundle, Options(package))
    assert asked == [name.startswith("priors/") for name in results]
    assert len(set(asked)) == 2
    # It is written down, and so are the memory of a context and the batches that it is fastest at.
    here = {"package": RTX, "version": package.version}
    for name, result in results.items():
        _, info = find_plan(bundle, name, precision="fp32", **here)
        assert info.capturable == name.startswith("priors/") == in_loop(name)
        assert info.activation_bytes == result["activation_bytes"]
        batches = [shapes[0] for shapes in next(iter(info.profile.values()))]
        if name in ("encoder", "decoder"):
            assert batches == [1, 64, 64]
            # Of 64 pictures, and not of one or of a thousand.
            assert 64 * 16 * 16 * 3 < result["activation_bytes"] < 2**30
        elif name.endswith("/logits"):
            assert batches == [1, 16, 64]


def test_the_memory_that_a_builder_tells() -> None:
    log = ["INFO: Total Activation Memory: 17 bytes", "INFO: Total Activation Memory: 4096 bytes"]
    assert activation_bytes(log) == 4096
    assert activation_bytes(["INFO: Total Weights Memory: 16 bytes"]) is None


def refusing(package: Package, name: str) -> Package:
    """The package, in which one class cannot be made, as pybind11 says it."""

    def refuse(*given: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    class Module:
        def __getattr__(self, asked: str) -> Any:
            return refuse if asked == name else getattr(package.module, asked)

    return dataclasses.replace(package, module=Module())


@pytest.mark.parametrize("name", ["Builder", "OnnxParser"])
def test_a_builder_that_cannot_start_is_one_line(
    bundle: Bundle, package: Package, name: str
) -> None:
    with pytest.raises(VqtrtError, match=r"'encoder': tensorrt-rtx .* cannot build: ") as error:
        build_engines(bundle, Options(refusing(package, name)))
    assert "\n" not in str(error.value)


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


def test_an_engine_that_others_built_is_built_again(
    bundle: Bundle, package: Package, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The advice for an engine that is not trusted is to build: that must not adopt it."""
    graphs = {"decoder": bundle.info.graphs["decoder"]}
    bundle = Bundle(bundle.path, bundle.info.model_copy(update={"graphs": graphs}))
    assert build_engines(bundle, Options(package))["decoder"]["built"]
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "another-user"))
    again = build_engines(bundle, Options(package))["decoder"]
    assert (again["built"], again["trusted"]) == (True, True)
    assert not build_engines(bundle, Options(package))["decoder"]["built"]


def test_without_a_state_folder_it_is_built_all_the_same(
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "state"))
    assert vqtrt("export", bundle.path, "--target", RTX, "--json") == 0
    shown, said = capfd.readouterr()
    assert {each["trusted"] for each in json.loads(shown)["engines"].values()} == {False}
    assert "--trust-engines" in said
    assert "VQTRT_STATE" in said


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


def layer(kind, source, target, dtype):
    return Layer(f"{kind}-{target}", kind, ((source, dtype),), ((target, dtype),))


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


def test_tensorrt_compiles_on_the_gpu_that_was_named(
    bundle: Bundle, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every thread that it builds in."""
    api, gpus = FakeCuda(devices=3), []
    fake = pretend(monkeypatch, api)
    monkeypatch.setattr(trt_package, "device", lambda index: Device(f"GPU {index}", "8.9"))

    class Builder:
        def __init__(self, logger: Any) -> None:
            gpus.append(api.cudaGetDevice()[1])
            self._real = package.module.Builder(logger)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            gpus.append(api.cudaGetDevice()[1])
            return self._real.build_serialized_network(network, config)

    class Module:
        Runtime = fake.Runtime

        def __getattr__(self, name: str) -> Any:
            return Builder if name == "Builder" else getattr(package.module, name)

    fake.fails = {"Runtime"}  # this plan is none that the stand-in can load
    plain = Package("tensorrt", Module(), "11.4.0")
    build_plan(plain, products("fp32", "fp32"), PROFILE, device=2)
    assert gpus == [2, 2]
    options = Options(plain, device=1)
    monkeypatch.setattr(module, "build_plan", lambda *given, **how: gpus.append(how["device"]))
    with pytest.raises(AttributeError):  # it gave no plan
        build_engines(bundle, options)
    assert gpus == [2, 2, 1]
    assert engine_options(RTX, device=1).device == 1


def test_tensorrt_needs_a_gpu(bundle, package, monkeypatch):
    monkeypatch.setattr(trt_package, "device", lambda index: None)
    plain = dataclasses.replace(package, name="tensorrt", version="11.4.0")
    with pytest.raises(VqtrtError, match="none can be used here: take --target tensorrt-rtx"):
        build_engines(bundle, Options(plain))


def test_options_of_the_command():
    assert parse_batch("1,8,64") == (1, 8, 64)
    assert parse_batch("8") == (8, 8, 8)
    assert parse_sizes("32x48") == [(32, 48)] * 3
    assert parse_sizes("16,32X32,64x128") == [(16, 16), (32, 32), (64, 128)]
    for text in ("", "0", "1,2", "8,4,16", "1,2,3,4", "1,2,x", "-1", "1.5", "1 ,2,3", "9" * 30):
        with pytest.raises(VqtrtError, match="expected the least"):
            parse_batch(text)
    for text in ("", "0x8", "32x", "8x8,4x4,16x16", "8,8", "axb", "8x8x8", "32x32,", "9" * 30):
        with pytest.raises(VqtrtError, match="expected HxW"):
            parse_sizes(text)
    with pytest.raises(VqtrtError, match="no compute capability '9"):
        engine_options(RTX, compute_capabilities=["9.9"])


def test_the_command_builds_engines_of_a_bundle(bundle, capfd):
    command = ["export", bundle.path, "--target", RTX, "--batch", "1,2,4", "--json"]
    assert vqtrt(*command) == 0
    built = json.loads(capfd.readouterr().out)["engines"]
    assert set(built) == {"encoder", "decoder"}
    assert all(Path(each["engine"]).stat().st_size == each["bytes"] for each in built.values())
    assert vqtrt(*command[:-1]) == 0
    shown = capfd.readouterr().out.splitlines()
    assert ["engines.encoder.built", "False"] in [line.split() for line in shown]
    assert vqtrt(*command, "--batch", "0") == 1
    assert "expected the least" in capfd.readouterr().err


def test_the_command_exports_a_run_and_builds(tiny_prior, tmp_path, capfd):
    out = shutil.copytree(tiny_prior / "bundle", tmp_path / "out")
    command = ["export", tiny_prior, "--out", out, "--no-verify", "--target", RTX, "--json"]
    assert vqtrt(*command, "--precision", "fp16", "--batch", "4") == 0
    shown, said = capfd.readouterr()
    assert "6 of its 12 graphs are as before" in said
    built = json.loads(shown)["engines"]
    assert len(built) == 6
    assert all(name.startswith("fp16/") for name in built)
    assert find_model(out).open_bundle().info.graphs.keys() > built.keys()


def test_a_machine_without_torch_compiles(bundle):
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'safetensors'): sys.modules[name] = None\n"
        f"sys.argv = ['vqtrt', 'export', {str(bundle.path)!r}, '--target', 'tensorrt-rtx']\n"
        "from vqtrt.cli import main\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(bundle.path.glob("engines/*.engine"))) == 2
