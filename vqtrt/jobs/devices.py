"""Shards on several devices: a process for each, which makes every nth shard.

Notable: a process sees its device alone (CUDA_VISIBLE_DEVICES), so nothing else changes. One that a
signal ends (out of memory, a fault of the GPU) is named, and the next process that is done takes
over what it left; one that ends with an error ends the job. One that stands still is ended.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vqtrt.errors import VqtrtError
from vqtrt.formats.shards import is_sharded, read_job, shards_listed
from vqtrt.jobs.loop import Note, Progress
from vqtrt.system.cores import usable_cores

_POLL = 0.2
"""Seconds between two looks at the processes."""
_LOOK = 2.0
"""Seconds between two looks at the shards that are there."""
_GRACE = 20
"""Seconds that a process has to end once it was asked to."""
_STUCK = 900.0
"""Seconds without any use of the CPU after which a process is ended."""
_TAIL = 4000
"""Bytes of what a process said last."""


@dataclass(eq=False)
class _Worker:
    """A process on a device."""

    device: str
    turn: int
    process: "subprocess.Popen[bytes]"
    log: IO[bytes]
    used: int = -1
    """CPU time, in ticks, when it was last looked at."""
    since: float = 0.0
    """When it had used as much first."""

    def still_for(self) -> float:
        """Seconds in which it has not used the CPU."""
        used, now = _cpu_ticks(self.process.pid), time.monotonic()
        if used != self.used:
            self.used, self.since = used, now
        return now - self.since

    def said(self) -> str:
        """The last line on standard error."""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - _TAIL))
        lines = self.log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else "it said nothing"


def parse_devices(text: str, visible: Callable[[], int]) -> list[str]:
    """The devices that `0,1` or `all` names; `visible` counts those of this machine.

    Raises `VqtrtError` for anything else, and for a device that is named twice.
    """
    if text == "all":
        count = visible()
        if not count:
            raise VqtrtError("--devices all: no NVIDIA GPU is visible here; leave it out")
        return [str(number) for number in range(count)]
    devices = text.split(",")
    if not all(device.isdecimal() for device in devices) or len(set(devices)) < len(devices):
        raise VqtrtError(f"--devices {text}: expected numbers of GPUs, such as 0,1, or all")
    return devices


def without_option(arguments: Sequence[str], option: str) -> list[str]:
    """Arguments of a command line without an option and its value."""
    kept, skip = list[str](), False
    for argument in arguments:
        if not skip and not argument.startswith(f"{option}="):
            skip = argument == option
            kept += [] if skip else [argument]
        else:
            skip = False
    return kept


def encode_on_devices(
    arguments: Sequence[str], out: Path, devices: Sequence[str], *, note: Note, progress: Progress
) -> None:
    """Run `vqtrt` with some arguments on each device until all shards of `out` are there.

    `arguments` are those of `vqtrt encode`, without `--shard`. If a process fails, the others are
    ended, and its error is raised as `VqtrtError`; so is an error if signals ended all processes.
    """
    turns, waiting = len(devices), list(range(len(devices)))
    idle, working = list(devices), list[_Worker]()
    looked = 0.0
    try:
        while waiting or working:
            while waiting and idle:
                working.append(_start(arguments, idle.pop(0), waiting.pop(0), turns))
            time.sleep(_POLL)
            for worker in [w for w in working if w.process.poll() is not None]:
                working.remove(worker)
                status, said = worker.process.returncode, worker.said()
                worker.log.close()
                if status == 0:
                    idle.append(worker.device)
                elif status > 0:
                    raise VqtrtError(f"device {worker.device}: {said}")
                else:
                    waiting.append(worker.turn)
                    note(
                        f"device {worker.device}: its process was ended by "
                        f"{signal.Signals(-status).name}; another one makes its shards"
                    )
            for worker in working:
                if (still := worker.still_for()) > _STUCK:
                    note(f"device {worker.device}: its process stood still for {still:.0f} s")
                    worker.process.kill()
            if not working and waiting and not idle:
                raise VqtrtError(
                    "the processes of all devices were ended by signals; what they made is kept, "
                    "and the same command continues (a smaller --batch-size needs less memory)"
                )
            if time.monotonic() - looked > _LOOK:
                looked = time.monotonic()
                _tell(out, progress)
        _tell(out, progress)
    finally:
        _end(working)


def _start(arguments: Sequence[str], device: str, turn: int, turns: int) -> _Worker:
    log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when its process has ended
    cores = max(1, usable_cores() // turns)
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": _visible(device),
        "PYTHON_CPU_COUNT": str(cores),
    }
    command = [sys.executable, "-m", "vqtrt", *arguments, "--shard", f"{turn}/{turns}"]
    process = subprocess.Popen(  # noqa: S603 - this program, with arguments of its own
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=environment
    )
    return _Worker(device, turn, process, log)


def _visible(device: str) -> str:
    """What makes a device the only one of a process, if this process sees some of them only."""
    listed = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not listed:
        return device
    if int(device) >= len(listed):
        raise VqtrtError(
            f"--devices: {device} is not among the {len(listed)} GPUs that CUDA_VISIBLE_DEVICES "
            "shows, which are counted from 0"
        )
    return listed[int(device)]


def _end(working: Sequence[_Worker]) -> None:
    """End processes: asked first, then made to."""
    for worker in working:
        worker.process.terminate()
    for worker in working:
        try:
            worker.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            with suppress(subprocess.TimeoutExpired):  # storage may hold it beyond a kill
                worker.process.wait(_GRACE)
        worker.log.close()


def _cpu_ticks(pid: int) -> int:
    """CPU time of a process so far; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])  # utime and stime of proc(5)


def _tell(out: Path, progress: Progress) -> None:
    """How many items lie in shards that are there."""
    if not is_sharded(out):
        return
    job = read_job(out)
    progress(sum(job.shards[number].items for number in shards_listed(out, job)), job.items)
