"""Files that training passes over because they cannot be read (`data.on_error: skip`).

Notable: the next item in the data's order that can be read takes the place of such a file. So a
batch still follows from (seed, step), no other item moves, and a resumed run sees what an unbroken
one saw, whenever either found the file out.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import TypeVar

from vqtrt.data.audio.folder import AudioFolder, AudioSource, conversion_hint
from vqtrt.data.audio.open import speaker_note
from vqtrt.data.folder import passed_over
from vqtrt.data.images.source import ImageSource
from vqtrt.data.reading import OnError
from vqtrt.data.selection import in_words
from vqtrt.data.source import Item
from vqtrt.errors import AudioError, ImageError, VqtrtError, unwritable

T = TypeVar("T")

FILE = "skipped.jsonl"
"""In the run's folder: a JSON object a line, with `file` and `reason`."""


class Skipped:
    """The files of a training set that were passed over, each told once. Safe in threads.

    `items` are those to train on, in the data's order.
    """

    def __init__(self, on_error: OnError, items: Sequence[Item]) -> None:
        self._on_error, self._items = on_error, items
        self._places: dict[str, int] = {}
        self._reasons: dict[str, str] = {}
        self._told: set[str] = set()
        self._path: Path | None = None
        self._tell: Callable[[str], None] = lambda text: None
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._reasons)

    def add(self, item: Item, error: ImageError | AudioError) -> None:
        """Pass over an item; raises the error instead if that is not wanted."""
        if self._on_error == "stop":
            raise error
        with self._lock:
            self._reasons.setdefault(item.name, str(error))
            self._report()

    def read(self, item: Item, read: Callable[[Item], T]) -> tuple[Item, T]:
        """An item and what `read` gives of it; of one that cannot be read, those of the next.

        Raises `VqtrtError` where none can.
        """
        for candidate in self._from(item):
            if candidate.name in self._reasons:
                continue
            try:
                return candidate, read(candidate)
            except (ImageError, AudioError) as error:
                self.add(candidate, error)
        raise self.nothing_left(f"all {len(self._items)} files to train on")

    def _from(self, item: Item) -> Iterator[Item]:
        """The item, and after it all others, in the data's order and round again."""
        yield item
        with self._lock:
            if not self._places:
                self._places = {other.name: i for i, other in enumerate(self._items)}
        place, count = self._places[item.name], len(self._items)
        for step in range(1, count):
            yield self._items[(place + step) % count]

    def nothing_left(self, which: str) -> VqtrtError:
        """What to raise where no file of those is left."""
        name, reason = next(iter(self._reasons.items()), ("", "none"))
        return VqtrtError(f"{which} cannot be read, such as {name} ({reason}); mend the data")

    def begin(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Tell what was passed over, from now on as it is found, and list it in the run's folder.

        What the list has already is not told again. Raises `VqtrtError` where it cannot be written.
        """
        with self._lock:
            self._path, self._tell = folder / FILE, tell
            self._told = set(listed(folder))
            self._report()

    def summary(self) -> str | None:
        """How many files were passed over, in all processes and before a resume; None for none."""
        if self._path is None or not (count := len(set(listed(self._path.parent)))):
            return None
        return f"skipped {count} files that cannot be read; see {self._path}"

    def _report(self) -> None:
        if self._path is None:
            return
        for name in [name for name in self._reasons if name not in self._told]:
            reason = self._reasons[name]
            self._told.add(name)
            self._tell(f"skipped {name}: {reason}")
            line = json.dumps({"file": name, "reason": reason})
            try:
                # Opened for each: a process of several appends whole lines to what others wrote.
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
            except OSError as error:
                raise unwritable(self._path, error) from error


def data_notes(source: ImageSource | AudioSource) -> list[str]:
    """What a user has to know of the data that training begins on."""
    notes = []
    speech = isinstance(source, AudioFolder)
    if kinds := passed_over(source):
        hint = conversion_hint(kinds) if speech else ""
        text = f"passed over {sum(kinds.values())} files: {in_words(kinds)}"
        notes.append(f"{text}; {hint}" if hint else text)
    if isinstance(source, AudioFolder) and (text := speaker_note(source) or ""):
        notes.append(text)
    return notes


def listed(folder: Path) -> list[str]:
    """Names that a run's list has; a line that a crash tore is left out.

    Raises `VqtrtError` for a list that cannot be read.
    """
    try:
        lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise VqtrtError(
            f"{folder / FILE}: cannot be read ({error.strerror}); mend or remove it"
        ) from error
    names = []
    for line in lines:
        try:
            names.append(str(json.loads(line)["file"]))
        except (ValueError, TypeError, KeyError):
            continue
    return names
