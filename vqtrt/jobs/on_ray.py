"""Shards on a Ray cluster: a pool of actors that open the model once and make one shard at a time.

Notable:
- What goes through Ray are numbers of shards; data and codes go through the file system. So an
  actor, a node or this process may be killed at any time: the shards that are there stay, and
  another actor makes the others to the same bytes.
- Actors of Ray's core, not Ray Data: its read tasks wait for ever on a cluster whose CPUs all
  belong to actors (ray issue 44687), and here nothing but the actors needs a CPU.
- Every wait has a limit. A shard may take as long as it makes progress.
"""

import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError, explain
from vqtrt.formats.shards import Job, read_job
from vqtrt.jobs.loop import Note, Progress
from vqtrt.jobs.ray_cluster import RayOptions, connected, fitting, leave
from vqtrt.version import __version__

Run = Callable[..., Any]
"""`encode_source` of a model and a source that are open: takes the rest of `EncodeOptions`."""
Opener = Callable[[], tuple[Engine, Run]]
"""Opens both, in the process of an actor."""

_LOOK = 1.0
"""Seconds between two looks at the actors."""
_START = 300.0
"""Seconds that the first actor may take to get its CPUs and GPUs and to open the model."""
_OPEN = 3600.0
"""Seconds that an actor may take to open the model, and to list the data."""
_STUCK = 900.0
"""Seconds without progress on a shard after which an actor is ended."""
_REPLY = 10.0
"""Seconds that a result may take to arrive."""
_LOSSES = 3
"""Actors that a shard, or the opening of the model, may cost."""


def encode_on_ray(
    opener: Opener,
    out: Path,
    how: RayOptions,
    *,
    plan: Mapping[str, Any],
    note: Note,
    progress: Progress,
) -> None:
    """Make the shards of `out` that are not there yet on a Ray cluster.

    `plan` is what else the job is told when it lists the data. All nodes see the data, the model
    and `out` under the same paths. An actor that dies is named and replaced.

    Raises `VqtrtError` for a cluster that does not answer or is too small, for the first error of
    an actor, and if a shard costs too many actors.
    """
    ray = connected(how.address)
    try:
        actors, gpus = fitting(ray, how)
        how = how._replace(actors=actors, gpus=gpus)
        _Pool(ray, opener, out, how, note, progress).run(plan)
    finally:
        leave(ray, note)


class _Worker:
    """What an actor is: opens the model, then makes shards as their numbers come."""

    def __init__(self, folder: str, opener: Opener, has_gpu: bool) -> None:
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all actors would share the first one
        self._folder, self._opener = folder, opener
        self._numbers: queue.Queue[int] = queue.Queue()
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._done = 0

    def open(self, plan: Mapping[str, Any] | None) -> str | None:
        """Open the model, and with `plan` write job.json; gives the error, if there is one."""
        try:
            os.chdir(self._folder)
            _, run = self._opener()
            if plan is not None:
                run(plan=True, **plan)
        except Exception as error:
            return _told(error)
        threading.Thread(target=self._work, args=(run,), daemon=True).start()
        return None

    def make(self, number: int) -> str | None:
        """Make a shard; gives the error, if there is one."""
        self._numbers.put(number)
        return self._answers.get()

    def status(self) -> tuple[str, int]:
        """The version of vqtrt here, and the number of items that were done."""
        return __version__, self._done

    def _work(self, run: Run) -> None:
        try:
            run(numbers=self._asked(), progress=self._count)
        except Exception as error:
            self._answers.put(_told(error))

    def _asked(self) -> Iterator[int]:
        while True:
            yield self._numbers.get()
            self._answers.put(None)  # the next one is asked for when a shard is in place

    def _count(self, done: int, total: int) -> None:
        self._done = done


def _told(error: Exception) -> str:
    return explain(error) if isinstance(error, VqtrtError | OSError | MemoryError) else repr(error)


def _reason(lost: Exception) -> str:
    """Why an actor is gone; raises `VqtrtError` if its node cannot make one at all."""
    lines = str(lost).strip().splitlines() or [type(lost).__name__]
    if "creation task" in lines[0]:  # the cause is the last line of a traceback
        raise VqtrtError(
            f"--on ray: a node cannot load vqtrt ({lines[-1]}); install the same on all nodes"
        )
    return lines[0]


@dataclass(eq=False)
class _Actor:
    """An actor as the pool sees it."""

    name: int
    handle: Any
    call: Any
    """What it is working on, of Ray; None if it waits for a shard."""
    number: int | None = None
    """The shard that it makes; None while it opens the model."""
    asked: Any = None
    """The question how far it is."""
    done: int = -1
    """Items that it has told of."""
    heard: float = field(default_factory=time.monotonic)
    """When it last made progress."""


class _Pool:
    """The actors of a job."""

    def __init__(
        self,
        ray: Any,
        opener: Opener,
        out: Path,
        how: RayOptions,
        note: Note,
        progress: Progress,
    ) -> None:
        self._ray, self._opener, self._out = ray, opener, out
        self._size, self._note, self._progress = how.actors or 1, note, progress
        self._gpus = how.gpus or 0
        self._class = ray.remote(_Worker).options(
            num_cpus=how.cpus, num_gpus=self._gpus, max_concurrency=2, max_restarts=0
        )
        self._actors: list[_Actor] = []
        self._started = 0
        self._todo = deque[int]()
        self._losses = Counter[int | None]()

    def run(self, plan: Mapping[str, Any]) -> None:
        """Plan, then go through all shards."""
        try:
            while not self._actors or self._actors[0].call is not None:
                if not self._actors:
                    self._start(plan)
                self._step()
            self._make(read_job(self._out))
        finally:
            for actor in self._actors:
                self._ray.kill(actor.handle)

    def _make(self, job: Job) -> None:
        # Those that are there, too: an actor only compares them with the data.
        self._todo.extend(range(len(job.shards)))
        done = 0
        while working := len(self._todo) + sum(a.number is not None for a in self._actors):
            while len(self._actors) < min(self._size, working):
                self._start(None)
            for actor in self._actors:
                if actor.call is None and self._todo:
                    actor.number = self._todo.popleft()
                    actor.call = actor.handle.make.remote(actor.number)
                    actor.heard = time.monotonic()
            done += sum(job.shards[number].items for number in self._step())
            self._progress(done, job.items)

    def _start(self, plan: Mapping[str, Any] | None) -> None:
        handle = self._class.remote(str(Path.cwd()), self._opener, self._gpus > 0)
        self._started += 1
        self._actors.append(_Actor(self._started, handle, handle.open.remote(plan)))

    def _step(self) -> list[int]:
        """Wait a little; the shards that were made meanwhile. Those of dead actors are to do."""
        busy = {actor.call: actor for actor in self._actors if actor.call is not None}
        ready, _ = self._ray.wait(list(busy), timeout=_LOOK)
        finished = []
        for call in ready:
            actor = busy[call]
            try:
                error = self._ray.get(call, timeout=_REPLY)
            except self._ray.exceptions.RayError as lost:
                self._lose(actor, _reason(lost))
                continue
            if error is not None:
                raise VqtrtError(error)
            if actor.number is None:
                self._losses[None] = 0
            else:
                finished.append(actor.number)
            actor.call = actor.number = None
        self._listen()
        return finished

    def _listen(self) -> None:
        """Ask the actors how far they are, and end those that have stood still for too long."""
        for actor in self._actors:
            actor.asked = actor.asked or actor.handle.status.remote()
        calls = {actor.asked: actor for actor in self._actors}
        told, _ = self._ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for call in told:
            actor, calls[call].asked = calls[call], None
            try:
                version, done = self._ray.get(call, timeout=_REPLY)
            except self._ray.exceptions.RayError:
                continue  # the call that it is working on tells the same
            if version != __version__:
                raise VqtrtError(
                    f"--on ray: a node has vqtrt {version}, and this one {__version__}; install "
                    "the same on all nodes"
                )
            if done != actor.done:
                actor.done, actor.heard = done, time.monotonic()
        for actor in list(self._actors):
            still = time.monotonic() - actor.heard
            if actor.done < 0 and still > _START:
                self._give_up(actor)
            elif actor.call is not None and still > (_OPEN if actor.number is None else _STUCK):
                self._lose(actor, f"no progress for {still:.0f} s")

    def _give_up(self, actor: _Actor) -> None:
        """Do without an actor that did not start; an error if there is no other."""
        self._actors.remove(actor)
        self._ray.kill(actor.handle)
        if not self._actors:
            free = self._ray.available_resources()
            raise VqtrtError(
                f"--on ray: no actor started within {_START:.0f} s; of the cluster, "
                f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs are free"
            )
        self._size = len(self._actors)
        self._note(f"actor {actor.name} did not start within {_START:.0f} s; the others go on")

    def _lose(self, actor: _Actor, why: str) -> None:
        """Take note of an actor that is gone; another one has to make its shard."""
        if actor not in self._actors:
            return
        self._actors.remove(actor)
        self._ray.kill(actor.handle)
        self._losses[actor.number] += 1
        what = "opened the model" if actor.number is None else f"made shard {actor.number}"
        if self._losses[actor.number] >= _LOSSES:
            raise VqtrtError(
                f"--on ray: {_LOSSES} actors ended while they {what} (the last: {why}); the shards "
                "that are there are kept, and the same command continues"
            )
        self._note(f"actor {actor.name} ended while it {what} ({why}); another one takes over")
        if actor.number is not None:
            self._todo.appendleft(actor.number)
