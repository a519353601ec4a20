"""Where caches that come back after some runs lie meanwhile: in rings of buffers that turn.

A cache of delay d has 2·d buffers. Run k reads buffer k mod 2d and writes buffer (k + d) mod 2d,
which it does not read before run k + d: nothing is copied, and no run writes what it reads. After
the period, the least common multiple of all 2·d, the same buffers meet again.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from vqtrt.formats.bundle import TensorSpec
from vqtrt.formats.caches import CACHE, KEPT, is_cache

B = TypeVar("B")


def caches_of(tensors: Iterable[TensorSpec]) -> list[TensorSpec]:
    """Those inputs of a graph that are caches."""
    return [tensor for tensor in tensors if is_cache(tensor)]


def period(caches: Iterable[TensorSpec]) -> int:
    """Runs after which all caches use the same buffers again; 2 where all delays are 1."""
    return math.lcm(2, *(2 * cache.delay for cache in caches))


def read_slot(cache: TensorSpec, turn: int) -> int:
    """The buffer that run `turn` reads."""
    return turn % (2 * cache.delay)


def written_slot(cache: TensorSpec, turn: int) -> int:
    """The buffer that run `turn` writes."""
    return (turn + cache.delay) % (2 * cache.delay)


class Rings(Generic[B]):
    """The rings of all caches of a graph that ONNX Runtime runs, and which turn it is.

    `make` makes a buffer of a cache; `place` tells an IO binding where it is.
    """

    def __init__(
        self,
        tensors: Iterable[TensorSpec],
        make: Callable[[TensorSpec], B],
        place: Callable[[B], tuple[Any, ...]],
    ) -> None:
        caches = caches_of(tensors)
        self._rings = [(cache, [make(cache) for _ in range(2 * cache.delay)]) for cache in caches]
        self._place = place
        self.turns = period(caches)
        self.turn = 0

    def __len__(self) -> int:
        return len(self._rings)

    def bind(self, binding: Any, turn: int) -> None:
        """Bind what a turn reads and writes."""
        for cache, ring in self._rings:
            kept = cache.name.replace(CACHE, KEPT, 1)
            binding.bind_input(cache.name, *self._place(ring[read_slot(cache, turn)]))
            binding.bind_output(kept, *self._place(ring[written_slot(cache, turn)]))

    def advance(self) -> None:
        """Go on to the next turn."""
        self.turn = (self.turn + 1) % self.turns

    def rewind(self) -> Iterator[B]:
        """Go back to the first turn; gives the buffers that have to be zero for it."""
        self.turn = 0
        for cache, ring in self._rings:
            # The others are written before they are read.
            yield from ring[: cache.delay]
