import functools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxscript
import pytest
import torch

from vqtrt.errors import VqtrtError
from vqtrt.export import bundle as module
from vqtrt.export import onnx as onnx_export
from vqtrt.export.bundle import export_run
from vqtrt.export.onnx import OPSET, FixedSizeError, write_deployed, write_graph
from vqtrt.formats.bundle import Bundle, TensorSpec, file_sha256
from vqtrt.models.deployed import DeployedGraph
from vqtrt.models.image_graphs import DecoderGraph, EncoderGraph
from vqtrt.models.runs import ImageRun
from vqtrt.system import atomic


@pytest.fixture(params=[1, 2], ids=["one-codebook", "two-codebooks"])
def run(request):
    return ImageRun.open(request.getfixturevalue("tiny_run" if request.param == 1 else "tiny_run2"))


def session(run, name):
    content = (run.path / "bundle" / f"{name}.onnx").read_bytes()
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_dtypes_and_shapes_of_the_written_graphs(run):
    count = run.config.model.quantizer.num_codebooks
    books = [] if count == 1 else [count]
    encoder, decoder = session(run, "encoder"), session(run, "decoder")
    (images,), (codes,) = encoder.get_inputs(), encoder.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", "4*h", "4*w", 3]
    assert (codes.name, codes.type) == ("codes", "tensor(int32)")
    assert codes.shape == ["batch", "h", "w", *books]
    (codes,), (images,) = decoder.get_inputs(), decoder.get_outputs()
    assert (codes.name, codes.type) == ("codes", "tensor(int32)")
    assert codes.shape == ["batch", "h", "w", *books]
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", "4*h", "4*w", 3]


def test_the_table_in_the_bundle_is_that_of_the_graphs(run):
    info = Bundle.open(run.path / "bundle").info
    assert set(info.graphs) == {"encoder", "decoder"}
    dtypes = {"uint8": "tensor(uint8)", "int32": "tensor(int32)"}
    for name, spec in info.graphs.items():
        assert spec.sha256 == file_sha256(run.path / "bundle" / spec.file)
        opened = session(run, name)
        for told, real in (
            (spec.inputs, opened.get_inputs()),
            (spec.outputs, opened.get_outputs()),
        ):
            assert [(t.name, dtypes[t.dtype], list(t.shape)) for t in told] == [
                (r.name, r.type, r.shape) for r in real
            ]
    assert info.opset == OPSET
    assert info.source.weights_sha256 == file_sha256(run.weights)
    assert info.source.recipe == "tiny"
    assert info.preprocessing == run.config.data.preprocessing
    assert info.model.num_codebooks == run.config.model.quantizer.num_codebooks


@pytest.mark.parametrize("batch", [1, 2, 7, 64])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 12), (4, 4)])
def test_onnxruntime_gives_torchs_codes_and_bytes(run, batch, height, width):
    rng = np.random.default_rng([batch, height])
    # Smooth enough to be pictures: small random ones, enlarged.
    small = rng.integers(256, size=(batch, height // 4, width // 4, 3), dtype=np.uint8)
    images = np.kron(small, np.ones((1, 4, 4, 1), np.uint8))
    model = run.load_model()
    with torch.inference_mode():
        codes = EncoderGraph(model)(torch.from_numpy(images)).numpy()
        pictures = DecoderGraph(model)(torch.from_numpy(codes)).numpy()
    (got,) = session(run, "encoder").run(None, {"images": images})
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, codes)
    (decoded,) = session(run, "decoder").run(None, {"codes": codes})
    assert decoded.dtype == np.uint8
    assert decoded.shape == images.shape
    assert np.abs(decoded.astype(int) - pictures).max() <= 1


def test_a_size_that_is_not_divisible_is_no_silent_crop(run):
    images = np.zeros((1, 10, 16, 3), np.uint8)
    (codes,) = session(run, "encoder").run(None, {"images": images})
    # ONNX has no word for "a multiple of 4": the tokenizer refuses such a size before.
    assert codes.shape[1] == 2


def test_casts_stand_at_the_edges_of_a_graph(run):
    """TensorRT takes uint8 at the edge only."""
    for name in ("encoder", "decoder"):
        proto = onnx.load(run.path / "bundle" / f"{name}.onnx")
        if name == "encoder":
            first = [node for node in proto.graph.node if "images" in node.input]
            assert [node.op_type for node in first] == ["Cast"]
        (last,) = [node for node in proto.graph.node if proto.graph.output[0].name in node.output]
        assert last.op_type == "Cast"
        types = {v.type.tensor_type.elem_type for v in proto.graph.value_info}
        assert onnx.TensorProto.UINT8 not in types


def test_the_files_stand_alone_and_tell_nothing_of_the_machine(run, tmp_path):
    files = sorted(path.name for path in (run.path / "bundle").iterdir())
    assert files == ["bundle.json", "decoder.onnx", "encoder.onnx"]
    for name in ("encoder", "decoder"):
        path = run.path / "bundle" / f"{name}.onnx"
        proto = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(proto, full_check=True)
        assert [(o.domain, o.version) for o in proto.opset_import] == [("", OPSET)]
        assert all(not tensor.external_data for tensor in proto.graph.initializer)
        assert b".py" not in path.read_bytes()
        # Nor the order of what it found, which is another in each process.
        assert not proto.graph.metadata_props


def test_signatures_of_operators_are_parsed_once(tmp_path, monkeypatch):
    parsed = []

    def parse(function, real):
        parsed.append(function.name)
        return real(function)

    table = TensorSpec(name="x", dtype="float32", shape=(1, 2))
    for part in (torch.nn.ReLU(), torch.nn.Tanh()):
        specs = [table], [table.model_copy(update={"name": "y"})]
        write_graph(part, {"input": torch.zeros(1, 2)}, {"input": {}}, *specs, tmp_path, "y.onnx")
        kept = vars(onnxscript.values.TracedOnnxFunction)["function_ir"]
        if not parsed:
            monkeypatch.setattr(kept, "func", functools.partial(parse, real=kept.func))
    assert parsed == []
    assert [node.op_type for node in onnx.load(tmp_path / "y.onnx").graph.node] == ["Tanh"]


def test_exports_repeat_to_the_byte(tiny_run, tmp_path):
    first = Bundle.open(tiny_run / "bundle")
    again = export_run(ImageRun.open(tiny_run), tmp_path / "again")
    assert again.sha256 == first.sha256
    for name in ("encoder.onnx", "decoder.onnx", "bundle.json"):
        assert (tmp_path / "again" / name).read_bytes() == (first.path / name).read_bytes()


@pytest.fixture
def quick(monkeypatch):
    """Exports that take no time: the graph is a few bytes, all else is real."""

    def export(model, size, writer, precision):
        for name in ("encoder", "decoder"):
            (writer.folder / f"{name}.onnx").write_bytes(b"graph")
            file = {"file": f"{name}.onnx", "sha256": "0" * 64}
            writer.graphs[name] = module.GraphSpec(**file, inputs=(), outputs=())

    monkeypatch.setattr(module, "image_graphs", export)


@pytest.mark.usefixtures("quick")
def test_a_bundle_is_replaced_whole(tiny_run, tmp_path):
    out = tmp_path / "a" / "bundle"
    export_run(ImageRun.open(tiny_run), out)
    (out / "engines").mkdir()
    (out / "engines" / "old.plan").touch()
    export_run(ImageRun.open(tiny_run), out)
    assert sorted(path.name for path in out.iterdir()) == [
        "bundle.json",
        "decoder.onnx",
        "encoder.onnx",
    ]
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]
    assert out.stat().st_mode & 0o777 == 0o755


@pytest.mark.usefixtures("quick")
def test_what_is_no_bundle_is_left_alone(tiny_run, tmp_path):
    (tmp_path / "thesis.txt").write_text("long")
    with pytest.raises(VqtrtError, match="not empty and no bundle: name another"):
        export_run(ImageRun.open(tiny_run), tmp_path)
    with pytest.raises(VqtrtError, match="is a file"):
        export_run(ImageRun.open(tiny_run), tmp_path / "thesis.txt")
    with pytest.raises(VqtrtError, match="cannot be written"):
        export_run(ImageRun.open(tiny_run), tmp_path / "thesis.txt" / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    export_run(ImageRun.open(tiny_run), tmp_path / "empty")


@pytest.mark.usefixtures("quick")
def test_an_export_that_fails_leaves_the_old_bundle(tiny_run, tmp_path, monkeypatch):
    out = tmp_path / "bundle"
    export_run(ImageRun.open(tiny_run), out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Bundle, "write_info", fail)
        with pytest.raises(VqtrtError, match="No space left"):
            export_run(ImageRun.open(tiny_run), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before

    rename = type(out).rename
    calls = []

    def fail_second(self, target):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        # On a system that cannot swap two folders in one step.
        patch.setattr(atomic, "_exchange", lambda one, other: False)
        patch.setattr(type(out), "rename", fail_second)
        with pytest.raises(VqtrtError, match="Input/output error"):
            export_run(ImageRun.open(tiny_run), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_run_without_weights_cannot_be_exported(tiny_run, tmp_path):
    shutil.copy(tiny_run / "config.yaml", tmp_path)
    with pytest.raises(VqtrtError, match="no weights yet"):
        export_run(ImageRun.open(tmp_path), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_bundle_json_is_readable_json(tiny_bundle):
    content = json.loads((tiny_bundle / "bundle.json").read_text())
    assert content["format_version"] == 1
    assert content["graphs"]["encoder"]["inputs"][0]["dtype"] == "uint8"


class Fixed(torch.nn.Module):
    """Makes a size of its example a constant: of the batch, of the length, or of a loop over it."""

    def __init__(self, size: str) -> None:
        super().__init__()
        self.size = size

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        if self.size == "loop over batch":
            return torch.stack([row * 2 for row in audio])
        if self.size == "loop over t":
            return torch.stack([step * 2 for step in audio.unbind(1)], 1)
        if self.size == "batch":
            return (audio * 2).reshape(2, -1)
        return (audio * 2).reshape(-1, 30)


@pytest.mark.parametrize("size", ["batch", "t", "loop over batch", "loop over t"])
def test_a_size_that_the_module_fixes_is_refused(size: str, tmp_path: Path) -> None:
    """A free name over it would make two clips of 30 of one clip of 60."""
    audio = TensorSpec(name="audio", dtype="float32", shape=("batch", "t"))
    graph = DeployedGraph(Fixed(size), (audio,), (audio.model_copy(update={"name": "out"}),))
    name = size.rpartition(" ")[2]
    with pytest.raises(FixedSizeError, match=rf"the size '{name}' of \w+ has to be free") as caught:
        write_deployed(graph, {"batch": 2, "t": 30}, tmp_path, "fixed.onnx")
    assert caught.value.size == name
    assert not list(tmp_path.iterdir())


def test_a_graph_that_draws_random_numbers_is_known() -> None:
    for operator, draws in (("RandomNormalLike", True), ("Bernoulli", True), ("Relu", False)):
        node = onnx.helper.make_node(operator, ["x"], ["y"])
        values = [onnx.helper.make_tensor_value_info(name, 1, [2]) for name in ("x", "y")]
        made = onnx.helper.make_graph([node], "g", values[:1], values[1:])
        assert onnx_export.draws(onnx.helper.make_model(made).SerializeToString()) is draws
