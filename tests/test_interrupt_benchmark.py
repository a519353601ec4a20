"""A few moments of `benchmarks/interrupt.py`, which is run with twenty a command by hand."""

import importlib.util
import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def interrupt() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interrupt", ROOT / "benchmarks/interrupt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["interrupt"] = module  # where its dataclasses look for their annotations
    # For what it imports from beside it; no longer, as `tensorrt.py` lies there too.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_at_random_moments(
    interrupt: ModuleType,
    tiny_bundle: Path,
    tiny_speech: Path,
    speech_data: Path,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    codes = tmp_path / "given.npy"
    interrupt.run(["encode", "shapes:400", "--out", str(codes), "-m", str(tiny_bundle)])
    commands = {
        "encode": ["encode", "shapes:600", "--out", "codes.npy", "-m", str(tiny_bundle)],
        "shards": [
            *("encode", "shapes:600", "--out", "codes", "-m", str(tiny_bundle)),
            *("--shard-size", "50"),
        ],
        "decode": ["decode", str(codes), "--out", "out", "-m", str(tiny_bundle)],
        "tar": ["decode", str(codes), "--out", "out.tar", "-m", str(tiny_bundle)],
        "convert": [
            *("convert", str(speech_data), "--speaker", "bob", "--out", "out"),
            *("-m", str(tiny_speech / "bundle")),
        ],
    }
    for name, command in commands.items():
        out = command[command.index("--out") + 1]

        def at(folder: Path, command: list[str] = command, out: str = out) -> list[str]:
            return [str(folder / part) if part == out else part for part in command]

        outputs = ("codes.npy", "codes.json") if name == "encode" else (out,)
        job = interrupt.Job(name, at, outputs, whole_files=name == "shards")
        result = interrupt.interrupt(job, tmp_path, 1, 1, number)
        assert result.faults == []
        assert result.statuses.total() == 1
