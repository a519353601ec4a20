"""Joining a Ray cluster: by its address, or a new one on this machine; and what fits on it.

Notable: telemetry is off, unless the user has set Ray's variable for it.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from vqtrt.errors import VqtrtError
from vqtrt.system.cores import usable_cores
from vqtrt.system.ending import end_at_once

_CONNECT = 10.0
"""Seconds that the cluster may take to answer."""
_JOIN = 60.0
"""Seconds that joining the cluster may take."""
_LEAVE = 30.0
"""Seconds that leaving the cluster may take."""
_TRY = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
"""Joins a cluster; for `python -c`."""
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # telemetry
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # raylets' messages, which Ray prints on standard output
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a warning
}
"""Variables of Ray, unless the user has set them."""


class RayOptions(NamedTuple):
    """How shards are made on a cluster."""

    address: str | None = None
    """HOST:PORT; without it $RAY_ADDRESS, or a new cluster on this machine."""
    actors: int | None = None
    """How many; by default as many as fit and leave one CPU free."""
    cpus: float = 1
    """CPUs of each actor."""
    gpus: float | None = None
    """GPUs of each actor; by default 1 if the cluster has any, else 0."""


def connected(address: str | None) -> Any:
    """Ray, connected to a cluster."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    own: dict[str, Any] = {"num_cpus": usable_cores(), "include_dashboard": False}
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if address != "local":
        own = {}
        _require_answer(address)
        _require_joinable(address)
    import ray

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, ValueError, RuntimeError, SystemExit) as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise VqtrtError(f"--on ray: the cluster at {address} cannot be joined ({text})") from error
    finally:
        # Ray has handlers of its own, which would end the process without a word.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ray


def leave(ray: Any, note: Callable[[str], None]) -> None:
    """Disconnect; says so if the head of the cluster does not answer any more."""
    thread = threading.Thread(target=ray.shutdown, daemon=True)
    thread.start()
    thread.join(_LEAVE)
    if thread.is_alive():
        end_at_once()  # Ray would wait again when Python ends
        note(f"the head of the Ray cluster has not answered for {_LEAVE:.0f} s; left it")


def _require_answer(address: str) -> None:
    """Raise `VqtrtError` if nothing answers at an address, for which Ray itself waits minutes."""
    if "://" in address:
        return  # Ray's client, which has a limit of its own
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host or "none", int(port)), _CONNECT).close()
    except (OSError, ValueError, OverflowError) as error:
        raise VqtrtError(
            f"--on ray: no Ray cluster answers at {address} ({error}); give ray:HOST:PORT as "
            "`ray start --head` prints it, or ray for a new one on this machine"
        ) from error


def _require_joinable(address: str) -> None:
    """Raise `VqtrtError` if joining takes too long.

    Ray goes on trying for minutes if what answers is not the head of a cluster, or hangs. So a
    process that can be ended tries first. If that one fails in time, Ray also fails here, and says
    why.
    """
    try:
        # -P: a ray.py in the folder of the command is not Ray.
        subprocess.run(  # noqa: S603 - this Python, with an address that is no option
            [sys.executable, "-P", "-c", _TRY, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_JOIN,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise VqtrtError(
            f"--on ray: the cluster at {address} could not be joined within {_JOIN:.0f} s; check "
            "that it is the HOST:PORT that `ray start --head` prints, and that the head runs"
        ) from error


def fitting(ray: Any, how: RayOptions) -> tuple[int, float]:
    """How many actors to start, and the GPUs of each.

    Raises `VqtrtError` if the cluster is too small.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    each = float(gpus > 0) if how.gpus is None else how.gpus
    places = sum(_places(node, how.cpus, each) for node in nodes)
    most = min(places, int((cpus - 1) // how.cpus))
    if most >= (how.actors or 1):
        return how.actors or most, each
    needs = f"{how.cpus:g} CPU" + (f" and {each:g} GPU" if each else "")
    has = f"{cpus:g} CPU" + (f" and {gpus:g} GPU" if each else "")
    hint = f"give --actors {most}" if most > 0 else "start more nodes, or give each actor less"
    raise VqtrtError(
        f"--on ray: {how.actors or 1} x {needs} do not fit on the cluster, which has {has} on "
        f"{len(nodes)} x node, of which one CPU stays free; {hint}"
    )


def _places(node: dict[str, float], cpus: float, gpus: float) -> int:
    """How many actors fit on a node."""
    kinds = {"CPU": cpus, "GPU": gpus}
    return int(min(node.get(kind, 0) // each for kind, each in kinds.items() if each))
