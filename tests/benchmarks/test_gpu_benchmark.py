"""`benchmarks/gpu.py` runs to its end, here on stand-ins for a GPU and at tiny sizes."""

import importlib.util
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cuda_doubles import FakeCuda
from tensorrt_doubles import build, pretend

from vqtrt.bench import engine as bench_engine
from vqtrt.bench import peaks as bench_peaks
from vqtrt.engines import cuda
from vqtrt.export.tensorrt import build as tensorrt
from vqtrt.export.tensorrt.build import Options
from vqtrt.formats.bundle import Bundle

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BATCHES", (1, 2, 4))
    monkeypatch.setattr(module, "SAMPLES", (1, 2))
    monkeypatch.setattr(module, "REPEAT", 1)
    monkeypatch.setattr(bench_peaks, "_COPY_BYTES", 2**16)
    monkeypatch.setattr(bench_peaks, "best_seconds", lambda run, seconds: run() or 1e-3)
    monkeypatch.setattr(module, "bench_engine", partial(bench_engine.bench_engine, seconds=0))
    # What torch does is of other tests, and compiling takes it a minute.
    engines = [name for name in bench_engine.ENGINES if not name.startswith("torch")]
    monkeypatch.setattr(module, "ENGINES", engines)
    return module


def test_it_reports_every_engine(
    script: ModuleType,
    tiny_prior: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(tiny_prior, tmp_path / "run")
    pretend(monkeypatch)

    def built(bundle: Bundle, options: Options, precisions: Sequence[str]) -> dict[str, Any]:
        """As `build_engines` is called: with options that it takes."""
        assert list(precisions) == ["fp32"]
        assert tuple(options.batch or ()) == (1, 2, 4)
        sizes = dict.fromkeys(("h", "w", "height", "width"), (4, 4))
        build(bundle, options.package.name, {"batch": (1, 4)} | sizes)
        return bundle.info.graphs

    monkeypatch.setattr(tensorrt, "build_engines", built)
    monkeypatch.setattr("sys.argv", ["gpu.py", str(run)])
    script.main()
    report = capsys.readouterr().out
    assert "Machine: Fake GPU, compute capability 8.9" in report
    assert "- tensorrt-rtx 1.7.1: 6 engines built in" in report
    for engine in ("tensorrt", "tensorrt-rtx"):
        for batch in (1, 2, 4):
            assert f"| {engine} fp32 encoder batch {batch} | " in report
        for graphs in ("without CUDA graphs", "a CUDA graph a row"):
            assert f"| {engine}, {graphs} fp32 | 2 | " in report
    assert "- Peak, cuda fp32: product of matrices not measured, copy 0.06554 GB/s" in report
    left_out = [line for line in report.splitlines() if line.startswith("- onnxruntime-cuda")]
    assert left_out  # with the reason
    assert "- tensorrt" not in "".join(line for line in report.splitlines() if "prior" in line)


def test_a_machine_without_a_gpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda, "runtime", lambda: FakeCuda(driver=0))
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("benchmarks/gpu.py: no CUDA driver on this machine")
