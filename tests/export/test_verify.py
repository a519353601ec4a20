import copy
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from changed_graphs import change_graph
from torch.utils._python_dispatch import TorchDispatchMode

from vqtrt.config.location import ModelLocation, find_model
from vqtrt.data.images.open import open_images
from vqtrt.engines.options import EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.export import code_agreement
from vqtrt.export import verify as verify_module
from vqtrt.export.code_agreement import AGREEMENTS, MARGIN, MARGINS
from vqtrt.export.verify import BATCH_SIZES, verify
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.models.heads import normalize
from vqtrt.models.runs import ImageRun
from vqtrt.models.weights import save_weights

KEYS = {
    "code_agreement",
    "code_agreement_beyond_margin",
    "mismatches",
    "max_mismatch_margin",
    "decoder_max_abs_diff",
    "psnr_change_db",
    "batch_invariance",
    "batch_invariance_beyond_margin",
    "max_batch_margin",
    "images",
    "codes",
    "engine",
    "precision",
    "passed",
}


@pytest.fixture(scope="module")
def images(tiny_run):
    size = ImageRun.open(tiny_run).config.data.preprocessing
    source = open_images("shapes:70", "test")
    return np.stack([source.read(item, size) for item in source.items()])


@pytest.fixture
def copied(tiny_run, tmp_path):
    """A run of one's own, bundle and all."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    return run


def scale_weights(proto, factor):
    """Scale the first convolution of a graph."""
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 4:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(array * array.dtype.type(factor), tensor.name)
            )
            return
    raise AssertionError("no convolution")


@pytest.mark.parametrize("name", ["tiny_run", "tiny_run2"])
def test_a_good_bundle_passes(name, request, images):
    run = request.getfixturevalue(name)
    seen = []
    figures = verify(
        find_model(run),
        [images[:64], images[64:]],
        options=EngineOptions("onnxruntime"),
        progress=seen.append,
    )
    assert set(figures) == KEYS
    assert figures["passed"] is True
    assert figures["engine"] == "onnxruntime"
    assert figures["images"] == 70
    assert figures["codes"] == 70 * 16 * (2 if name == "tiny_run2" else 1)
    assert figures["code_agreement_beyond_margin"] == 1
    assert figures["code_agreement"] > 0.99
    assert figures["batch_invariance"] == 1
    assert figures["decoder_max_abs_diff"] <= 1
    assert figures["max_mismatch_margin"] <= 1e-5
    assert figures["precision"] == "fp32"
    assert abs(figures["psnr_change_db"]) < 0.01
    assert seen == [64, 70]
    json.dumps(figures, allow_nan=False)


def test_the_measured_batches_are_those_of_the_contract():
    assert BATCH_SIZES == (1, 2, 7, 64)


def test_torch_agrees_with_itself(tiny_run, images):
    figures = verify(find_model(tiny_run), [images], options=EngineOptions("torch"))
    assert (figures["passed"], figures["code_agreement"], figures["engine"]) == (True, 1, "torch")


def test_half_passes_by_its_own_measure(half_run, images):
    model = find_model(half_run)
    figures = verify(model, [images], options=EngineOptions("onnxruntime", "fp16"))
    assert set(figures) == KEYS
    assert figures["passed"] is True
    assert figures["precision"] == "fp16"
    assert figures["code_agreement"] >= AGREEMENTS["fp16"]
    assert figures["code_agreement_beyond_margin"] == 1
    assert figures["batch_invariance"] == 1
    assert 0 < abs(figures["psnr_change_db"]) <= verify_module.HALF_PSNR_DB


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_damaged_half_graph_is_found(half_run, images, tmp_path, name):
    run = shutil.copytree(half_run, tmp_path / "run")
    change_graph(run / "bundle", f"fp16/{name}", lambda proto: scale_weights(proto, 3))
    figures = verify(find_model(run), [images], options=EngineOptions("onnxruntime", "fp16"))
    assert figures["passed"] is False
    if name == "decoder":
        assert abs(figures["psnr_change_db"]) > verify_module.HALF_PSNR_DB
        assert figures["code_agreement"] >= AGREEMENTS["fp16"]
    else:
        assert figures["code_agreement"] < AGREEMENTS["fp16"]
    # The fp32 graphs stand beside them, unharmed.
    assert verify(find_model(run), [images], options=EngineOptions("onnxruntime"))["passed"] is True


def test_margins_grow_with_the_rounding():
    assert MARGINS["fp32"] == MARGIN == 1e-5
    assert MARGINS["bf16"] > MARGINS["fp16"] > 1e-3


def test_psnr_change_is_that_of_the_round_trips(tiny_run):
    comparison = verify_module._Comparison(TorchEngine(tiny_run, device="cpu"), "fp16")
    images = np.full((2, 8, 8, 3), 100, np.uint8)
    comparison.add_codes(images, np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
    comparison.batches.add(1)
    # Errors of 10 and 20 gray levels: 6.02 dB apart.
    comparison.add_round_trips(images, images + 10, images - 20)
    figures = comparison.result()
    assert figures["psnr_change_db"] == pytest.approx(-20 * np.log10(2))
    assert figures["passed"] is False


def test_a_damaged_encoder_is_found(copied, images):
    change_graph(copied / "bundle", "encoder", lambda proto: scale_weights(proto, 1.5))
    figures = verify(find_model(copied), [images], options=EngineOptions("onnxruntime"))
    assert figures["passed"] is False
    assert figures["max_mismatch_margin"] > 1e-5
    assert figures["mismatches"] > 0
    assert figures["code_agreement"] == 1 - figures["mismatches"] / figures["codes"]
    assert figures["code_agreement_beyond_margin"] < 1
    assert figures["decoder_max_abs_diff"] <= 1


def test_a_damaged_decoder_is_found(copied, images):
    change_graph(copied / "bundle", "decoder", lambda proto: scale_weights(proto, 1.5))
    figures = verify(find_model(copied), [images], options=EngineOptions("onnxruntime"))
    assert figures["passed"] is False
    assert figures["decoder_max_abs_diff"] > 1
    assert figures["code_agreement_beyond_margin"] == 1


def test_margins_are_the_relative_gap_in_float64(tiny_run2, images, monkeypatch):
    """Against loops over the definition, for codes that were changed by hand."""
    model = find_model(tiny_run2)
    reference = TorchEngine(tiny_run2, device="cpu")
    opened = reference.open("encoder")
    changed = [(3, 1, 2, 0), (3, 1, 2, 1), (5, 0, 0, 1)]

    def damaged(self, graph):
        real = TorchEngine.__dict__["open"](self, graph)

        def run(array):
            out = real(array)
            if graph == "encoder" and len(array) == len(images):
                for place in changed:
                    out[place] = (out[place] + 1) % 16
            return out

        return run

    class Damaged(TorchEngine):
        open = damaged

    monkeypatch.setattr(
        "vqtrt.export.verify.open_engine", lambda *args, **options: Damaged(tiny_run2, device="cpu")
    )
    some = images[:64]
    images = some
    figures = verify(model, [some], options=EngineOptions("torch"))
    codes = opened(some)
    with torch.inference_mode():
        pixels = normalize(torch.from_numpy(some)).double()
        encoder = copy.deepcopy(reference.model.encoder).double()
        z = encoder(pixels).permute(0, 2, 3, 1).numpy()
    codebook = reference.model.quantizer.codebook.double().numpy()
    margins = []
    for n, y, x, c in changed:
        vector = z[n, y, x, c * 8 : c * 8 + 8]
        distances = ((vector - codebook[c]) ** 2).sum(-1)
        chosen = distances[(codes[n, y, x, c] + 1) % 16]
        margins.append((chosen - distances.min()) / chosen)
    assert figures["mismatches"] == 3
    assert figures["max_mismatch_margin"] == pytest.approx(max(margins), rel=1e-9)
    assert figures["code_agreement"] == 1 - 3 / codes.size
    # The whole batch of 64 differs from the batches of 1 and 2 and 7, of three sizes compared.
    assert figures["batch_invariance"] == pytest.approx(1 - 3 / (3 * codes.size))
    assert figures["passed"] is False


@pytest.mark.parametrize("tie", [True, False])
def test_batches_are_judged_by_margin(copied, images, monkeypatch, tie):
    """An engine that chooses kernels by the batch decides ties otherwise in each."""
    run = ImageRun.open(copied)
    model = run.load_model()
    first = int(
        np.bincount(TorchEngine(copied, device="cpu").open("encoder")(images).flat).argmax()
    )
    twin = (first + 1) % 16
    if tie:
        with torch.no_grad():
            model.quantizer.codebook[0, twin] = model.quantizer.codebook[0, first]
        save_weights(model, run.weights)
    real = TorchEngine(copied, device="cpu").open("encoder")
    usual = int(min(first, twin)) if tie else first

    class Moody(TorchEngine):
        def open(self, graph):
            opened = super().open(graph)

            def encode(array):
                codes = opened(array)
                if graph == "encoder" and len(array) == 7:
                    codes[codes == usual] = first + twin - usual
                return codes

            return encode

    monkeypatch.setattr(
        "vqtrt.export.verify.open_engine", lambda *args, **options: Moody(copied, device="cpu")
    )
    figures = verify(find_model(copied), [images], options=EngineOptions("torch"))
    codes = real(images)
    share = (codes == usual).mean()
    assert share > 0.02
    assert figures["batch_invariance"] == pytest.approx(1 - share / 3)
    assert figures["code_agreement"] == 1
    assert figures["passed"] is tie
    if tie:
        assert figures["batch_invariance_beyond_margin"] == 1
        assert figures["max_batch_margin"] <= MARGIN
    else:
        assert figures["batch_invariance_beyond_margin"] == pytest.approx(1 - share / 3, abs=1e-3)
        assert figures["max_batch_margin"] > MARGIN


class Largest(TorchDispatchMode):
    """How many elements the largest tensor has that torch makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize("name", ["tiny_run", "tiny_run2"])
def test_chunks_change_no_margin_and_bound_the_memory(name, request, images, monkeypatch):
    reference = TorchEngine(request.getfixturevalue(name), device="cpu")
    codes = ImageTokenizer(reference).encode(images[:1])[0]
    wrong = (codes + 5) % 16
    comparison = verify_module._Comparison(reference)
    # A codebook so large that all distances at once (16 positions x C x 3,000 x 8) stand out.
    rows = torch.randint(16, (3000,), generator=torch.Generator().manual_seed(0))
    agreement = comparison.agreement
    agreement.codebooks = torch.cat(
        [agreement.codebooks, 0.01 + agreement.codebooks[:, rows]], dim=1
    )
    whole, _ = agreement.margins(comparison.vectors(images[:1]), codes, wrong)
    assert whole.shape == (codes.size,)
    for chunk in (1, 4_000, 100_000):
        monkeypatch.setattr(code_agreement, "_CHUNK", chunk)
        with Largest() as largest:
            margins, _ = agreement.margins(comparison.vectors(images[:1]), codes, wrong)
        np.testing.assert_allclose(margins, whole, rtol=1e-12)
        # 8,192: room for what the tiny encoder makes on the way.
        assert largest.elements <= max(chunk, 8192)


@pytest.mark.parametrize("damage", [None, 1.02])
def test_float32_rounding_of_large_activations_is_no_fault(copied, images, monkeypatch, damage):
    """A well-trained model's codes may differ beyond 1e-5; a damaged graph still fails."""
    run = ImageRun.open(copied)
    model = run.load_model()
    last = [part for part in model.encoder.modules() if isinstance(part, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.bias += 20  # rounded to 2e-6 in float32
        model.quantizer.codebook += 20
    save_weights(model, run.weights)

    class Damaged(TorchEngine):
        def open(self, graph):
            encode = super().open(graph)
            if damage is None or graph != "encoder":
                return encode
            # As if the graph's first layer were scaled.
            return lambda array: encode((array * damage).clip(0, 255).astype(np.uint8))

    monkeypatch.setattr(
        "vqtrt.export.verify.open_engine", lambda *args, **options: Damaged(copied, device="cpu")
    )
    many = np.concatenate([np.roll(images, shift, 2) for shift in range(16)])
    figures = verify(find_model(copied), [many], options=EngineOptions("torch"))
    assert figures["mismatches"] > 0
    assert figures["max_mismatch_margin"] > MARGIN
    assert figures["passed"] is (damage is None)


@pytest.mark.parametrize(
    ("gap", "error", "good"),
    [
        (0.5e-5, 0.0, True),  # a tie
        (1e-4, 0.0, False),  # float32 rounds nothing here
        (1e-4, 1e-4, True),  # 2 · 4 · |δ| / √d = 8e-4
        (9e-4, 1e-4, False),  # more than that
        (2e-3, 1.0, False),  # whatever was measured
    ],
)
def test_what_rounding_excuses(gap, error, good):
    z = torch.zeros(3, 1, 2, dtype=torch.float64)
    near, far = (1.0 - gap) ** 0.5, 1.0
    entries = torch.tensor([[[near, 0.0], [0.0, far]]], dtype=torch.float64)
    agreement = code_agreement.CodeAgreement(entries)
    agreement.add(3)
    rounded = (z + torch.tensor([error, 0.0])).float()
    agreement.add_mismatches(z, np.array([[0], [0], [0]]), np.array([[0], [1], [0]]), rounded)
    assert agreement.max_margin == pytest.approx(gap)
    assert agreement.good is good
    half = code_agreement.CodeAgreement(entries, "fp16")
    half.add(1000)
    half.add_mismatches(z[:1], np.array([[0]]), np.array([[1]]), rounded[:1])
    assert half.good


def test_other_weights_than_those_of_the_bundle(copied, images):
    run = ImageRun.open(copied)
    model = run.load_model()
    with torch.no_grad():
        model.encoder[0].weight.mul_(1.1)
    save_weights(model, run.weights)
    with pytest.raises(VqtrtError, match=r"exported from other weights.*vqtrt export") as error:
        verify(find_model(copied), [images], options=EngineOptions("onnxruntime"))
    assert "\n" not in str(error.value)


def test_a_bundle_alone_has_nothing_to_compare_with(tiny_bundle, images):
    with pytest.raises(VqtrtError, match="pass the run"):
        verify(ModelLocation(None, tiny_bundle, "named"), [images])


def test_no_images(tiny_run):
    with pytest.raises(VqtrtError, match="at least one image"):
        verify(find_model(tiny_run), [], options=EngineOptions("onnxruntime"))
