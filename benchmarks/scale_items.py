"""Plan, encode and merge of items that cost nothing: time and memory for millions of them.

    python benchmarks/scale_items.py --items 10000000 > table.md

The items are made, not read, and the engine gives zeros, so what is left is the work of vqtrt:
listing, batches, shards, and the merge with all hashes. Memory is that of the process so far.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.source import Item
from vqtrt.engines.base import Binding, BoundGraph, Engine, Graph
from vqtrt.formats.bundle import ModelInfo
from vqtrt.formats.items import open_codes
from vqtrt.formats.shard_codes import merge
from vqtrt.images.encode import encode_source
from vqtrt.images.tokenizer import ImageTokenizer

SIDE = 8


class Made:
    """Images that are all alike."""

    classes: tuple[str, ...] = ()

    def __init__(self, count: int) -> None:
        self._count = count
        self._image = np.zeros((SIDE, SIDE, 3), np.uint8)

    def items(self) -> Iterator[Item]:
        """Names by number."""
        for number in range(self._count):
            yield Item(f"{number // 1000:06}/{number % 1000:03}.png", -1, None)

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image."""
        return self._image


class Idle(Engine):
    """An engine whose codes are zeros."""

    name, precision, weights_sha256 = "idle", "fp32", "0" * 64
    speech, priors = None, {}
    info = ModelInfo(codebook_size=256, num_codebooks=1, code_dim=1, stride=4)
    preprocessing = Preprocessing(height=SIDE, width=SIDE)

    def open(self, graph: str) -> Graph:
        """The encoder."""
        return lambda images: np.zeros((len(images), SIDE // 4, SIDE // 4), np.int32)

    def _bind(self, graph: str, sizes: Mapping[str, int], how: Binding) -> BoundGraph:
        raise NotImplementedError


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=10_000)
    options = parser.parse_args()
    location = ModelLocation(Path("made"), None, "named")
    tokenizer = ImageTokenizer(Idle(), batch_size=256, location=location)
    told: dict[str, Any] = {"root": "made", "workers": 2, "shard_size": options.shard_size}
    print("| step | seconds | µs per item | peak memory so far, MiB |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="vqtrt-scale-") as scratch:
        out = Path(scratch) / "codes"

        def read_back() -> None:
            codes = open_codes(out)
            assert len(codes) == sum(1 for _ in codes.items()) == options.items  # noqa: S101

        steps: dict[str, Callable[[], object]] = {
            "plan": lambda: encode_source(tokenizer, Made(options.items), out, plan=True, **told),
            "encode": lambda: encode_source(tokenizer, Made(options.items), out, **told),
            "encode again": lambda: encode_source(tokenizer, Made(options.items), out, **told),
            "merge --check": lambda: merge(out, check=True),
            "open_codes, all names": read_back,
        }
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            took = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            each = 1e6 * took / options.items
            print(f"| {name} | {took:.1f} | {each:.1f} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
