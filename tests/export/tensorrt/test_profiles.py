import pytest
from tensorrt_graphs import PROFILE, RTX, products, without_engines

from vqtrt.engines.tensorrt import package as trt_package
from vqtrt.engines.tensorrt.package import Package
from vqtrt.errors import VqtrtError
from vqtrt.export.tensorrt import build as module
from vqtrt.export.tensorrt.build import Options, build_engines, build_plan
from vqtrt.formats.bundle import Bundle

pytest.importorskip("tensorrt_rtx", reason='compiling needs pip install "vqtrt[rtx]"')


@pytest.fixture
def package() -> Package:
    return trt_package.load(RTX)


@pytest.fixture
def bundle(tiny_run, tmp_path) -> Bundle:
    return without_engines(tiny_run / "bundle", tmp_path)


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
