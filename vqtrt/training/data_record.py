"""What a run is trained on, and what of it is held out, kept in the run as `data.json`.

Which items are held out follows from their number and a seed: with one file more, others would be,
and those held out so far would be trained on. So a run is resumed on the data it was begun on.
"""

import logging
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

from vqtrt.config.settings import Settings, parse_settings, read_yaml
from vqtrt.data.audio.folder import AudioFolder, AudioSource
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.source import ImageSource
from vqtrt.data.source import Item
from vqtrt.errors import VqtrtError
from vqtrt.system.atomic import write_text

DATA = "data.json"
_logger = logging.getLogger("vqtrt")


class DataRecord(Settings):
    """A fingerprint of the data of a run."""

    format_version: Literal[1] = 1
    items: int
    names_sha256: str
    """Of the names of all items, sorted."""
    sizes_sha256: str
    """Of the sizes of their files, in the same order; of codes, of their shapes."""
    held_out_sha256: str
    """Of the names of those that are held out, sorted."""


def describe_items(
    source: ImageSource | AudioSource, train: Sequence[Item], held_out: Sequence[Item]
) -> DataRecord:
    """The record of a source whose items are divided; reads sizes of files, nothing else."""
    sizes = {item.name: _size(source, item) for item in (*train, *held_out)}
    return describe_names(sizes, [item.name for item in held_out])


def describe_names(sizes: dict[str, int], held_out: Iterable[str]) -> DataRecord:
    """The record of items by name."""
    names = sorted(sizes)
    return DataRecord(
        items=len(names),
        names_sha256=_digest(names),
        sizes_sha256=_digest(str(sizes[name]) for name in names),
        held_out_sha256=_digest(sorted(held_out)),
    )


def require_same_data(run: Path, now: DataRecord) -> None:
    """Raise `VqtrtError` if the run was begun on other data than those of today.

    A run of an older vqtrt has no record: that is said, and it goes on.
    """
    if not (run / DATA).is_file():
        _logger.warning(
            "%s was begun without a record of its data: be sure that they are the same, or what "
            "was held out is trained on",
            run,
        )
        return
    then = parse_settings(DataRecord, read_yaml(run / DATA), str(run / DATA))
    changed = "the data changed since the run was begun"
    mend = "bring them back, or train anew without --resume"
    if then.items != now.items:
        what = f"{changed}: {then.items} items then, {now.items} now"
    elif then.names_sha256 != now.names_sha256:
        what = f"{changed}: as many items, with other names"
    elif then.sizes_sha256 != now.sizes_sha256:
        what = f"{changed}: the same names, but some files have another size"
    elif then.held_out_sha256 != now.held_out_sha256:
        what = "other items would be held out than when the run was begun"
        mend = "leave data.holdout and train.seed as they were, or train anew without --resume"
    else:
        return
    raise VqtrtError(f"{run}: {what}; what was held out would be trained on, so {mend}")


def write_record(run: Path, record: DataRecord) -> None:
    """Keep the record in the run."""
    write_text(run / DATA, record.model_dump_json(indent=1) + "\n")


def _size(source: ImageSource | AudioSource, item: Item) -> int:
    """Bytes of an item's file; 0 for what is no file of its own, -1 for one that is missing."""
    if not isinstance(source, ImageFolder | AudioFolder):
        return 0
    try:
        return source.path(item).stat().st_size
    except OSError:
        return -1


def _digest(texts: Iterable[str]) -> str:
    digest = sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
