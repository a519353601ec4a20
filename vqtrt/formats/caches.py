"""The caches of a graph: what it gives as `keptN`, it gets back as `cacheN` on a later run."""

from vqtrt.formats.bundle import TensorSpec

CACHE, KEPT = "cache", "kept"
"""What the names of a graph's caches begin with: `cache3` goes in, `kept3` comes out."""


def is_cache(tensor: TensorSpec) -> bool:
    """Whether an input is a cache."""
    return tensor.name.startswith(CACHE)


def is_kept(tensor: TensorSpec) -> bool:
    """Whether an output is a cache of the next run."""
    return tensor.name.startswith(KEPT)
