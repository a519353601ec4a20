"""A folder of image files, walked lazily and in the same order on every machine.

Notable:
- Every file counts whatever its name ends with: one that is no image is found out when it is read,
  not passed over in silence. So do links that lead nowhere. Hidden files and folders do not count.
- The walk holds the names of one folder (and of its parents) at a time, never of the whole tree.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from vqtrt.data.decode import decode_image, shown
from vqtrt.data.preprocessing import Preprocessing
from vqtrt.data.source import Images, Item
from vqtrt.errors import VqtrtError


class ImageFolder:
    """The images below `root`, depth first, each folder's entries sorted by name.

    The order is that of `sorted(root.rglob("*"))`. A first-level sub-folder is a class; files
    directly in `root` have label -1. Links to folders are followed unless they lead to a parent.
    A name that is not UTF-8 appears with its odd bytes escaped (`\\xff`), and can be read.

    Raises `VqtrtError` when made if `root` is missing, not a folder, or holds no file; `items`
    raises it for a sub-folder that cannot be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not self.root.exists():
            raise VqtrtError(f"{shown(root)}: no such folder; check the path")
        if not self.root.is_dir():
            raise VqtrtError(f"{shown(root)}: not a folder; give the folder that holds the images")
        if not _holds_file(str(self.root)):
            raise VqtrtError(f"{shown(root)}: holds no files; put images in it or check the path")

    @cached_property
    def _class_folders(self) -> tuple[str, ...]:
        _, folders = _listing(str(self.root))
        return tuple(n for n in sorted(folders) if _holds_file(str(self.root / n)))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Sorted names of the first-level sub-folders that hold a file, however deep."""
        return tuple(name_text(name) for name in self._class_folders)

    def items(self) -> Iterator[Item]:
        """All files in order; a file's name is its path below `root`, with `/`."""
        labels = {name: index for index, name in enumerate(self._class_folders)}
        for path in walk(str(self.root)):
            first, slash, _ = path.partition("/")
            name = name_text(path)
            label = labels.get(first, -1) if slash else -1
            yield Item(name, label, None if name == path else path)

    def read(self, item: Item, preprocessing: Preprocessing | None = None) -> Images:
        """The image as (H, W, 3) uint8; `ImageError` where it cannot be read."""
        return decode_image(self.root / (item.key or item.name), preprocessing)


def name_text(name: str) -> str:
    """The name as text that any UTF-8 file can hold."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def _listing(folder: str) -> tuple[list[str], set[str]]:
    """Names of what counts in a folder, unsorted, and those among them that are folders."""
    names: list[str] = []
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if kind := _kind(entry):
                    names.append(entry.name)
                    if kind == "folder":
                        folders.add(entry.name)
    except OSError as error:
        raise VqtrtError(
            f"{shown(folder)}: cannot be listed ({error.strerror}); mend or remove it"
        ) from error
    return names, folders


def _kind(entry: os.DirEntry[str]) -> str:
    """One of "folder", "file", and "" for what does not count."""
    if entry.name.startswith("."):
        return ""
    try:
        if entry.is_dir():
            return "folder"
        # A link that leads nowhere is an image that is missing: reading it will say so.
        return "file" if entry.is_file() or entry.is_symlink() else ""
    except OSError:
        return "file"


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - a Path for each folder of the walk buys nothing
    return status.st_dev, status.st_ino


def walk(root: str) -> Iterator[str]:
    """Paths of all files relative to `root`."""
    names, folders = _listing(root)
    stack = [("", iter(sorted(names)), folders, _identity(root))]
    while stack:
        prefix, remaining, folders, _ = stack[-1]
        for name in remaining:
            path = prefix + name
            if name not in folders:
                yield path
                continue
            full = f"{root}/{path}"
            names, below = _listing(full)
            identity = _identity(full)
            if all(identity != parent for *_, parent in stack):
                stack.append((f"{path}/", iter(sorted(names)), below, identity))
                break
        else:
            stack.pop()


def _holds_file(root: str) -> bool:
    """Whether a file is anywhere below; stops at the first, without listing a whole folder."""
    pending, seen = [root], set()
    while pending:
        folder = pending.pop()
        try:
            identity = _identity(folder)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as entries:
                for entry in entries:
                    kind = _kind(entry)
                    if kind == "file":
                        return True
                    if kind == "folder":
                        pending.append(entry.path)
        except OSError as error:
            raise VqtrtError(
                f"{shown(folder)}: cannot be listed ({error.strerror}); mend or remove it"
            ) from error
    return False
