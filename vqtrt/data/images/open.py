"""From what a user writes for a data set to the source that reads it."""

from pathlib import Path
from typing import Literal

from vqtrt.data.folder import Tree
from vqtrt.data.foreign import foreign_file
from vqtrt.data.images.cifar import is_cifar, open_cifar
from vqtrt.data.images.folder import ImageFile, ImageFolder, image_kind
from vqtrt.data.images.npz import open_array_images
from vqtrt.data.images.shapes import Shapes
from vqtrt.data.images.source import ImageSource
from vqtrt.data.images.table import ImageTable
from vqtrt.data.images.tar import ImageTar
from vqtrt.data.remote import open_remote
from vqtrt.data.selection import Selection
from vqtrt.data.table import is_table
from vqtrt.data.urls import is_remote_tar, is_url, public_url, split_column
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

Split = Literal["train", "test", "all"]
"""Parts of a data set. CIFAR, shapes and some .npz have parts; of the others every split is all."""
_ARRAYS = (".npy", ".npz")
_CIFAR = (".tar.gz", ".tgz", ".bin")

_SHAPES_COUNT = {"train": 20_000, "all": 20_000, "test": 2_000}
_TEST_SEED = 1 << 63  # XORed in: no seed that a user gives (below 2^63) meets another's test split


def open_images(
    path: str | Path,
    split: str = "all",
    selection: Selection | None = None,
    indexes: Path | None = None,
) -> ImageSource:
    """Open an image, a folder or tar of images, CIFAR (folder, `.tar.gz`, `.bin`), array, shapes.

    A tar or a Parquet file may be a URL; `indexes` is a folder to keep the index of such a tar in.
    An array is an `.npy` or `.npz`; `file.npz:NAME` is one array of an archive.
    `cifar-100-binary:coarse` has the other labels of CIFAR-100. `selection` says which files of a
    folder count; it is an error for anything else.

    Shapes are made, not read: `shapes`, `shapes:COUNT` or `shapes:COUNT:SEED`, unless something of
    that name exists. Their splits `train` and `all` are the same; `test` never overlaps with them.

    Raises `VqtrtError` for what is missing, unknown or damaged.
    """
    if split not in ("train", "test", "all"):
        raise VqtrtError(f"{split!r} is not a split; give train, test or all")
    if is_url(path):
        source = _open_remote(str(path), selection, indexes)
    else:
        source = _open(path, split, selection)
    if selection and not isinstance(source, Tree):
        raise VqtrtError(
            f"{printable(public_url(str(path)))}: is no folder or tar of images, from which alone "
            "--include and --exclude choose; leave them out"
        )
    return source


def _open_remote(url: str, selection: Selection | None, indexes: Path | None) -> ImageSource:
    url, column = split_column(url)
    if is_remote_tar(url):
        return ImageTar(open_remote(url, indexes), selection)
    return ImageTable(open_remote(url), column)


def _open(path: str | Path, split: str, selection: Selection | None) -> ImageSource:
    where, part = Path(path), ""
    try:
        if not where.exists():
            if str(path).partition(":")[0] == "shapes":
                return _open_shapes(str(path), split)
            before, _, part = str(path).rpartition(":")
            where = Path(before)
            if not before or not where.exists():
                raise VqtrtError(f"{printable(path)}: no such file or folder; check the path")
        folder = where.is_dir()
        name = where.name.lower()
        cifar = is_cifar(where) if folder else name.endswith(_CIFAR)
    except (OSError, ValueError) as error:  # too long, a NUL byte, a parent that is closed
        raise VqtrtError(
            f"{printable(path)}: cannot be opened ({error}); check the path"
        ) from error
    if cifar:
        return open_cifar(where, split, part)  # type: ignore[arg-type]
    if name.endswith(_ARRAYS) and not folder:
        return open_array_images(where, part, split)
    if is_table(where):
        return ImageTable(where, part or None)
    if part:
        raise VqtrtError(
            f"{printable(path)}: no such file or folder, and {printable(where)} has no parts to "
            f"name; "
            "check the path"
        )
    if folder:
        return ImageFolder(where, selection)
    if name.endswith(".tar"):
        return ImageTar(where, selection)
    if found := foreign_file(where):
        raise VqtrtError(f"{printable(path)}: is {found.name}, which is not read; {found.advice}")
    if not image_kind(name):
        return ImageFile(where)
    raise VqtrtError(
        f"{printable(path)}: not a data set; give an image, a folder of images, an .npy or .npz, "
        "or CIFAR as .tar.gz, .bin or folder"
    )


def _open_shapes(text: str, split: str) -> Shapes:
    numbers = text.split(":")[1:]
    if len(numbers) > 2 or not all(n.isascii() and n.isdigit() and len(n) < 20 for n in numbers):
        raise VqtrtError(f"{printable(text)}: give shapes, shapes:COUNT or shapes:COUNT:SEED")
    count = int(numbers[0]) if numbers else _SHAPES_COUNT[split]
    seed = int(numbers[1]) if len(numbers) > 1 else 0
    if seed >= _TEST_SEED:
        raise VqtrtError(f"{printable(text)}: the seed must be below 2^63")
    return Shapes(count, seed ^ _TEST_SEED if split == "test" else seed)
