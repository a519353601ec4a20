"""How many cores this process may use. Every number of threads is based on it.

A quota of CPU time (the cgroup's `cpu.max`, as containers and batch systems set it) is not an
affinity: the process still sees every core of the machine. With a thread for each of them, it
spends its quota early in each period and then stands still.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc/self")
_VARIABLE = "PYTHON_CPU_COUNT"
"""What Python 3.13 and later take for the number of cores; here any version does."""


def usable_cores(proc: Path = _PROC) -> int:
    """Cores that this process may use, at least 1.

    `PYTHON_CPU_COUNT` if it is set to a number; else the cores of the affinity mask, and no more
    than the CPU quotas of the process's cgroups (v1 and v2) and of all above them, rounded up.
    `proc` is the process's folder in /proc.
    """
    with suppress(ValueError):
        if (count := int(os.environ.get(_VARIABLE, ""))) > 0:
            return count
    quotas = [math.ceil(quota) for quota in _quotas(proc)]
    return max(1, min([len(os.sched_getaffinity(0)), *quotas]))


def core_limit() -> int | None:
    """`usable_cores` if they are fewer than the machine has; None for all."""
    cores = usable_cores()
    return cores if cores < (os.cpu_count() or cores) else None


class _Mount(NamedTuple):
    """A mounted hierarchy of cgroups that can limit CPU time."""

    version: int
    root: str
    """The cgroup that is mounted, such as that of the container."""
    point: Path


def _quotas(proc: Path) -> Iterator[float]:
    """The quota, in cores, of each cgroup that limits this process."""
    try:
        mounts = list(_mounts((proc / "mountinfo").read_text(errors="surrogateescape")))
        groups = (proc / "cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError:  # no Linux, or no /proc
        return
    for line in groups:
        # 0::/a for v2, 4:cpu,cpuacct:/a for v1
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        version = 1 if controllers else 2
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mount in mounts:
            if mount.version == version:
                yield from _quotas_up(mount, path)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Of lines `ID PARENT DEVICE ROOT POINT OPTIONS [FIELD...] - TYPE SOURCE OPTIONS`."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, point = _unescaped(fields[3]), Path(_unescaped(fields[4]))
        if kind[0] == "cgroup2":
            yield _Mount(2, root, point)
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield _Mount(1, root, point)


def _quotas_up(mount: _Mount, path: str) -> Iterator[float]:
    """Quotas from a process's cgroup up to the one that is mounted."""
    # A container sees its own cgroup as the mount's root, whatever the path of it is outside.
    root = mount.root.rstrip("/")
    inside = path.removeprefix(root) if f"{path}/".startswith(f"{root}/") else "/"
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:  # outside of the cgroup namespace
        parts = []
    for depth in range(len(parts), -1, -1):
        quota = _quota(mount.point.joinpath(*parts[:depth]), mount.version)
        if quota is not None:
            yield quota


def _quota(group: Path, version: int) -> float | None:
    """A cgroup's own quota in cores; None without one."""
    try:
        if version == 2:
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
        cores = int(quota) / int(period)  # "max" is no number
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None  # -1 is no quota in v1


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
