"""Folders and files that a tokenizer encodes from Python, as `vqtrt encode` takes them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from vqtrt.data.reading import OnError, default_workers
from vqtrt.data.selection import Selection
from vqtrt.data.several import expanded_paths, open_each
from vqtrt.data.source import Source
from vqtrt.data.urls import public_url
from vqtrt.formats.shards import ShardFormat
from vqtrt.jobs.encode import EncodeOptions
from vqtrt.jobs.loop import Progress, ignore

S = TypeVar("S", bound=Source)
_OF_SHARDS = ("shard_size", "format", "turn")


class FileOptions(TypedDict, total=False):
    """Which files `encode_files` of a tokenizer encodes, and how."""

    preprocessing: Any
    """In place of the model's own, such as `tokenizer.preprocessing.with_size("64")`."""
    include: Sequence[str]
    """Patterns of files to take; all by default."""
    exclude: Sequence[str]
    """Patterns of files and folders to leave out."""
    workers: int | None
    """Threads that read files; one per usable core by default, at most 16."""
    on_error: OnError
    """`stop` at a file that cannot be read (the default), or `skip` it."""
    resume: bool
    """Continue this job if it was interrupted; a folder of shards always is."""
    shard_size: int
    """Items per shard (default 10,000), if the output is a folder of shards."""
    format: ShardFormat
    """What the rows of shards are written as: `npy` (the default), or `parquet`."""
    turn: tuple[int, int]
    """(i, n): only shards i, i + n, i + 2n and so on."""
    progress: Progress
    """Called with the number of items done, and of all."""


def selection(options: FileOptions) -> Selection:
    """The patterns of files to take and to leave out."""
    return Selection(options.get("include", ()), options.get("exclude", ()))


def open_files(
    paths: str | Path | Sequence[str | Path], open_one: Callable[[str], S], options: FileOptions
) -> tuple[S, EncodeOptions]:
    """The source of one path or of several, and what an encode of it is told."""
    names = [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    chosen: EncodeOptions = {
        "root": " ".join(map(public_url, names)),
        "workers": options.get("workers") or default_workers(),
        "preprocessing": options.get("preprocessing"),
        "on_error": options.get("on_error", "stop"),
        "resume": options.get("resume", False),
        "progress": options.get("progress", ignore),
    }
    chosen |= {name: options[name] for name in _OF_SHARDS if name in options}  # type: ignore
    return open_each(expanded_paths(names), open_one), chosen
