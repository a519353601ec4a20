"""Shards on several devices: processes that work, fail, and are killed, each under a time limit."""

import itertools
import os
import signal
import threading
from pathlib import Path

import pytest
from doubles import vqtrt, write_pictures

from vqtrt.errors import Interrupted, VqtrtError
from vqtrt.formats.shard_codes import merge
from vqtrt.formats.shards import done_shards, read_job
from vqtrt.jobs import devices
from vqtrt.jobs.devices import encode_on_devices, parse_devices, without_option


@pytest.fixture
def arguments(tiny_bundle: Path, tmp_path: Path) -> list[str]:
    pictures = write_pictures(tmp_path / "pics", *(f"{n}.png" for n in range(20)))
    out = ["--out", str(tmp_path / "out"), "--shard-size", "3"]
    return ["encode", str(pictures), "-m", str(tiny_bundle), *out]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The processes that are killed as soon as they were started, by their numbers."""
    numbers, chosen = itertools.count(), set[int]()
    start = devices._start

    def started(*arguments):
        worker = start(*arguments)
        if next(numbers) in chosen:
            worker.process.kill()
        return worker

    monkeypatch.setattr(devices, "_start", started)
    return chosen


def run(arguments: list[str], out: Path, *names: str) -> tuple[list[str], list[tuple[int, int]]]:
    notes: list[str] = []
    calls: list[tuple[int, int]] = []
    encode_on_devices(
        arguments, out, names, note=notes.append, progress=lambda *call: calls.append(call)
    )
    return notes, calls


def test_two_devices_make_the_bytes_of_one(arguments, out, tmp_path):
    notes, calls = run(arguments, out, "0", "1")
    assert notes == []
    assert calls[-1] == (20, 20)
    alone = [str(tmp_path / "alone") if part == str(out) else part for part in arguments]
    assert vqtrt(*alone) == 0
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        assert path.read_bytes() == (tmp_path / "alone" / path.relative_to(out)).read_bytes()
    assert merge(out, check=True) == (20, 0)


def test_another_process_takes_over_from_one_that_is_killed(arguments, out, killed):
    killed.add(0)
    notes, _ = run(arguments, out, "4", "7")
    assert notes == ["device 4: its process was ended by SIGKILL; another one makes its shards"]
    assert merge(out, check=True) == (20, 0)


def test_a_process_that_stands_still_is_ended(arguments, out, monkeypatch):
    monkeypatch.setattr(devices, "_STUCK", 4.0)
    start, numbers = devices._start, itertools.count()

    def started(*arguments):
        worker = start(*arguments)
        if next(numbers) == 0:
            worker.process.send_signal(signal.SIGSTOP)
        return worker

    monkeypatch.setattr(devices, "_start", started)
    notes, _ = run(arguments, out, "4", "7")
    assert notes[0].startswith("device 4: its process stood still for 4 s")
    assert notes[1:] == ["device 4: its process was ended by SIGKILL; another one makes its shards"]
    assert merge(out, check=True) == (20, 0)


def test_an_error_if_all_are_killed(arguments, out, killed):
    killed |= {0, 1}
    with pytest.raises(VqtrtError, match="processes of all devices were ended by signals"):
        run(arguments, out, "0", "1")


def test_the_error_of_a_process_is_the_error(arguments, out, tmp_path):
    (tmp_path / "pics" / "4.png").write_bytes(b"no picture")
    with pytest.raises(VqtrtError, match=r"device [01]: .*4\.png: not an image"):
        run(arguments, out, "0", "1")
    (tmp_path / "pics" / "4.png").unlink()


def test_a_signal_ends_the_processes(arguments, out, monkeypatch):
    """What they made is kept, and the same command continues."""
    workers = []
    start = devices._start

    def started(*arguments):
        workers.append(start(*arguments))
        if len(workers) == 2:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return workers[-1]

    monkeypatch.setattr(devices, "_start", started)
    status = vqtrt(*arguments, "--devices", "0,1")
    assert status == Interrupted(signal.SIGTERM).status
    assert all(worker.process.poll() is not None for worker in workers)
    monkeypatch.setattr(devices, "_start", start)
    run(arguments, out, "0", "1")
    assert len(done_shards(out, read_job(out))) == 7


def test_the_command(arguments, out, capfd):
    assert vqtrt(*arguments, "--devices", "0,1", "--json") == 0
    captured = capfd.readouterr()
    assert '"rows": 20' in captured.out
    assert f"{out} is complete: 20 items" in captured.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--devices", "0,0"), "--devices 0,0: expected numbers of GPUs"),
        (("--devices", "a"), "--devices a: expected numbers of GPUs"),
        (("--devices", "all"), "--devices all: no NVIDIA GPU is visible here"),
        (("--devices", "0", "--shard", "0/2"), "--devices: names the devices itself"),
        (("--devices", "0", "--device", 1), "--devices: names the devices itself"),
    ],
)
def test_mistakes(arguments, more, message, capfd):
    assert vqtrt(*arguments, *more) == 1
    assert message in capfd.readouterr().err


def test_devices_are_counted_among_those_that_are_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices._visible("5") == "5"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8f")
    assert [devices._visible(name) for name in "01"] == ["4", "GPU-8f"]
    with pytest.raises(VqtrtError, match="2 is not among the 2 GPUs"):
        devices._visible("2")


def test_devices_and_arguments_are_read():
    assert parse_devices("all", lambda: 3) == ["0", "1", "2"]
    assert parse_devices("3,1", lambda: 0) == ["3", "1"]
    line = ["encode", "a", "--devices", "0,1", "--out", "b", "--devices=all", "c"]
    assert without_option(line, "--devices") == ["encode", "a", "--out", "b", "c"]
