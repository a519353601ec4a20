"""Shards on a Ray cluster: equal bytes, whatever is killed, and nothing that waits for ever."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles import shard_files as files
from doubles import vqtrt, write_pictures

from vqtrt.formats.shards import SHARDS
from vqtrt.jobs import ray_cluster

LIMIT = 100
"""Seconds that a command may take."""
COUNT = 40
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with 2 and 1 CPUs by name, in processes of their own on this machine."""
    for name, value in ray_cluster.QUIET.items():
        os.environ.setdefault(name, value)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def made(tiny_bundle, tmp_path_factory) -> Path:
    """A folder with pictures that take a while, and the shards that one process made of them."""
    folder = tmp_path_factory.mktemp("made")
    write_pictures(folder / "pics", *(f"{n:02}.png" for n in range(COUNT)), size=(600, 600))
    assert vqtrt(*told(folder, tiny_bundle), "-o", folder / "alone") == 0
    return folder


def told(folder: Path, model: Path) -> list[str]:
    return ["encode", str(folder / "pics"), "-m", str(model), "--shard-size", "1"]


@pytest.fixture
def arguments(made, tiny_bundle, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return told(made, tiny_bundle)


def start(arguments: list[str], out: str, cluster: Any, *more: str) -> "subprocess.Popen[str]":
    command = [*arguments, "-o", out, "--on", f"ray:{cluster.address}", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "vqtrt", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_for(count: int, out: str) -> None:
    """Until so many shards are there."""
    limit = time.monotonic() + LIMIT
    while len(list(Path(out, SHARDS).glob("*.jsonl"))) < count:
        assert time.monotonic() < limit
        time.sleep(0.01)


def workers() -> list[int]:
    """The actors of this test's commands: they work in its folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, place = (process / "cmdline").read_bytes(), (process / "cwd").readlink()
        except OSError:
            continue
        if name.startswith(b"ray::_Worker") and place == Path.cwd():
            found.append(int(process.name))
    return found


def test_two_actors_make_the_bytes_of_one_process(arguments, made, cluster):
    status, out, err = ended(start(arguments, "out", cluster, "--actors", "2", "--json"))
    assert status == 0, err
    assert json.loads(out) == {"out": "out", "rows": COUNT, "rejected": 0}
    assert f"out is complete: {COUNT} items" in err
    assert files("out") == files(made / "alone")
    status, out, err = ended(start(arguments, "out", cluster))
    assert (status, out) == (0, ""), err
    assert files("out") == files(made / "alone")


def test_an_actor_that_is_killed_is_named_and_replaced(arguments, made, cluster):
    process = start(arguments, "out", cluster, "--actors", "2")
    wait_for(3, "out")
    os.kill(workers()[0], signal.SIGKILL)
    status, out, err = ended(process)
    assert (status, out) == (0, ""), err
    assert "another one takes over" in err
    assert files("out") == files(made / "alone")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_same_command_continues_when_the_driver_was_killed(arguments, made, cluster, number):
    process = start(arguments, "out", cluster, "--actors", "2")
    wait_for(3, "out")
    process.send_signal(number)
    status, _, err = ended(process)
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    assert ("interrupted" in err) == (number != signal.SIGKILL)
    status, _, err = ended(start(arguments, "out", cluster, "--actors", "2"))
    assert status == 0, err
    assert files("out") == files(made / "alone")


def test_an_error_of_an_actor_is_the_error(tiny_bundle, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(Path("pics"), *(f"{n:02}.png" for n in range(20)))
    Path("pics/17.png").write_bytes(b"no picture")
    arguments = told(Path(), tiny_bundle)
    status, out, err = ended(start(arguments, "out", cluster))
    assert (status, out) == (1, "")
    assert "17.png: not an image that can be read" in err
    status, out, err = ended(start(arguments, "out", cluster, "--on-error", "skip", "--json"))
    assert status == 0, err
    assert json.loads(out) == {"out": "out", "rows": 19, "rejected": 1}


def test_files_that_changed_since_are_an_error(tiny_bundle, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(Path("pics"), *(f"{n:02}.png" for n in range(9)))
    arguments = told(Path(), tiny_bundle)
    assert vqtrt(*arguments, "-o", "out") == 0
    write_pictures(Path("pics"), "05.png", size=(50, 50))
    status, _, err = ended(start(arguments, "out", cluster))
    assert status == 1
    assert "files 5 to 5 changed since shard 5 of out was made of them" in err


def test_a_node_that_cannot_load_vqtrt_is_an_error(arguments, tmp_path, monkeypatch):
    """What Ray says of such a node differs from what it says of an actor that was killed."""
    from ray.cluster_utils import Cluster

    text = """import sys
class Finder:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "vqtrt":
            raise ModuleNotFoundError("no vqtrt here")
sys.meta_path.insert(0, Finder())
"""
    (tmp_path / "without").mkdir()
    (tmp_path / "without/sitecustomize.py").write_text(text)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "without"))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        status, out, err = ended(start(arguments, "out", cluster))
    finally:
        cluster.shutdown()
    assert (status, out) == (1, "")
    assert "a node cannot load vqtrt (ModuleNotFoundError: no vqtrt here)" in err
    assert "takes over" not in err


def test_recordings(tiny_speech, speech_data, cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["encode", str(speech_data), "-m", str(tiny_speech), "--shard-size", "2"]
    assert vqtrt(*arguments, "-o", "alone") == 0
    status, _, err = ended(start(arguments, "out", cluster))
    assert status == 0, err
    assert files("out") == files("alone")


def test_a_node_that_is_killed(arguments, made):
    """The one actor goes on on the last CPU, for which Ray Data would wait for ever."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        process = start(arguments, "out", cluster)
        wait_for(3, "out")
        (worker,) = workers()
        raylet = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(raylet, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        status, _, err = ended(process)
        assert status == 0, err
        assert "another one takes over" in err
        assert files("out") == files(made / "alone")
    finally:
        cluster.shutdown()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--actors", "3"], r"3 x 1 CPU do not fit on the cluster, which has 3 CPU on 2 x node"),
        (["--cpus-per-actor", "4"], "1 x 4 CPU do not fit"),
        (
            ["--gpus-per-actor", "1"],
            "1 x 1 CPU and 1 GPU do not fit on the cluster, which has 3 CP",
        ),
    ],
)
def test_a_cluster_that_is_too_small_is_an_error(arguments, cluster, more, message):
    status, out, err = ended(start(arguments, "out", cluster, *more))
    assert (status, out) == (1, "")
    assert message in err
    assert not Path("out").exists()
