import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from doubles import vqtrt as command
from tokenizer_parts import parts
from torch import nn
from vector_quantize_pytorch import FSQ

import vqtrt
from vqtrt.errors import VqtrtError
from vqtrt.export import export_tokenizer, verify_tokenizer
from vqtrt.export.own import tokenizer
from vqtrt.export.own.tokenizer import random_images
from vqtrt.formats.bundle import Bundle
from vqtrt.images.tokenizer import ImageTokenizer

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two codebooks, for images of 16x24 whose range is [-1, 1]."""
    out = tmp_path_factory.mktemp("own") / "bundle"
    made = parts(codebook=(2, 32, 3))
    made |= {"scale": 2 / 255, "offset": -1.0}
    return made, export_tokenizer(out, height=16, width=24, name="mine", **made)


def test_what_the_bundle_says_of_itself(two):
    info = two[1].info
    facts = {"codebook_size": 32, "num_codebooks": 2, "code_dim": 3, "stride": 4}
    assert info.model.model_dump() == facts
    assert (info.preprocessing.height, info.preprocessing.width) == (16, 24)
    assert info.source.recipe == "mine"
    assert set(info.graphs) == {"encoder", "decoder"}
    encoder = info.graphs["encoder"]
    assert encoder.inputs[0].shape == ("batch", "4*h", "4*w", 3)
    assert encoder.outputs[0].shape == ("batch", "h", "w", 2)
    assert info.graphs["decoder"].inputs == encoder.outputs
    assert info.graphs["decoder"].outputs == encoder.inputs


@pytest.mark.parametrize("size", [(16, 24), (4, 4), (8, 32)])
@torch.no_grad()
def test_codes_and_images_are_those_of_the_modules_at_any_size(two, size):
    made, bundle = two
    images = random_images(5, *size, seed=3)
    encoder, decoder = made["encoder"].eval(), made["decoder"].eval()
    z = encoder(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    pairs = [(z[:, :3], made["quantizer"][0]), (z[:, 3:], made["quantizer"][1])]
    nearest = [
        (part.permute(0, 2, 3, 1)[..., None, :] - book).square().sum(-1).argmin(-1)
        for part, book in pairs
    ]
    opened = vqtrt.load(bundle.path)
    codes = opened.encode(images)
    np.testing.assert_array_equal(codes, torch.stack(nearest, -1).numpy())
    entries = [book[code] for (_, book), code in zip(pairs, nearest, strict=True)]
    pictures = decoder(torch.cat(entries, -1).permute(0, 3, 1, 2))
    expected = ((pictures + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
    assert expected.std() > 10
    assert np.abs(opened.decode(codes) - expected).max() <= 1


def test_verification_gives_the_figures_of_verify(two):
    made, bundle = two
    figures = verify_tokenizer(bundle, random_images(9, 16, 24), **made)
    assert figures == {
        "code_agreement": 1,
        "code_agreement_beyond_margin": 1,
        "mismatches": 0,
        "max_mismatch_margin": 0,
        "decoder_max_abs_diff": figures["decoder_max_abs_diff"],
        "batch_invariance": 1,
        "batch_invariance_beyond_margin": 1,
        "max_batch_margin": 0,
        "images": 9,
        "codes": 9 * 4 * 6 * 2,
        "passed": True,
        "engine": "onnxruntime",
    }
    # Another codebook is noticed, and by how much.
    other = made | {"quantizer": made["quantizer"].flip(1)}
    figures = verify_tokenizer(bundle, random_images(9, 16, 24), **other)
    assert figures["code_agreement"] < 0.5
    assert figures["max_mismatch_margin"] > 0.01
    assert not figures["passed"]


def test_batches_are_judged_by_margin(two, monkeypatch):
    """An engine that chooses kernels by the batch rounds otherwise in each."""
    made, bundle = two
    real, images = ImageTokenizer.graph, random_images(9, 16, 24)

    def graph(tokenizer, name):
        run = real(tokenizer, name)

        def other(array):
            codes = run(array)
            if name == "encoder" and len(array) == 2:
                codes[0, 0, 0, 0] ^= 1
            return codes

        return other

    monkeypatch.setattr(ImageTokenizer, "graph", graph)
    figures = verify_tokenizer(bundle, images, **made)
    share = 1 - 5 / (3 * figures["codes"])  # 4 batches of 2, and one after the batch of 7
    assert figures["batch_invariance"] == pytest.approx(share)
    assert figures["batch_invariance_beyond_margin"] == pytest.approx(share)
    assert (figures["code_agreement"], figures["passed"]) == (1, False)
    assert figures["max_batch_margin"] > 1e-5
    loose = verify_tokenizer(bundle, images, **made, tolerance=figures["max_batch_margin"])
    assert loose["batch_invariance"] == pytest.approx(share)
    assert (loose["batch_invariance_beyond_margin"], loose["passed"]) == (1, True)


def test_uint8_stands_at_the_edges_of_the_graphs_alone(two):
    """TensorRT takes it nowhere else."""
    for name in ("encoder", "decoder"):
        proto = onnx.load_from_string(two[1].graph_bytes(name))
        edge = proto.graph.node[0] if name == "encoder" else proto.graph.node[-1]
        assert edge.op_type == "Cast"
        types = {value.type.tensor_type.elem_type for value in proto.graph.value_info}
        assert onnx.TensorProto.UINT8 not in types


def test_the_commands_take_the_bundle_and_need_no_torch(two, tmp_path, capfd):
    path, images, out = two[1].path, tmp_path / "images", tmp_path / "codes.npy"
    assert command("shapes", images, "--num", "4") == 0
    assert command("info", path) == 0
    assert "mine" in capfd.readouterr().out
    for arguments in (
        ["encode", images, "--model", path, "--out", out],
        ["decode", out, "--model", path, "--out", tmp_path / "decoded"],
    ):
        program = "import sys; sys.modules['torch'] = None; from vqtrt.cli import main; main()"
        texts = [str(argument) for argument in arguments]
        subprocess.run([sys.executable, "-c", program, *texts], check=True)
    assert np.load(out).shape == (4, 4, 6, 2)
    assert json.loads(out.with_suffix(".json").read_text())["codebook_size"] == 32
    assert len(list((tmp_path / "decoded").rglob("*.png"))) == 4


def test_the_callers_modules_stay_as_they_are(tmp_path):
    made = parts() | {"quantizer": FSQ([8, 5], dim=6)}
    made["encoder"][1].eval()
    before = {
        name: ([m.training for m in module.modules()], [p.clone() for p in module.parameters()])
        for name, module in made.items()
    }
    buffers = [b.clone() for b in made["encoder"].buffers()]
    export_tokenizer(tmp_path / "bundle", height=8, width=8, **made)
    for name, module in made.items():
        modes, weights = before[name]
        assert [m.training for m in module.modules()] == modes
        assert all(p.requires_grad for p in module.parameters())
        assert all(map(torch.equal, module.parameters(), weights))
    assert all(map(torch.equal, made["encoder"].buffers(), buffers))


def test_a_model_of_one_size_is_exported_for_that_size(tmp_path):
    class Flat(nn.Module):
        """Knows 8x8 images only."""

        def __init__(self):
            super().__init__()
            self.line = nn.Linear(192, 6 * 4)

        def forward(self, x):
            return self.line(x.flatten(1)).reshape(-1, 6, 2, 2)

    made = parts() | {"encoder": Flat()}
    with pytest.raises(VqtrtError, match="fits images of 8x8 pixels, but not of 12x8"):
        export_tokenizer(tmp_path / "bundle", height=8, width=8, **made)
    bundle = export_tokenizer(tmp_path / "bundle", height=8, width=8, fixed_size=True, **made)
    assert bundle.info.graphs["encoder"].inputs[0].shape == ("batch", 8, 8, 3)
    assert bundle.info.graphs["decoder"].inputs[0].shape == ("batch", 2, 2)
    opened = vqtrt.load(bundle.path)
    assert opened.encode(random_images(3, 8, 8)).shape == (3, 2, 2)
    with pytest.raises(VqtrtError, match="cannot run the graph"):
        opened.encode(random_images(3, 12, 8))


def test_equal_weights_have_equal_hashes_and_others_have_not():
    def digest(**changes):
        made = parts() | {"scale": 1 / 255, "offset": -0.5} | changes
        return tokenizer.Parts.of(**made).weights_sha256()

    assert digest() == digest()
    others = [
        digest(offset=0.0),
        digest(quantizer=torch.randn(32, 6)),
        digest(quantizer=FSQ([8, 5], dim=6)),
        digest(decoder=nn.Conv2d(6, 48, 1)),
    ]
    assert len({digest(), *others}) == 5


def test_the_package_hands_out_names_without_torch():
    program = (
        "import sys, vqtrt.export; assert 'torch' not in sys.modules; "
        "from vqtrt.export import export_tokenizer, verify_tokenizer; "
        "assert callable(export_tokenizer) and callable(verify_tokenizer)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vqtrt.export.nothing


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(script, tmp_path):
    arguments = [script, "--out", tmp_path / "bundle", "--size", "8"]
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    assert "codes" in done.stdout
    assert Bundle.open(tmp_path / "bundle").info.preprocessing.height == 8


def test_there_is_an_example_of_each_quantizer():
    kinds = ("vq", "residual_vq", "fsq", "lfq")
    names = {f"vector_quantize_pytorch_{kind}" for kind in kinds} | {"own_codebook"}
    assert names <= {path.stem for path in EXAMPLES}


def test_wrapped_modules_are_exported(tmp_path: Path) -> None:
    """Verified as all are: no more has to be compared."""
    made = parts() | {"quantizer": FSQ([8, 5], dim=6)}
    wrapped: dict[str, Any] = {
        name: torch.compile(module, backend="eager") for name, module in made.items()
    }
    bundle = export_tokenizer(tmp_path / "bundle", height=8, width=8, **wrapped)
    assert bundle.info.model.codebook_size == 40
