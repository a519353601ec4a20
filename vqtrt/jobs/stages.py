"""Which stage a job spends its time in: the loop reads, runs the engine and writes in turn.

Notable: reading goes on in threads of its own meanwhile, so `read` is the time in which the loop
waits for it. The three add up to the time of the loop, and the largest is the bottleneck.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
STAGES = ("read", "engine", "write")


class Stages:
    """Seconds by stage; a stage inside of another one is not counted for both."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Count the block for a stage."""
        self._count()
        self._open.append(stage)
        try:
            yield
        finally:
            self._count()
            self._open.pop()

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Items, of which the getting is counted for a stage."""
        remaining = iter(items)
        while True:
            with self.of(stage):
                try:
                    item = next(remaining)
                except StopIteration:
                    return
            yield item

    def shares(self) -> dict[str, float]:
        """The share of each stage, to a hundredth; empty if nothing was counted."""
        total = sum(self._seconds.values())
        return {name: round(part / total, 2) for name, part in self._seconds.items() if total}

    def _count(self) -> None:
        now = self._clock()
        if self._open:
            self._seconds[self._open[-1]] += now - self._since
        self._since = now


def bottleneck(shares: Mapping[str, float]) -> str | None:
    """The stage with the largest share; None if there is none."""
    return max(shares, key=lambda name: shares[name], default=None)
