"""A second export copies what would be the same, and nothing else."""

import shutil

import pytest
import speech_runs

from vqtrt.config.location import find_model
from vqtrt.export import graph_writer as module
from vqtrt.export.run import export_bundle
from vqtrt.formats.bundle import Bundle, GraphSpec
from vqtrt.models.image import VQVAE
from vqtrt.models.runs import ImageRun
from vqtrt.models.weights import save_weights

TOKENIZER = ["encoder", "decoder"]
PRIOR = [f"priors/pixelcnn/{part}" for part in ("row", "step", "step_filtered", "logits")]


@pytest.fixture
def exported(monkeypatch):
    """The files that are exported, in place of which a few bytes are written."""
    files = []

    def write(graph, example, folder, file):
        files.append(file)
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"new")
        return GraphSpec(file=file, sha256="0" * 64, inputs=graph.inputs, outputs=graph.outputs)

    monkeypatch.setattr(module, "write_deployed", write)
    return files


def again(run, *precisions):
    """The names of the graphs that another export has copied."""
    kept = []
    export_bundle(find_model(run), precisions=precisions, kept=kept.append)
    return kept


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run with a bundle, one's own."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def test_an_export_of_the_same_is_a_copy(run, tiny_run, exported):
    assert again(run) == TOKENIZER
    assert exported == []
    before, after = contents(tiny_run / "bundle"), contents(run / "bundle")
    for name in ("encoder.onnx", "decoder.onnx"):
        assert after[name] == before[name]
    tables = [Bundle.open(path / "bundle").info.graphs for path in (tiny_run, run)]
    assert tables[0] == tables[1]


def test_other_precisions_and_priors_are_added(half_run, tiny_run, tmp_path, exported):
    run = shutil.copytree(half_run, tmp_path / "run")
    assert len(again(run, "fp16", "bf16")) == 18
    assert again(run) == TOKENIZER + PRIOR
    assert exported == []
    shutil.rmtree(run / "bundle")
    shutil.copytree(tiny_run / "bundle", run / "bundle")
    assert again(run, "fp16") == TOKENIZER
    halves = [f"fp16/{name}.onnx" for name in TOKENIZER + PRIOR]
    assert exported == [f"{name}.onnx" for name in PRIOR] + halves


def test_other_weights_make_other_graphs(run, exported):
    model = ImageRun.open(run).load_model()
    model.decoder[-1].bias.data[0] += 1e-3
    save_weights(model, run / "model.safetensors")
    assert again(run) == ["encoder"]
    assert exported == ["decoder.onnx"]


def test_other_code_makes_other_graphs(run, exported, monkeypatch):
    monkeypatch.setattr("vqtrt.export.fingerprint._CODE", ["changed"])
    assert again(run) == []
    assert exported == ["encoder.onnx", "decoder.onnx"]


@pytest.fixture(params=["conv", "wavenet"])
def spoken(request, tmp_path):
    """A run on speech with a bundle, one's own; made before `exported` is."""
    return speech_runs.copied(request.param, tmp_path)


def test_graphs_of_speech_are_copied(spoken, exported):
    table = spoken.open_bundle().info.graphs
    assert again(spoken.run) == list(table)
    assert exported == []
    assert Bundle.open(spoken.bundle).info.graphs == table


@pytest.mark.parametrize("damage", ["changed", "gone", "table"])
def test_what_is_damaged_is_exported(run, exported, damage):
    path = run / "bundle" / "decoder.onnx"
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif damage == "gone":
        path.unlink()
    else:
        (run / "bundle" / "bundle.json").write_text("{}")
    assert again(run) == ([] if damage == "table" else ["encoder"])
    assert exported[-1] == "decoder.onnx"
    assert (run / "bundle" / "decoder.onnx").read_bytes() == b"new"


def test_what_is_not_wholly_known_is_exported_each_time(run, exported, monkeypatch):
    load = ImageRun.load_model

    def with_function(self) -> VQVAE:
        model = load(self)
        model.encoder[0].call = len
        return model

    monkeypatch.setattr(ImageRun, "load_model", with_function)
    assert again(run) == ["decoder"]
    assert exported == ["encoder.onnx"]
    assert Bundle.open(run / "bundle").info.graphs["encoder"].made_from is None
