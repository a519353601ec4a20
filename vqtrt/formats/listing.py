"""The list of a folder's files that `vqtrt plan` keeps: `codes/plan/000000.jsonl` for part 0.

A line for each item: `[name, label, key]`, where the key is the path if the name is not. The jobs
that share the shards read it, and do not walk the folder again: a thousand of them would keep a
network file system busy. What it lists is checked against `job.json` by whoever reads it.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.formats.journal import MAX_LINE_BYTES
from vqtrt.formats.shards import PLAN
from vqtrt.system.atomic import replacing_file
from vqtrt.system.files import open_file

_KEYS = (str, type(None))


def listing_path(folder: Path, part: int) -> Path:
    """Where the list of a part is."""
    return folder / PLAN / f"{part:06}.jsonl"


def write_listing(folder: Path, part: int, items: Iterable[Item]) -> None:
    """Write the list of a part whose keys are text or None."""
    path = listing_path(folder, part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as stage, stage.open("w", encoding="ascii") as file:
            file.writelines(f"{json.dumps(item)}\n" for item in items)
    except OSError as error:
        raise unwritable(path, error) from error


def read_listing(path: Path) -> Iterator[Item]:
    """The items of a list, one at a time; raises `VqtrtError` for a line that is no item."""
    hint = f"remove {path}, and the folder is listed again"
    try:
        with open_file(path) as file:
            while line := file.readline(MAX_LINE_BYTES):
                name, label, key = json.loads(line)
                if type(name) is not str or type(label) is not int or type(key) not in _KEYS:
                    raise ValueError("no item")
                yield Item(name, label, key)
    except OSError as error:
        raise VqtrtError(f"{path}: cannot be read ({error.strerror}); {hint}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise VqtrtError(f"{path}: has a line that is no item; {hint}") from error
