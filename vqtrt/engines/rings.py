"""Where caches that come back after some runs lie meanwhile: in rings of buffers that turn.

A cache of delay d has 2·d buffers. Run k reads buffer k mod 2d and writes buffer (k + d) mod 2d,
which it does not read before run k + d: nothing is copied, and no run writes what it reads. After
the period, the least common multiple of all 2·d, the same buffers meet again.
"""

import math
from collections.abc import Iterable

from vqtrt.formats.bundle import TensorSpec
from vqtrt.formats.caches import is_cache


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
