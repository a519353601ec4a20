"""The commands, each in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from cli_runs import NAMES
from doubles import BLOCKED, write_pictures


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VQTRT_MODEL", raising=False)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def pics() -> Path:
    return write_pictures(Path("pics"), *NAMES, size=(20, 18))


@pytest.fixture
def run(tiny_run) -> Path:
    """The tiny run, as the newest under ./runs."""
    Path("runs").mkdir()
    Path("runs/tiny").symlink_to(tiny_run)
    return Path("runs/tiny")


def python(code: str, *args: object, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_help_imports_nothing_heavy():
    code = """
import sys
from vqtrt.cli import main
sys.argv = ["vqtrt", "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
heavy = {"torch", "onnxruntime", "onnx", "accelerate", "safetensors", "tensorboard"}
print("loaded:", sorted(heavy & set(sys.modules)))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "encode" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_inference_needs_only_the_base_and_a_runtime(tiny_bundle, pics):
    bundle = shutil.copytree(tiny_bundle, "alone")
    code = f"""{BLOCKED}
for args in (
    ["encode", "pics", "--out", "codes.npy"],
    ["decode", "codes.npy", "--out", "back"],
    ["eval", "pics", "--json"],
    ["info", "{bundle}"],
    ["info", "codes.npy"],
    ["bench", "encode", "pics", "--repeat", "1", "--json"],
):
    sys.argv = ["vqtrt", *args]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, args
assert not GONE & set(sys.modules)
"""
    done = python(code, env=os.environ | {"VQTRT_MODEL": str(bundle)})
    assert done.returncode == 0, done.stderr
    assert len(np.load("codes.npy")) == 5
    assert len(list(Path("back").rglob("*.png"))) == 5


@pytest.mark.parametrize("args", [["train"], ["export"], ["verify"]])
def test_what_needs_torch_says_so(tiny_run, run, args):
    code = f"""{BLOCKED}
sys.argv = ["vqtrt", *sys.argv[1:]]
main()
"""
    done = python(code, *args)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert 'pip install "vqtrt[train]"' in last
    assert "Traceback" not in done.stderr


def test_json_is_all_there_is_on_standard_output(tiny_bundle, pics):
    done = subprocess.run(
        [sys.executable, "-m", "vqtrt", "eval", "pics", "--model", tiny_bundle, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["images"] == 5
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_says_how_to_go_on(tiny_bundle, number):
    # Slow enough that it cannot be done before the interrupt comes. A shell's background jobs
    # ignore interrupts, and so would this one, if the tests were one.
    code = """
import signal, sys, time
from vqtrt import cli
from vqtrt.images import encode
from vqtrt.jobs import encode as job
signal.signal(signal.SIGINT, signal.default_int_handler)
def slowly(*args, **options):
    for batch in read(*args, **options):
        time.sleep(0.1)
        yield batch
read, encode.read_batches = encode.read_batches, slowly
job._COMMIT_SECONDS = -1
sys.argv = ["vqtrt", *sys.argv[1:]]
cli.main()
"""
    args = ["encode", "shapes:50000", "--out", "codes.npy", "--model", str(tiny_bundle)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *args], stderr=subprocess.PIPE, text=True, env=os.environ
    ) as job:
        try:
            journal, deadline = Path("codes.npy.partial.jsonl"), time.monotonic() + 50
            # The second: an interrupt within the first may come before the writer counts it.
            while not (journal.exists() and journal.read_bytes().count(b'{"commit"') > 1):
                assert job.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            job.send_signal(number)
            _, err = job.communicate(timeout=50)
        finally:
            job.kill()
    assert job.returncode == 128 + number
    last = err.splitlines()[-1]
    by = "" if number == signal.SIGINT else " by SIGTERM"
    assert last.startswith(f"error: interrupted{by}; the first ")
    assert last.endswith("items are kept in codes.npy.partial; --resume continues")
    assert not Path("codes.npy").exists()
