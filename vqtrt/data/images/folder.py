"""A folder of images, whose first-level sub-folders are classes; and a single image file."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from vqtrt.data.folder import FileTree, holds_item, listing, name_text
from vqtrt.data.images.decode import decode_image
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.data.selection import Selection, suffix_of
from vqtrt.data.source import Item, file_stamp
from vqtrt.data.suffixes import ARCHIVES, NO_IMAGES
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable

_OTHER_NAMES = """
_success changelog checksums copying licence license makefile md5sums notice readme sha1sums
sha256sums
"""
_NO_IMAGE_NAMES = frozenset(_OTHER_NAMES.split())
"""Names without a suffix that are no images."""


class ImageFolder(FileTree):
    """The images below `root`, depth first, each folder's entries sorted by name.

    The order is that of `sorted(root.rglob("*"))`. A first-level sub-folder is a class; files
    directly in `root` have label -1. Links to folders are followed unless they lead to a parent.
    A name that is not UTF-8 appears with its odd bytes escaped (`\\xff`), and can be read.

    Raises `VqtrtError` when made if `root` is missing, not a folder, or holds no image; `items`
    raises it for a sub-folder that cannot be listed.
    """

    def __init__(self, root: Path, selection: Selection | None = None) -> None:
        super().__init__(root, selection, image_kind)
        if not self.root.exists():
            raise VqtrtError(f"{printable(root)}: no such folder; check the path")
        if not self.root.is_dir():
            raise VqtrtError(
                f"{printable(root)}: not a folder; give the folder that holds the images"
            )
        if not self._holds_item(""):
            raise self.none_left("images", _hint(self.passed_over))

    @cached_property
    def _class_folders(self) -> tuple[str, ...]:
        _, folders = listing(str(self.root), "", self._judge, Counter())
        return tuple(n for n in sorted(folders) if self._holds_item(n))

    def _holds_item(self, folder: str) -> bool:
        return holds_item(str(self.root), folder, self._judge)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted names of the first-level sub-folders that hold an image, however deep."""
        return tuple(name_text(name) for name in self._class_folders)

    def items(self) -> Iterator[Item]:
        """All images in order; an image's name is its path below `root`, with `/`."""
        labels = {name: index for index, name in enumerate(self._class_folders)}
        for path in self.paths():
            first, slash, _ = path.partition("/")
            name = name_text(path)
            label = labels.get(first, -1) if slash else -1
            yield Item(name, label, None if name == path else path)

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image as (H, W, 3) uint8; `ImageError` if it cannot be read."""
        return decode_image(self.path(item), preprocessing)

    def path(self, item: Item) -> Path:
        """Where an image is."""
        return self.root / str(item.key or item.name)

    def stamp(self, item: Item) -> str:
        """The size of an image's file."""
        return file_stamp(self.path(item))


class ImageFile:
    """One image file as a source. Raises nothing before it is read."""

    classes: tuple[str, ...] = ()
    is_one_file = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def items(self) -> Iterator[Item]:
        """The image, by the name of its file."""
        yield Item(name_text(self._path.name), -1, None)

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image as (H, W, 3) uint8; `ImageError` if it cannot be read."""
        return decode_image(self._path, preprocessing)

    def path(self, item: Item) -> Path:
        """Where the image is."""
        return self._path

    def stamp(self, item: Item) -> str:
        """The size of its file."""
        return file_stamp(self._path)


def image_kind(name: str) -> str:
    """The suffix of a file that is no image by its name, or that name; "" for an image."""
    suffix = suffix_of(name)
    if suffix in NO_IMAGES:
        return suffix
    return name.lower() if name.lower() in _NO_IMAGE_NAMES else ""


def _hint(kinds: Mapping[str, int]) -> str:
    """What to do about a folder without images."""
    for kind in (".tar", ".parquet"):
        if kind in kinds:
            return f"give the files themselves, such as 'FOLDER/*{kind}'"
    if kinds.keys() & ARCHIVES:
        return "unpack the archives, or export their images as files, and give that folder"
    return "put images in it or check the path"
