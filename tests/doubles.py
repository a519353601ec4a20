"""Stand-ins that tests of several modules share, and pictures to feed to them."""

import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from vqtrt.cli import main
from vqtrt.config.location import ModelLocation
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.source import Item
from vqtrt.engines.base import Binding, BoundGraph, Engine, Graph
from vqtrt.errors import ImageError
from vqtrt.formats.bundle import ModelInfo, PriorInfo, SpeechInfo

MODEL = ModelLocation(Path("runs/fake"), None, "named")

BLOCKED = """
import sys
from importlib.machinery import PathFinder

GONE = {"torch", "accelerate", "onnx", "onnxscript", "safetensors", "tensorboard"}

class Blocker:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker)
from vqtrt.cli import main
"""
"""Code that begins a process without torch, in which `main` is the command line."""


class EngineDouble(Engine):
    """What every stand-in for an engine has."""

    name = "fake"
    precision = "fp32"
    weights_sha256 = "f" * 64
    preprocessing: Preprocessing | None = None
    speech: SpeechInfo | None = None
    priors: Mapping[str, PriorInfo] = {}

    def open(self, graph: str) -> Graph:
        raise AssertionError(f"this double has no graph {graph}")

    def _bind(self, graph: str, sizes: Mapping[str, int], how: Binding) -> BoundGraph:
        raise AssertionError(f"this double has no graph {graph}")


class FakeEngine(EngineDouble):
    """A codebook of gray levels: a 4x4 block's code is its sum of pixels modulo K (plus c for C).

    `before` is called with the name and the array of each call of a graph.
    """

    def __init__(
        self,
        codebook_size: int = 200,
        num_codebooks: int = 1,
        before: Callable[[str, np.ndarray], None] = lambda name, array: None,
    ) -> None:
        self.info = ModelInfo(
            codebook_size=codebook_size, num_codebooks=num_codebooks, code_dim=1, stride=4
        )
        self.preprocessing = Preprocessing(height=16, width=16)
        self.before = before

    def open(self, graph: str) -> Graph:
        def run(array: np.ndarray) -> np.ndarray:
            self.before(graph, array)
            return (self.encoder if graph == "encoder" else self.decoder)(array)

        return run

    def encoder(self, images: np.ndarray) -> np.ndarray:
        n, height, width, _ = images.shape
        blocks = images.astype(np.int32).reshape(n, height // 4, 4, width // 4, 4, 3)
        sums = blocks.sum((2, 4, 5))
        books = [(sums + c) % self.info.codebook_size for c in range(self.info.num_codebooks)]
        codes = books[0] if len(books) == 1 else np.stack(books, -1)
        return codes.astype(np.int32)

    def decoder(self, codes: np.ndarray) -> np.ndarray:
        gray = codes.reshape(*codes.shape[:3], -1)[..., 0].astype(np.uint8)
        return np.repeat(np.repeat(gray, 4, 1), 4, 2)[..., None].repeat(3, -1)


class FakeSource:
    """Images made by their index; those in `bad` cannot be read. `before` sees each item read."""

    def __init__(self, count: int, bad=(), before=lambda item: None) -> None:
        self.count, self.bad, self.before = count, set(bad), before
        self.classes: tuple[str, ...] = ()

    def items(self) -> Iterator[Item]:
        for index in range(self.count):
            yield Item(f"{index:06}.png", -1, index)

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> np.ndarray:
        self.before(item)
        if item.key in self.bad:
            raise ImageError(f"{item.name}: not an image that can be read (bad); remove it")
        size = preprocessing or Preprocessing(height=16, width=16)
        values = np.arange(size.height * size.width * 3, dtype=np.uint32)
        values = values * (item.key * 2 + 1) // 7 + item.key
        return values.astype(np.uint8).reshape(size.height, size.width, 3)


def picture(seed: int, size: tuple[int, int] = (16, 16)) -> Image.Image:
    """Noise, (width, height)."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def write_pictures(root: Path, *names: str, size: tuple[int, int] = (16, 16)) -> Path:
    """A folder of pictures with these names, each its own."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, size).save(root / name)
    return root


def shard_files(folder: str | Path) -> dict[str, bytes]:
    """All files below a folder, by their paths; not those that only `vqtrt plan` writes."""
    found = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    named = {str(path.relative_to(folder)): path.read_bytes() for path in found}
    return {name: named[name] for name in named if not name.startswith("plan/")}


def huge_png(path: Path, side: int = 50_000) -> None:
    """A PNG of side x side pixels, if its header is believed."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10)))
        + chunk(b"IEND", b"")
    )


def flip_byte(path: Path, offset: int) -> None:
    """Damage a file in one bit."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def tree(root: Path) -> list[str]:
    """All files and folders below, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def vqtrt(*args: object) -> int:
    """Run a command in this process, through the real entry point; its exit status."""
    with mock.patch.object(sys, "argv", ["vqtrt", *map(str, args)]):
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0
