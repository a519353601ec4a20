import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from vqtrt.commands import bars
from vqtrt.system import interrupts
from vqtrt.system.interrupts import Terminated, check, handled, held, noted, received, released


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def _not_ignored() -> Iterator[None]:
    """A job in the background may begin with signals ignored, and what is ignored stays so."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_is_a_keyboard_interrupt(number: int) -> None:
    before = signal.getsignal(number)
    with handled():
        with pytest.raises(KeyboardInterrupt) as caught:
            send(number)
        assert isinstance(caught.value, Terminated)
        assert caught.value.number == received() == number
    assert signal.getsignal(number) is before
    assert received() is None


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handled():
            send(signal.SIGHUP)
            assert received() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_block_is_done_as_a_whole() -> None:
    done = []

    def work() -> None:
        with held():
            with held():
                send()
                done.append("inner")
            done.append("outer")
        done.append("after")

    with handled(), pytest.raises(Terminated):
        work()
    assert done == ["inner", "outer"]


def test_training_takes_note_and_evaluations_are_broken_off() -> None:
    with handled(), noted():
        send()
        assert received() == signal.SIGTERM
        with pytest.raises(Terminated), released():
            pass
        check()  # still put off


def test_a_signal_that_was_swallowed_is_raised_again() -> None:
    class Swallows:
        def __del__(self) -> None:
            send()

    with handled():
        with unreported():
            made = Swallows()
            del made
        with bars.counting("counting") as counter, pytest.raises(Terminated):
            counter(1)


class unreported:
    """Keeps Python from reporting what a destructor raised."""

    def __enter__(self) -> None:
        self._hook, sys.unraisablehook = sys.unraisablehook, lambda *_: None

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._hook


def test_a_second_signal_ends_the_process_at_once() -> None:
    code = """
import os, signal, time
from vqtrt.system.interrupts import handled, noted
with handled(), noted():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # the same request, passed on by torchrun
    print("goes on", flush=True)
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "goes on\n")


def test_other_threads_are_left_alone() -> None:
    seen = []

    def work() -> None:
        with handled(), held():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
    assert interrupts._State.holds == 0
