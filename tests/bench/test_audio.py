import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from doubles import tree, vqtrt
from speech_runs import RATE, exported, recordings

from vqtrt.bench import images as bench
from vqtrt.bench.audio import bench_encode_speech, eager_loop
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.decode import write_wav
from vqtrt.data.audio.open import open_speech
from vqtrt.errors import AudioError, VqtrtError

RATES = ["read", "engine", "end_to_end", "eager_loop"]
LENGTHS = [800, 3000, 40, 5000]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, audio in enumerate(recordings(LENGTHS)):
        write_wav(tmp_path / f"voices/{index}.wav", audio, RATE)
    return tmp_path / "voices"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def test_all_rates_of_a_run(folder: Path, scratch: Path) -> None:
    calls = []
    found = bench_encode_speech(
        exported("conv"),
        str(folder),
        batch_size=2,
        workers=1,
        repeat=2,
        progress=lambda done, total: calls.append((done, total)),
    )
    rates = {name: found[f"{name}_real_time_factor"] for name in RATES}
    assert all(rate > 0 and np.isfinite(rate) for rate in rates.values())
    assert found["bound_real_time_factor"] == pytest.approx(
        1 / (1 / rates["read"] + 1 / rates["engine"])
    )
    assert found["peak_rss_bytes"] > 1 << 20
    assert (found["recordings"], found["batch_size"], found["workers"]) == (4, 2, 1)
    assert found["seconds"] == sum(LENGTHS) / RATE
    assert found["engine"] == "onnxruntime"
    assert calls == [(done, 8) for done in range(1, 9)]
    # torch leaves a folder of its own.
    assert not [name for name in tree(scratch) if name.startswith("vqtrt")]


def test_the_loop_can_be_left_out_and_a_bundle_alone_has_none(folder: Path, scratch: Path) -> None:
    run = exported("conv")
    bundle = ModelLocation(None, run.bundle, "named")
    for model, eager in ((run, False), (bundle, True)):
        found = bench_encode_speech(model, str(folder), workers=1, repeat=1, eager=eager)
        assert found["eager_loop_real_time_factor"] is None
        assert found["end_to_end_real_time_factor"] > 0


def test_the_eager_loop_hears_everything(folder: Path) -> None:
    run = exported("conv").run
    assert run is not None
    loop = eager_loop(run, open_speech(folder))
    assert loop() == loop() == sum(LENGTHS) / RATE


def test_the_eager_loop_needs_torch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "installed", lambda name: False)
    with pytest.raises(VqtrtError, match=r"needs torch: pip install .*--no-eager"):
        eager_loop(folder, open_speech(folder))


def test_mistakes(folder: Path, scratch: Path, tmp_path: Path) -> None:
    with pytest.raises(VqtrtError, match="no such file or folder"):
        bench_encode_speech(exported("conv"), str(tmp_path / "nope"), workers=1)
    (folder / "9.wav").write_text("hello")
    with pytest.raises(AudioError, match=r"9\.wav"):
        bench_encode_speech(exported("conv"), str(folder), workers=1)
    assert tree(scratch) == []


def test_the_command(folder: Path, scratch: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (model := shutil.copytree(exported("conv").path, folder.parent / "run"))
    options = ["--model", model, "--repeat", 1, "--no-eager", "--json"]
    assert vqtrt("bench", "encode", folder, *options) == 0
    assert '"end_to_end_real_time_factor": ' in capfd.readouterr().out
