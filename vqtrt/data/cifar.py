"""CIFAR-10, binary version, read where it lies: `.tar.gz`, folder, or one `.bin`.

Notable: the archive is streamed and nothing of it is written to disk, so names in it that point
elsewhere do no harm; how much it may unpack to is bounded.

Format (https://www.cs.toronto.edu/~kriz/cifar.html): records of 3073 bytes, a label from 0 to 9 and
3072 bytes of pixels, all red first, then green, then blue, each 32 rows of 32.
"""

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from vqtrt.data.arrays import ArrayImages
from vqtrt.data.decode import shown
from vqtrt.data.files import open_file, read_file
from vqtrt.errors import VqtrtError

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""The ten classes in the order of their labels."""

TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
"""Files of the training split, in order."""
TEST = ("test_batch.bin",)
"""Files of the test split."""

_META = "batches.meta.txt"
_SPLITS = {"train": TRAIN, "test": TEST, "all": TRAIN + TEST}
_RECORD = 1 + 3 * 32 * 32
_MAX_BYTES = 2**30  # the real archive unpacks to 184 MB


def open_cifar10(path: Path, split: Literal["train", "test", "all"] = "all") -> ArrayImages:
    """Images (32, 32, 3) with ten classes, named like `data_batch_1.bin[17]`.

    `path`: `cifar-10-binary.tar.gz`, the folder `cifar-10-batches-bin`, or a single `.bin`, which
    is read whole whatever the split. All of a split is held in memory (3073 bytes an image).
    Raises `VqtrtError` for what is missing or damaged.
    """
    wanted = _SPLITS[split]
    try:
        if path.is_dir():
            found = {n: _read(path / n) for n in (*wanted, _META) if (path / n).is_file()}
        elif path.name.endswith((".tar.gz", ".tgz")):
            found = _read_tar(path, {*wanted, _META})
        else:
            wanted = (path.name,)
            found = {path.name: _read(path)}
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or shown(error)
        raise VqtrtError(
            f"{shown(path)}: cannot be read ({reason}); fetch cifar-10-binary.tar.gz again"
        ) from error
    if missing := [name for name in wanted if name not in found]:
        raise VqtrtError(
            f"{shown(path)}: has no {', '.join(missing)}; it takes the binary version of CIFAR-10"
        )
    classes = _class_names(path, found.pop(_META)) if _META in found else CLASSES
    counts = [(name, _count(path, name, len(found[name]))) for name in wanted]
    buffer = bytearray()
    for name in wanted:
        buffer += found.pop(name)
    records = np.frombuffer(buffer, np.uint8).reshape(-1, _RECORD)
    if (worst := int(records[:, 0].max())) > 9:
        raise VqtrtError(f"{shown(path)}: label {worst} is over 9; this is not CIFAR-10")
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ArrayImages(images, records[:, 0], classes, counts)


def _count(path: Path, name: str, size: int) -> int:
    if size == 0 or size % _RECORD:
        raise VqtrtError(
            f"{shown(path)}: {shown(name)} has {size} bytes, not a multiple of {_RECORD}; "
            "fetch the binary version of CIFAR-10 again"
        )
    return size // _RECORD


def _class_names(path: Path, text: bytes) -> tuple[str, ...]:
    names = tuple(text.decode("utf-8", "replace").split())
    if len(names) != 10 or len(set(names)) != 10:
        raise VqtrtError(f"{shown(path)}: {_META} must name 10 classes, it names {len(names)}")
    return names


def _read(path: Path) -> bytes:
    return read_file(path, _MAX_BYTES)


def _read_tar(path: Path, wanted: set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with (
        open_file(path) as packed,
        gzip.open(packed) as unpacked,
        tarfile.open(fileobj=_Bounded(unpacked, shown(path)), mode="r|") as archive,  # type: ignore[call-overload]
    ):
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name not in wanted or not member.isfile():
                continue
            if name in found:
                raise VqtrtError(f"{shown(path)}: holds {name} twice; fetch it again")
            content = archive.extractfile(member)
            found[name] = content.read() if content else b""
    return found


class _Bounded:
    """A stream that ends in an error once it has given too much: against archive bombs."""

    def __init__(self, stream: gzip.GzipFile, name: str) -> None:
        self._stream, self._name, self._left = stream, name, _MAX_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise VqtrtError(f"{self._name}: unpacks to over {_MAX_BYTES} bytes; not CIFAR-10")
        return data
