"""A folder of files, walked lazily and in the same order on every machine.

Notable:
- Every file is an item unless its name says that it is something else: sidecars (`.json`, `.txt`),
  archives, and what systems leave (`Thumbs.db`) are counted by kind and passed over.
  A file of another name that is no image or recording is found out when it is read; so are links
  that lead nowhere.
- The walk holds the names of one folder (and of its parents) at a time, never of the whole tree.
"""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from vqtrt.data.selection import Judge, Selection, add_kind, in_words
from vqtrt.data.several import parts
from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable


class Tree(ABC):
    """Files that are items, and how many others there are of which kind.

    `where` names the folder or the tar. `own` gives the kind of a file's name, "" for items (see
    `Selection.judge`).
    """

    def __init__(self, where: str, selection: Selection | None, own: Callable[[str], str]) -> None:
        self._where = where
        self.selection = selection or Selection()
        self._judge = self.selection.judge(own)
        self._passed_over: Counter[str] | None = None

    @abstractmethod
    def paths(self) -> Iterator[str]:
        """Paths of the items in order; at the end, `_passed_over` counts the others."""

    @property
    def passed_over(self) -> dict[str, int]:
        """Files that are no items, by kind, as the last whole walk found them.

        A folder that is passed over as a whole counts as one.
        """
        if self._passed_over is None:
            for _ in self.paths():
                pass
        return dict(self._passed_over or {})

    def none_left(self, items: str, hint: str) -> VqtrtError:
        """What to raise where there is no item."""
        if not self.passed_over:
            return VqtrtError(
                f"{printable(self._where)}: holds no {items}; put some in it or check the path"
            )
        if self.selection:
            hint = f"check --include and --exclude, and the path; {hint}"
        return VqtrtError(
            f"{printable(self._where)}: holds no {items}, only {in_words(self.passed_over)}; {hint}"
        )


class FileTree(Tree):
    """The files below `root` that are items."""

    def __init__(self, root: Path, selection: Selection | None, own: Callable[[str], str]) -> None:
        super().__init__(str(root), selection, own)
        self.root = Path(root)

    @property
    def is_one_file(self) -> bool:
        """Whether `root` is a file."""
        return self.root.is_file()

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """The files in order."""

    def paths(self) -> Iterator[str]:
        """Paths below the root of the items, depth first, each folder's entries by name."""
        counts = Counter[str]()
        yield from walk(str(self.root), self._judge, counts)
        self._passed_over = counts


def passed_over(source: object) -> Mapping[str, int]:
    """Files of a source that are no items, by kind; empty for a source that is no folder."""
    counts = Counter[str]()
    for part in parts(source):
        if isinstance(part, Tree):
            counts.update(part.passed_over)
    return dict(counts)


def folders(source: object) -> Iterator[Path]:
    """The folders whose files a source reads."""
    for part in parts(source):
        if isinstance(part, FileTree) and part.root.is_dir():
            yield part.root


def name_text(name: str) -> str:
    """The name as text that any UTF-8 file can hold."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def listing(
    folder: str, prefix: str, judge: Judge, counts: Counter[str]
) -> tuple[list[str], set[str]]:
    """Names of what counts in a folder, unsorted, and those among them that are folders."""
    names: list[str] = []
    folders: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                is_folder, special = _form(entry)
                # A hidden or excluded pipe is counted as what it is to the user.
                kind = judge(prefix + entry.name, is_folder) or special
                if kind:
                    add_kind(counts, kind)
                    continue
                names.append(entry.name)
                if is_folder:
                    folders.add(entry.name)
    except OSError as error:
        raise _unlistable(folder, error) from error
    return names, folders


def _form(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Whether an entry is a folder; and `special` for a pipe, socket or device."""
    try:
        if entry.is_dir():
            return True, ""
        # A link that leads nowhere is a file that is missing: reading it will say so.
        return False, "" if entry.is_file() or entry.is_symlink() else "special"
    except OSError:
        return False, ""


def _identity(folder: str) -> tuple[int, int]:
    try:
        status = os.stat(folder)  # noqa: PTH116 - a Path for each folder buys nothing
    except OSError as error:
        raise _unlistable(folder, error) from error
    return status.st_dev, status.st_ino


def _unlistable(folder: str, error: OSError) -> VqtrtError:
    return VqtrtError(
        f"{printable(folder)}: cannot be listed ({error.strerror}); mend, remove or exclude it"
    )


def walk(root: str, judge: Judge, counts: Counter[str] | None = None) -> Iterator[str]:
    """Paths relative to `root` of all files that count; `counts` gets the others, by kind."""
    if counts is None:
        counts = Counter()
    names, folders = listing(root, "", judge, counts)
    stack = [("", iter(sorted(names)), folders, _identity(root))]
    while stack:
        prefix, remaining, folders, _ = stack[-1]
        for name in remaining:
            path = prefix + name
            if name not in folders:
                yield path
                continue
            full = f"{root}/{path}"
            identity = _identity(full)
            if all(identity != parent for *_, parent in stack):
                names, below = listing(full, f"{path}/", judge, counts)
                stack.append((f"{path}/", iter(sorted(names)), below, identity))
                break
        else:
            stack.pop()


def holds_item(root: str, folder: str, judge: Judge) -> bool:
    """Whether an item is anywhere below; stops at the first, without listing a whole folder."""
    pending, seen = [folder], set()
    while pending:
        folder = pending.pop()
        full, prefix = (f"{root}/{folder}", f"{folder}/") if folder else (root, "")
        try:
            identity = _identity(full)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(full) as entries:
                for entry in entries:
                    is_folder, special = _form(entry)
                    path = prefix + entry.name
                    if judge(path, is_folder) or special:
                        continue
                    if not is_folder:
                        return True
                    pending.append(path)
        except OSError as error:
            raise _unlistable(full, error) from error
    return False
