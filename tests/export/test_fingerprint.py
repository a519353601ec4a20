"""What changes a graph changes its hash, and a graph that is not wholly known has none."""

from dataclasses import replace

import pytest
import speech_runs
import torch
from prior_doubles import random_prior as random_wavenet
from torch import nn

from vqtrt.config.images import PixelCNNConfig
from vqtrt.config.parts import QuantizerConfig
from vqtrt.export import fingerprint as module
from vqtrt.export.fingerprint import fingerprint
from vqtrt.formats.precision import PRECISIONS
from vqtrt.models.audio_graphs import speech_graph, speech_graph_names
from vqtrt.models.deployed import DeployedGraph, int32
from vqtrt.models.image import VQVAE
from vqtrt.models.image_graphs import image_graph
from vqtrt.models.precision import torch_dtype
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.pixelcnn_graphs import GRAPHS, pixelcnn_graph
from vqtrt.priors.wavenet_graphs import WAVENET_GRAPHS, wavenet_graph

EXAMPLE = {"batch": 3, "t": 7}


def images(make_config, dtype):
    model = VQVAE(make_config(num_codebooks=2).model)
    return [image_graph(model, name, dtype) for name in ("encoder", "decoder")]


def pictures(make_config, dtype):
    prior = PixelCNN(
        PixelCNNConfig(layers=3, channels=8, codebook_size=16, num_classes=2, kernel=3)
    )
    return [pixelcnn_graph(prior, part, dtype) for part in GRAPHS]


def speech(settings):
    def graphs(make_config, dtype):
        model = speech_runs.model(**settings)
        return [speech_graph(model, name, dtype) for name in speech_graph_names(model)]

    return graphs


def clips(make_config, dtype):
    return [wavenet_graph(random_wavenet(), part, dtype) for part in WAVENET_GRAPHS]


KINDS = {
    "image": images,
    "pixelcnn": pictures,
    "conv": speech({"decoder": speech_runs.CONV}),
    "wavenet": speech({"decoder": speech_runs.WAVENET} | speech_runs.FRONT),
    "wavenet prior": clips,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_of_vqtrt_has_a_hash_of_its_own_that_repeats(kind, make_config):
    hashes = []
    for precision in PRECISIONS:
        made = []
        for _ in range(2):
            torch.manual_seed(0)
            graphs = KINDS[kind](make_config, torch_dtype(precision))
            made.append([fingerprint(graph, EXAMPLE) for graph in graphs])
        assert made[0] == made[1]
        hashes += made[0]
    assert all(len(each) == 64 for each in hashes)
    assert len(set(hashes)) == len(hashes)


class Scaled(nn.Module):
    """A small graph, with a buffer that no file has."""

    def __init__(self, by=2.0):
        super().__init__()
        self.by = by
        self.layer = nn.Linear(2, 2)
        self.register_buffer("shift", torch.zeros(2), persistent=False)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)


Scaled.__module__ = "vqtrt.models.scaled"


def graph(change=lambda module: None, kind=Scaled, **settings):
    part = kind(**settings)
    change(part)
    return DeployedGraph(part, (int32("a", "batch"),), (int32("b", "batch"),))


class Twin(Scaled):
    """The same in all but its name."""


Twin.__module__ = Scaled.__module__


def turned(part):
    part.layer.weight.data = part.layer.weight.data.reshape(1, 4)


def renamed(part):
    part.register_buffer("shifted", part.shift, persistent=False)
    del part.shift


def whole_numbers(part):
    part.shift = torch.zeros(2, dtype=torch.int32)


def shared_by_two(part):
    part.other = part.layer


def config(dim):
    return lambda part: setattr(part, "config", QuantizerConfig(dim=dim))


def one_bit(part):
    part.layer.weight.data.view(torch.int32)[0, 0] ^= 1


CHANGES = {
    "weight": graph(one_bit),
    "buffer": graph(lambda part: part.shift.add_(1)),
    "setting": graph(by=3.0),
    "dtype": graph(lambda part: part.half()),
    "dtype of the same bytes": graph(whole_numbers),
    "shape": graph(turned),
    "name": graph(renamed),
    "shared module": graph(shared_by_two),
    "twin": graph(kind=Twin),
    "new setting": graph(lambda part: setattr(part, "more", None)),
    "class": graph(lambda part: setattr(part, "layer", nn.Bilinear(2, 2, 2))),
    "input": replace(graph(), inputs=(int32("a", "t"),)),
    "output": replace(graph(), outputs=(int32("c", "batch"),)),
    "cache": replace(graph(), caches=(int32("c", "batch"),)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    assert fingerprint(graph(), EXAMPLE) not in (None, fingerprint(CHANGES[change], EXAMPLE))


def test_a_config_is_seen():
    found = [fingerprint(graph(config(dim)), EXAMPLE) for dim in (8, 9, 8)]
    assert found[0] == found[2] != found[1]


def test_examples_and_code_are_seen(monkeypatch):
    before = fingerprint(graph(), EXAMPLE)
    assert before == fingerprint(graph(), EXAMPLE) != fingerprint(graph(), {"batch": 3, "t": 8})
    monkeypatch.setattr(module, "_CODE", ["other"])
    assert fingerprint(graph(), EXAMPLE) != before
    monkeypatch.setattr(module, "_CODE", None)
    assert fingerprint(graph(), EXAMPLE) is None


@pytest.mark.parametrize("package", ["torch", "onnx", "onnxscript", "onnx-ir"])
def test_versions_are_seen(monkeypatch, package):
    before, real = module._code(), module.version
    monkeypatch.setattr(module, "version", lambda name: "9" if name == package else real(name))
    assert module._code() != before == module._CODE


def test_the_version_of_vqtrt_is_seen(monkeypatch):
    before = module._code()
    monkeypatch.setattr(module, "__version__", "9")
    assert module._code() != before


def test_sources_are_seen(monkeypatch, tmp_path):
    (tmp_path / "models").mkdir()
    source = tmp_path / "models" / "part.py"
    found = []
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    for text in ("a = 1", "a = 2", "a = 1"):
        source.write_text(text)
        found.append(module._code())
    # An editor's lock, and a folder that is named so, are no sources.
    (tmp_path / ".#part.py").symlink_to("nowhere")
    (tmp_path / "x.py").mkdir()
    assert module._code() == found[0] == found[2] != found[1]
    source.rename(source.with_name("other.py"))
    assert module._code() != found[0]


def test_what_cannot_be_read_is_not_known(monkeypatch):
    def missing(name):
        raise module.PackageNotFoundError(name)

    monkeypatch.setattr(module, "version", missing)
    assert module._code() is None


class Foreign(nn.Module):
    """A module of somebody else."""


UNKNOWN = {
    "another's module": lambda part: setattr(part, "layer", Foreign()),
    "a function": lambda part: setattr(part, "call", torch.relu),
    "a hook": lambda part: part.layer.register_forward_hook(print),
    "a hook before": lambda part: part.register_forward_pre_hook(print),
    "a loose tensor": lambda part: setattr(part, "loose", [torch.zeros(1)]),
}


@pytest.mark.parametrize("change", UNKNOWN)
def test_what_is_not_wholly_known_has_no_hash(change):
    assert fingerprint(graph(UNKNOWN[change]), EXAMPLE) is None
