import json
from typing import Any

import numpy as np
import pytest
import torch
from doubles import vqtrt

from vqtrt.bench import engine as module
from vqtrt.bench import peaks as bench_peaks
from vqtrt.bench.engine import ENGINES, bench_engine
from vqtrt.config.location import ModelLocation, find_model
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError

FIGURES = {
    "open_seconds",
    "first_seconds",
    "seconds",
    "images_per_second",
    "matmul_share",
    "copy_share",
}
PEAKS = {"matmul_flops_per_second": 1e9, "copy_bytes_per_second": 1e8}
QUICK: dict[str, Any] = {"repeat": 1, "seconds": 0.0}


@pytest.fixture
def known_peaks(monkeypatch):
    monkeypatch.setattr(module, "peaks", lambda device, precision: PEAKS)


@pytest.fixture
def no_compiler(monkeypatch):
    """`torch.compile` takes a minute; what it gives is not looked at here."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda m, **options: compiled.append(m) or m)
    return compiled


def test_all_engines_of_a_machine_without_a_gpu(tiny_run, known_peaks, no_compiler):
    calls = []
    found = bench_engine(
        find_model(tiny_run),
        batch_sizes=(1, 3),
        progress=lambda *call: calls.append(call),
        **QUICK,
    )
    here = ["torch", "torch-compile", "onnxruntime"]
    assert set(found["results"]) >= {
        f"{engine} fp32 {graph} batch {n}"
        for engine in here
        for graph in ("encoder", "decoder")
        for n in (1, 3)
    }
    for name, figures in found["results"].items():
        assert set(figures) == FIGURES, name
        batch = int(name.rpartition(" ")[2])
        rate, graph = figures["images_per_second"], name.split()[2]
        assert rate == pytest.approx(batch / figures["seconds"])
        flops = found["flops_per_image"][graph]
        assert figures["matmul_share"] == pytest.approx(flops * rate / 1e9)
        # 16x16 pictures of 3 bytes a pixel, and 16 codes of 4.
        assert figures["copy_share"] == pytest.approx((16 * 16 * 3 + 16 * 4) * rate / 1e8)
    assert len(no_compiler) == 2
    assert {name.split()[0] for name in found["results"]} | {
        name.split()[0] for name in found["unavailable"]
    } == set(ENGINES)
    assert all(reason and "\n" not in reason for reason in found["unavailable"].values())
    assert found["peaks"]["cpu fp32"] == PEAKS
    assert (calls[0], calls[-1]) == ((1, 30), (30, 30))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_the_work_is_that_of_the_convolutions(tiny_run, known_peaks):
    found = bench_engine(find_model(tiny_run), engines=["torch"], batch_sizes=(1,), **QUICK)
    model = TorchEngine(tiny_run, device="cpu").model
    seen = []

    def count(layer, inputs, output):
        taps = layer.weight[0].numel() * output.shape[1]
        positions = output[0, 0].numel()
        if isinstance(layer, torch.nn.ConvTranspose2d):
            taps, positions = layer.weight.numel(), inputs[0][0, 0].numel()
        seen.append(2 * taps * positions)

    for layer in model.encoder.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        model.encoder(torch.zeros(1, 3, 16, 16))
    codebook = 2 * 16 * model.config.quantizer.dim * 16  # positions x dim x entries, twice
    assert found["flops_per_image"]["encoder"] == sum(seen) + codebook


def test_a_bundle_alone_has_no_torch_beside_it(tiny_bundle, known_peaks):
    bundle = ModelLocation(None, tiny_bundle, "named")
    found = bench_engine(bundle, engines=["torch", "onnxruntime"], batch_sizes=(2,), **QUICK)
    assert set(found["results"]) == {
        "onnxruntime fp32 encoder batch 2",
        "onnxruntime fp32 decoder batch 2",
    }
    assert "needs the run" in found["unavailable"]["torch fp32"]
    assert found["flops_per_image"] is None
    assert {figures["matmul_share"] for figures in found["results"].values()} == {None}


def test_an_engine_that_fails_at_a_batch_goes_on_with_the_others(
    tiny_run, known_peaks, monkeypatch
):
    opener = module._torch_opener

    def choosy(model, precision, *, compiled):
        opened, device = opener(model, precision, compiled=compiled)

        def open_graph(graph):
            run = opened(graph)

            def maybe(array):
                if compiled and len(array) == 2:
                    raise RuntimeError("too\nlarge")
                return run(array)

            return maybe

        return open_graph, device

    monkeypatch.setattr(module, "_torch_opener", choosy)
    monkeypatch.setattr(torch, "compile", lambda m, **options: m)
    found = bench_engine(
        find_model(tiny_run), engines=["torch", "torch-compile"], batch_sizes=(2, 1), **QUICK
    )
    assert found["unavailable"]["torch-compile fp32 encoder batch 2"] == "too large"
    assert "torch-compile fp32 encoder batch 1" in found["results"]
    assert "torch fp32 encoder batch 2" in found["results"]


def test_mistakes(tiny_run, tiny_bundle):
    model = find_model(tiny_run)
    with pytest.raises(VqtrtError, match="no 'trt': choose among torch, "):
        bench_engine(model, engines=["trt"])
    with pytest.raises(VqtrtError, match="no 'int8': choose among fp32, "):
        bench_engine(model, precisions=["int8"])
    with pytest.raises(VqtrtError, match=r"no engine runs .*needs the run"):
        bench_engine(ModelLocation(None, tiny_bundle, "named"), engines=["torch"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peaks_of_the_cpu(precision, monkeypatch):
    monkeypatch.setattr(bench_peaks, "_COPY_BYTES", 1 << 20)
    found = bench_peaks.peaks("cpu", precision, seconds=0.0)
    assert set(found) == set(PEAKS)
    assert all(value > 1e6 and np.isfinite(value) for value in found.values())


def test_the_command(tiny_run, known_peaks, capsys):
    args = ("bench", "engine", "--model", tiny_run, "--batch-size", 2, "--repeat", 1)
    assert vqtrt(*args, "--engine", "onnxruntime", "--engine", "tensorrt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert "onnxruntime fp32 encoder batch 2" in found["results"]
    assert set(found["unavailable"]) == {"tensorrt fp32"}
    assert vqtrt(*args, "--engine", "nope") == 1
    assert "no 'nope': choose among" in capsys.readouterr().err
