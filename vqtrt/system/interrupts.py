"""Signals that end a command: Ctrl-C, the SIGTERM of Slurm, Kubernetes and spot machines, SIGHUP.

Notable: the first one is raised in the main thread as a `KeyboardInterrupt`, whichever it is, so
that a job is tidied, or kept to be resumed, in one way. It waits where work must not be cut in two
(`held`: the renames that put an output into place), and training takes note of it and ends its step
first (`noted`). A second one kills the process at once.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME = 0.5
"""Seconds in which another signal is the same request: torchrun and a terminal both pass it on."""


class Terminated(KeyboardInterrupt):
    """What a signal raises; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _State:
    """Of this process: signals come to the main thread alone."""

    number: int | None = None
    """The first signal that came."""
    at = 0.0
    holds = 0
    """Blocks that put a signal off, one inside of the other."""


@contextmanager
def handled() -> Iterator[None]:
    """Turn signals into `Terminated` while the block runs; those that are ignored stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.number, _State.holds = None, 0
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        # nohup ignores SIGHUP, and a shell SIGINT for what it runs in the background.
        if handler is not signal.SIG_IGN:
            signal.signal(number, _receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _State.number = None


def _receive(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _State.number is None:
        _State.number, _State.at = number, now
        check()
    elif now - _State.at > _SAME:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def received() -> int | None:
    """The signal that came, while one of the blocks puts it off, and after it was raised."""
    return _State.number


def check() -> None:
    """Raise `Terminated` if a signal came, unless a block puts it off.

    For long work to call now and then: Python drops an exception that is raised in a destructor.
    """
    if _State.number is not None and not _State.holds and _in_main():
        raise Terminated(_State.number)


@contextmanager
def held() -> Iterator[None]:
    """Put a signal off until the end of a short block, which is then done as a whole."""
    with noted():
        yield
    check()


@contextmanager
def noted() -> Iterator[None]:
    """Keep a signal from being raised in the block, which asks `received` for itself."""
    if not _in_main():
        yield
        return
    _State.holds += 1
    try:
        yield
    finally:
        _State.holds -= 1


@contextmanager
def released() -> Iterator[None]:
    """Inside of `noted`: a part that a signal may break off."""
    if not _in_main():
        yield
        return
    holds, _State.holds = _State.holds, 0
    try:
        check()
        yield
    finally:
        _State.holds = holds


def _in_main() -> bool:
    return threading.current_thread() is threading.main_thread()
