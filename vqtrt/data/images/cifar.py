"""CIFAR-10 and CIFAR-100, binary version, read where they lie: `.tar.gz`, folder, or one `.bin`.

Notable: the archive is streamed and nothing of it is written to disk, so names in it that point
elsewhere do no harm; how much it may unpack to is bounded. The Python version holds pickles, which
are never loaded: it is refused by its name.

Format (https://www.cs.toronto.edu/~kriz/cifar.html): records of a label from 0 to 9 (CIFAR-100: two
labels, coarse from 0 to 19 and fine from 0 to 99) and 3072 bytes of pixels, all red first, then
green, then blue, each 32 rows of 32.
"""

import errno
import gzip
import tarfile
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from vqtrt.data.images.arrays import ArrayImages
from vqtrt.errors import VqtrtError
from vqtrt.system.files import open_file, read_file
from vqtrt.system.names import printable

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
"""The ten classes of CIFAR-10 in the order of their labels."""

_PIXELS = 3 * 32 * 32
_MAX_BYTES = 2**30  # the real archives unpack to 184 MB


class _Labels(NamedTuple):
    """One kind of label."""

    byte: int
    """Its place in a record."""
    classes: int
    names: str
    """File with a name a line."""
    known: tuple[str, ...] = ()
    """Names where that file is missing; () for numbers."""


class _Version(NamedTuple):
    """A data set by its files."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    whole: bool
    """Whether `all` means every file, or those that are there."""
    labels: dict[str, _Labels]
    """By what stands behind the path (`:coarse`); the first is the default."""

    @property
    def record(self) -> int:
        """Bytes of an image."""
        return len(self.labels) + _PIXELS

    def files(self, split: str) -> tuple[str, ...]:
        """Files of a split, in order."""
        return {"train": self.train, "test": self.test, "all": self.train + self.test}[split]


CIFAR10 = _Version(
    "CIFAR-10",
    tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    ("test_batch.bin",),
    True,
    {"": _Labels(0, 10, "batches.meta.txt", CLASSES)},
)
CIFAR100 = _Version(
    "CIFAR-100",
    ("train.bin",),
    ("test.bin",),
    False,
    {
        "fine": _Labels(1, 100, "fine_label_names.txt"),
        "coarse": _Labels(0, 20, "coarse_label_names.txt"),
    },
)
_VERSIONS = (CIFAR10, CIFAR100)
_KNOWN = frozenset(
    name
    for version in _VERSIONS
    for name in (*version.files("all"), *(label.names for label in version.labels.values()))
)
_PYTHON = frozenset(("batches.meta", *(f"data_batch_{i}" for i in range(1, 6)), "test_batch"))
"""Files of the Python version of CIFAR-10; those of CIFAR-100 are `train`, `test` and `meta`."""


def is_cifar(folder: Path) -> bool:
    """Whether a folder is one of the data sets, in binary or in the Python version."""
    if any((folder / name).is_file() for name in (*CIFAR10.files("all"), *_PYTHON)):
        return True
    names = [label.names for label in CIFAR100.labels.values()]
    binary = any((folder / name).is_file() for name in CIFAR100.files("all"))
    return (
        (binary and any((folder / name).is_file() for name in names))
        or (binary and _version_of(_sizes(folder, CIFAR100.files("all"))) is CIFAR100)
        or all((folder / name).is_file() for name in ("train", "test", "meta"))
    )


def open_cifar(
    path: Path, split: Literal["train", "test", "all"] = "all", labels: str = ""
) -> ArrayImages:
    """Images (32, 32, 3) with their classes, named like `data_batch_1.bin[17]`.

    `path`: `cifar-10-binary.tar.gz`, `cifar-100-binary.tar.gz`, a folder of their files, or a
    single `.bin`, which is read whole whatever the split. `labels` chooses those of CIFAR-100:
    `fine` (default) or `coarse`. All of a split is held in memory (3,073 or 3,074 bytes an image).
    Raises `VqtrtError` for what is missing or damaged.
    """
    try:
        found, wanted, version = _find(path, split)
    except VqtrtError:
        raise
    except Exception as error:  # gzip, zlib and tarfile raise half a dozen types
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise VqtrtError(f"{printable(path)}: {error.strerror}: too large for CIFAR") from error
        reason = getattr(error, "strerror", None) or printable(error) or type(error).__name__
        kind = "" if path.is_dir() else _no_archive(path)
        raise VqtrtError(f"{printable(path)}: cannot be read ({reason}){kind}") from error
    if labels and labels not in version.labels:
        known = ", ".join(filter(None, version.labels)) or "none to choose"
        raise VqtrtError(
            f"{printable(path)}:{printable(labels)}: labels of {version.name} are: {known}"
        )
    label = version.labels[labels or next(iter(version.labels))]
    return _images(path, found, wanted, version, label)


def _find(path: Path, split: str) -> tuple[dict[str, bytes], tuple[str, ...], _Version]:
    """The files that are there, those of the split in their order, and the data set."""
    if path.is_dir():
        here = [name for name in sorted(_KNOWN) if (path / name).is_file()]
        version = CIFAR10 if any(name in here for name in CIFAR10.files("all")) else CIFAR100
        others = {label.names for label in version.labels.values()}
        wanted = version.files(split)
        python = not set(here) & {*CIFAR10.files("all"), *CIFAR100.files("all")}
        found = {n: read_file(path / n, _MAX_BYTES) for n in here if n in {*wanted, *others}}
    elif path.name.lower().endswith((".tar.gz", ".tgz")):
        found, python = _read_tar(path)
        version = CIFAR100 if not found.keys() & set(CIFAR10.files("all")) else CIFAR10
        wanted = version.files(split)
        if not python and not found:
            raise VqtrtError(
                f"{printable(path)}: is a .tar.gz without the files of CIFAR-10 or CIFAR-100 "
                "(data_batch_1.bin, train.bin, …); unpack it, and give the folder of images"
            )
    else:
        found, python = {path.name: read_file(path, _MAX_BYTES)}, False
        version = _version_of({path.name: len(found[path.name])}) or CIFAR10
        return found, (path.name,), version
    if python:
        raise VqtrtError(
            f"{printable(path)}: is the Python version of CIFAR, whose files are pickles and never "
            "loaded; give the binary version, cifar-10-binary.tar.gz or cifar-100-binary.tar.gz"
        )
    missing = [name for name in wanted if name not in found]
    if not version.whole and len(missing) < len(wanted):
        wanted = tuple(name for name in wanted if name in found)
    elif missing:
        raise VqtrtError(
            f"{printable(path)}: has no {', '.join(missing)}; it takes the binary version of "
            f"{version.name}"
        )
    return found, wanted, version


def _images(
    path: Path,
    found: dict[str, bytes],
    wanted: tuple[str, ...],
    version: _Version,
    label: _Labels,
) -> ArrayImages:
    names = found.get(label.names)
    counts = [(name, _count(path, name, len(found[name]), version)) for name in wanted]
    buffer = bytearray()
    for name in wanted:
        buffer += found.pop(name)
    records = np.frombuffer(buffer, np.uint8).reshape(-1, version.record)
    labels = records[:, label.byte]
    if (worst := int(labels.max())) >= label.classes:
        raise VqtrtError(
            f"{printable(path)}: label {worst} is over {label.classes - 1}; this is not "
            f"{version.name}"
        )
    images = records[:, len(version.labels) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    classes = label.known or tuple(str(i) for i in range(label.classes))
    if names is not None:
        # A part of CIFAR-100 may come with the names of that part alone.
        at_least = label.classes if version.whole else worst + 1
        classes = _class_names(path, label, names, at_least)
    return ArrayImages(images, labels, classes, counts)


def _version_of(sizes: dict[str, int]) -> _Version | None:
    """The data set of which these files can be, by their sizes in bytes."""
    fitting = [
        version
        for version in _VERSIONS
        if sizes and all(size and size % version.record == 0 for size in sizes.values())
    ]
    return fitting[0] if fitting else None


def _sizes(folder: Path, names: tuple[str, ...]) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}


def _count(path: Path, name: str, size: int, version: _Version) -> int:
    if size == 0 or size % version.record:
        raise VqtrtError(
            f"{printable(path)}: {printable(name)} has {size} bytes, not a multiple of "
            f"{version.record}; "
            f"if it is {version.name} in the binary version, fetch it again"
        )
    return size // version.record


def _class_names(path: Path, label: _Labels, text: bytes, at_least: int) -> tuple[str, ...]:
    names = tuple(text.decode("utf-8", "replace").split())
    if not at_least <= len(names) <= label.classes or len(set(names)) != len(names):
        raise VqtrtError(
            f"{printable(path)}: {label.names} must name {label.classes} classes, it names "
            f"{len(names)}"
        )
    return names


def _no_archive(path: Path) -> str:
    """What to do with a file that is named like an archive."""
    if not path.name.lower().endswith((".tar.gz", ".tgz")):
        return "; check the path"
    return (
        "; it is no gzip archive, or is damaged: fetch cifar-10-binary.tar.gz again if it is "
        "CIFAR, else unpack it and give the folder of images"
    )


def _read_tar(path: Path) -> tuple[dict[str, bytes], bool]:
    """The files of the data sets that an archive holds, and whether it is the Python version."""
    found: dict[str, bytes] = {}
    python = set[str]()
    left = _MAX_BYTES
    with (
        open_file(path) as packed,
        gzip.open(packed) as unpacked,
        tarfile.open(fileobj=_Bounded(unpacked, printable(path)), mode="r|") as archive,  # type: ignore[call-overload]
    ):
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if not member.isfile():
                continue
            if name in _PYTHON or folder.rpartition("/")[2] == "cifar-100-python":
                python.add(name)
            if name not in _KNOWN:
                continue
            if name in found:
                raise VqtrtError(f"{printable(path)}: holds {name} twice; fetch it again")
            # The zeros of a sparse file take nothing of the archive.
            left -= member.size
            if left < 0:
                raise _too_large(printable(path))
            content = archive.extractfile(member)
            found[name] = content.read() if content else b""
    return found, bool(python) and not found


class _Bounded:
    """A stream that ends in an error once it has given too much: against archive bombs."""

    def __init__(self, stream: gzip.GzipFile, name: str) -> None:
        self._stream, self._name, self._left = stream, name, _MAX_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._name)
        return data


def _too_large(name: str) -> VqtrtError:
    return VqtrtError(f"{name}: unpacks to over {_MAX_BYTES} bytes; not CIFAR")
