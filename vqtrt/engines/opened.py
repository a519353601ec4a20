"""What is opened when it is first needed, and then kept: sessions, graphs, buffers.

A session of ONNX Runtime or a CUDA context lives in one process. It cannot be pickled, and a fork
copies its memory but not its threads: running it in the child can hang, and so does destroying it.
"""

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Opened(Generic[K, V]):
    """Values by key, each made once, whichever thread asks first.

    A pickle and a copy of it are empty, and so is the one that a forked process finds: there the
    values are made again when they are next needed. An object that keeps what it opens in `Opened`,
    and the rest in plain attributes, can therefore be shared by threads, pickled and forked.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        """Held while a value is made; also for whoever uses a value that only one thread may."""
        self._values: dict[K, V] = {}
        _all.add(self)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key; if there is none yet, what `make` gives. Raises what `make` raises.

        Keep no reference to it beyond a call, or a forked process uses what it must not.
        """
        try:
            # Without the lock: another key's value may take a while to make.
            return self._values[key]
        except KeyError:
            pass
        with self.lock:
            if key not in self._values:
                self._values[key] = make()
            return self._values[key]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()

    def _leave_behind(self) -> None:
        """In a forked process: begin empty, and never destroy what the parent opened."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._values))
        self._values = {}
        # Another thread of the parent may have held it.
        self.lock = threading.RLock()


_all: "weakref.WeakSet[Opened[Any, Any]]" = weakref.WeakSet()


def _forked() -> None:
    for opened in _all:
        opened._leave_behind()


os.register_at_fork(after_in_child=_forked)
