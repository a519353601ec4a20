"""Every wait for a Ray cluster has a limit: a stand-in for Ray whose actors do nothing, or die."""

import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doubles import FakeSource, vqtrt
from pipeline_jobs import encode

from vqtrt.errors import VqtrtError
from vqtrt.formats.shards import done_shards, read_job
from vqtrt.jobs import on_ray, ray_cluster
from vqtrt.jobs.on_ray import _Pool, _Worker
from vqtrt.jobs.ray_cluster import RayOptions, connected, fitting

NEVER = object()


class RayError(Exception):
    """As `ray.exceptions.RayError`."""


class Call:
    """What an actor was asked to do."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer


class FakeRay:
    """Actors answer as `behave(actor, method, argument)` says, at once or never."""

    class exceptions:
        RayError = RayError

    def __init__(self, behave: Callable[[int, str, Any], Any]) -> None:
        self.behave = behave
        self.killed: list[int] = []
        self.started = 0
        self.nodes: Callable[[], Any] = lambda: []
        self.shutdown: Callable[[], Any] = lambda: None

    def remote(self, _: type) -> "FakeRay":
        return self

    def options(self, **_: Any) -> Any:
        ray = self

        class Actor:
            def __init__(self, number: int) -> None:
                self.number = number

            def __getattr__(self, method: str) -> Any:
                def remote(argument: Any = None) -> Call:
                    return Call(lambda: ray.behave(self.number, method, argument))

                return type("Method", (), {"remote": staticmethod(remote)})

        class Class:
            @staticmethod
            def remote(*_: Any) -> Any:
                ray.started += 1
                return Actor(ray.started)

        return Class

    def wait(self, calls: list[Call], timeout: float, num_returns: int = 1) -> Any:
        ready = [call for call in calls if call.answer() is not NEVER]
        return ready, [call for call in calls if call not in ready]

    def get(self, call: Call, timeout: float) -> Any:
        if isinstance(answer := call.answer(), Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.number)

    def available_resources(self) -> dict[str, float]:
        return {"CPU": 1.0}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder of three shards, none of which is made."""
    encode(FakeSource(6), tmp_path / "out", shard_size=2, plan=True)
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_START", "_OPEN", "_STUCK"):
        monkeypatch.setattr(on_ray, name, -1.0)


def pool(ray: FakeRay, out: Path, size: int = 2) -> tuple[_Pool, list[str]]:
    notes: list[str] = []

    def opener() -> Any:
        raise NotImplementedError

    how = RayOptions(actors=size)
    return _Pool(ray, opener, out, how, notes.append, lambda *_: None), notes


def status(done: int) -> tuple[str, int]:
    return on_ray.__version__, done


def test_no_actor_starts(out):
    ray = FakeRay(lambda *_: NEVER)
    with pytest.raises(VqtrtError, match=r"no actor started within .* 1 CPUs and 0 GPUs are free"):
        pool(ray, out)[0].run({})
    assert ray.killed == [1]


def test_an_actor_that_does_not_start_is_done_without(out, monkeypatch):
    monkeypatch.setattr(on_ray, "_STUCK", 1e9)

    def behave(actor: int, method: str, argument: Any) -> Any:
        if actor == 2:
            return NEVER
        return status(0) if method == "status" else None

    ray = FakeRay(behave)
    chosen, notes = pool(ray, out)
    chosen.run({})
    assert any("actor 2 did not start" in note for note in notes)
    assert ray.killed == [2, 1]


@pytest.mark.parametrize("method", ["open", "make"])
def test_actors_that_stand_still_are_ended(out, method):
    def behave(actor: int, asked: str, argument: Any) -> Any:
        return NEVER if asked == method else status(0) if asked == "status" else None

    ray = FakeRay(behave)
    chosen, notes = pool(ray, out, size=1)
    what = "opened the model" if method == "open" else "made shard 0"
    with pytest.raises(VqtrtError, match=rf"3 actors ended while they {what} .*no progress for"):
        chosen.run({})
    assert len(notes) == 2
    assert sorted(ray.killed) == [1, 2, 3]


def test_a_shard_that_kills_its_actors_is_named(out, monkeypatch):
    monkeypatch.setattr(on_ray, "_STUCK", 1e9)

    def behave(actor: int, method: str, number: Any) -> Any:
        if method == "status":
            return status(actor)
        return RayError("worker died\nmore") if method == "make" and number == 1 else None

    with pytest.raises(VqtrtError, match=r"3 actors ended while they made shard 1 .*worker died\)"):
        pool(FakeRay(behave), out)[0].run({})


def test_a_node_without_vqtrt_is_an_error(out):
    text = "The actor died because of an error raised in its creation task\nFile\nNo vqtrt here"

    def behave(actor: int, method: str, argument: Any) -> Any:
        return status(0) if method == "status" else RayError(text)

    ray = FakeRay(behave)
    with pytest.raises(VqtrtError, match=r"a node cannot load vqtrt \(No vqtrt here\)"):
        pool(ray, out)[0].run({})
    assert ray.killed == [1]


def test_another_version_on_a_node_is_an_error(out):
    def behave(actor: int, method: str, argument: Any) -> Any:
        return ("0.0.0", 0) if method == "status" else NEVER

    with pytest.raises(VqtrtError, match=r"a node has vqtrt 0\.0\.0"):
        pool(FakeRay(behave), out)[0].run({})


def test_a_worker_makes_the_shards_that_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    out = tmp_path / "out"

    def opener() -> Any:
        def run(**more: Any) -> Any:
            return encode(FakeSource(6, [3]), out, **more)

        return None, run

    worker = _Worker(str(tmp_path), opener, True)
    here = Path.cwd()
    try:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
        assert worker.open({"shard_size": 2}) is None
        assert worker.make(2) is None
        assert set(done_shards(out, read_job(out))) == {2}
        assert worker.make(0) is None
        assert set(done_shards(out, read_job(out))) == {0, 2}
        assert worker.status() == status(4)
        assert "bad" in (worker.make(1) or "")
        assert "no such" in str(_Worker(str(tmp_path / "none"), opener, False).open(None)).lower()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""  # without a GPU it sees none
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("nodes", "how", "actors"),
    [
        ([{"CPU": 4.0}], RayOptions(), (3, 0)),
        ([{"CPU": 4.0}, {"CPU": 4.0}], RayOptions(cpus=3), (2, 0)),
        ([{"CPU": 4.0}], RayOptions(actors=2), (2, 0)),
        ([{"CPU": 8.0, "GPU": 2.0}, {}], RayOptions(), (2, 1)),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0}], RayOptions(gpus=0), (9, 0)),
        ([{"CPU": 8.0, "GPU": 1.0}], RayOptions(gpus=0.5, cpus=0.5), (2, 0.5)),
    ],
)
def test_what_fits(nodes, how, actors):
    ray = FakeRay(lambda *_: None)
    ray.nodes = lambda: [{"Alive": True, "Resources": node} for node in nodes]
    assert fitting(ray, how) == actors


@pytest.mark.parametrize(
    ("node", "how", "message"),
    [
        ({"CPU": 1.0}, RayOptions(), "1 x 1 CPU do not fit .* has 1 CPU on 1 x node.*start more"),
        ({"CPU": 4.0}, RayOptions(actors=4), "4 x 1 CPU do not fit .*; give --actors 3"),
        ({"CPU": 4.0}, RayOptions(gpus=1), "has 4 CPU and 0 GPU on"),
    ],
)
def test_what_does_not_fit(node, how, message):
    ray = FakeRay(lambda *_: None)
    ray.nodes = lambda: [{"Alive": True, "Resources": node}, {"Alive": False, "Resources": node}]
    with pytest.raises(VqtrtError, match=message):
        fitting(ray, how)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto", "127.0.0.1:99999", ":", "host:x"])
def test_an_address_where_nothing_answers(address, monkeypatch):
    with pytest.raises(VqtrtError, match=f"no Ray cluster answers at {address}"):
        connected(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(VqtrtError, match=f"no Ray cluster answers at {address}"):
        connected(None)


def test_an_address_where_something_else_answers(monkeypatch):
    monkeypatch.setattr(ray_cluster, "_JOIN", 1.0)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())  # joining here would wait minutes
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(VqtrtError, match=f"{address} could not be joined within 1 s"):
            connected(address)


def test_a_head_that_does_not_answer_any_more_is_left(monkeypatch):
    monkeypatch.setattr(ray_cluster, "_LEAVE", 0.05)
    ended: list[bool] = []
    monkeypatch.setattr(ray_cluster, "end_at_once", lambda: ended.append(True))
    ray, hung, notes = FakeRay(lambda *_: None), threading.Event(), list[str]()
    ray.shutdown = hung.wait
    ray_cluster.leave(ray, notes.append)
    hung.set()
    assert ended == [True]
    assert "the head of the Ray cluster has not answered" in notes[0]
    ray_cluster.leave(ray, notes.append)
    assert (len(ended), len(notes)) == (1, 1)


def test_telemetry_is_off_unless_the_user_wants_it(monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with pytest.raises(VqtrtError):
        connected("127.0.0.1:1")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    with pytest.raises(VqtrtError):
        connected("127.0.0.1:1")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--on", "ray:"], "--on ray:: expected ray or ray:HOST:PORT"),
        (["--on", "dask"], "--on dask: expected ray or ray:HOST:PORT"),
        (["--on", "ray", "--shard", "0/2"], "--on ray: divides the shards itself"),
        (["--on", "ray", "--device", "1"], "--on ray: divides the shards itself"),
        (["--on", "ray", "--devices", "0"], "--devices: names the devices itself"),
        (["--actors", "2"], "--actors: goes with --on ray"),
        (["--gpus-per-actor", "1"], "--gpus-per-actor: goes with --on ray"),
        (["--on", "ray", "-o", "x.npy"], "x.npy: is one file; shards need a folder"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capfd, more, message):
    monkeypatch.chdir(tmp_path)
    assert vqtrt("encode", "shapes:3", "-o", "out", *more) == 1
    assert message in capfd.readouterr().err
    assert ray_cluster.QUIET["RAY_USAGE_STATS_ENABLED"] == "0"
