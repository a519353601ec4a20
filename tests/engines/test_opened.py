import copy
import gc
import os
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from vqtrt.engines.opened import Opened


class Value:
    """What is made: it counts."""


def test_a_value_is_made_once_for_a_key() -> None:
    opened: Opened[str, Value] = Opened()
    barrier = threading.Barrier(4)

    def get(key: str) -> Value:
        barrier.wait()
        return opened.get(key, Value)

    with ThreadPoolExecutor(4) as pool:
        values = list(pool.map(get, "aabb"))
    assert values[0] is values[1] is not values[2] is values[3]


def test_what_fails_is_made_again() -> None:
    opened: Opened[str, int] = Opened()
    with pytest.raises(ZeroDivisionError):
        opened.get("a", lambda: 1 // 0)
    assert opened.get("a", lambda: 2) == opened.get("a", lambda: 3) == 2


def test_other_keys_are_at_hand_while_a_value_is_made() -> None:
    opened: Opened[str, int] = Opened()
    opened.get("a", lambda: 1)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        assert go_on.wait(10)
        return 2

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(opened.get, "b", slow)
        assert begun.wait(10)
        assert opened.get("a", lambda: 0) == 1
        go_on.set()
        assert made.result() == 2


def test_pickles_and_copies_are_empty() -> None:
    opened: Opened[str, object] = Opened()
    opened.get("a", threading.Lock)  # which no pickle takes
    for other in (pickle.loads(pickle.dumps(opened)), copy.deepcopy(opened), copy.copy(opened)):  # noqa: S301
        assert other.get("a", lambda: 1) == 1
        assert not isinstance(opened.get("a", lambda: 1), int)


def test_values_go_with_it() -> None:
    opened: Opened[str, Value] = Opened()
    value = weakref.ref(opened.get("a", Value))
    del opened
    gc.collect()
    assert value() is None


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_begins_empty_and_destroys_nothing() -> None:
    opened: Opened[str, Value] = Opened()
    value = opened.get("a", Value)
    ends: list[int] = []
    weakref.finalize(value, ends.append, 1)
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with opened.lock:
            held.set()
            go_on.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    child = os.fork()
    if not child:
        status = 1
        try:
            # A lock that a thread of the parent holds would never be free here.
            free = opened.lock.acquire(timeout=5)
            other = opened.get("b", Value) if free else None
            del value
            gc.collect()
            again = opened.get("a", Value)
            status = 0 if free and other is not again and not ends else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go_on.set()
    thread.join()
    assert opened.get("a", Value) is value
