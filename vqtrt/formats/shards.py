"""Codes as a folder of shards: `job.json` says which there are, `shards/` holds the ones made.

codes/job.json              the header of the codes, the parts of the data, items per shard
codes/shards/000003.npy     the rows of a shard; or .parquet, with names and labels
codes/shards/000003.jsonl   a line for each of its items, then one with its counts and hashes
codes/index.json            the counts and hashes of all shards, once all are there
codes/plan/                 what `vqtrt plan` listed of folders; indexes of tars behind URLs

Notable: what a shard holds follows from `job.json` alone, never from who made it. No file holds a
time, a host, an engine or a process, and the .jsonl is renamed into place after the .npy, so that a
shard is there if its .jsonl is. Nothing is locked: whoever makes a shard a second time renames the
same bytes over it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqtrt.errors import VqtrtError, unwritable
from vqtrt.formats.audio_codes import ClipHeader
from vqtrt.formats.codes import CodesHeader, Name, Numbers
from vqtrt.formats.journal import MAX_LINE_BYTES, require_same, rows_of
from vqtrt.system.atomic import check_folder, tidy, write_bytes
from vqtrt.system.files import open_file, read_or_raise

JOB, INDEX = "job.json", "index.json"
SHARDS, PLAN = "shards", "plan"
SHARD_SIZE = 10_000
"""Items per shard by default."""
ShardFormat = Literal["npy", "parquet"]
"""What the rows of a shard are written as."""
_MAX_JOB_BYTES = 256 << 20
_MAX_SHARDS = 1_000_000
_TAIL = 4096
"""Bytes at the end of a .jsonl in which its last line lies."""


class JobPart(BaseModel):
    """A part of the data: a folder, a tar, an array. A shard never crosses the end of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    items: int = Field(ge=0)
    sha256: str
    """Of the names of its items."""


class Shard(NamedTuple):
    """Consecutive items of one part."""

    number: int
    part: int
    """Which part of the job."""
    start: int
    """Its first item in the part."""
    stop: int

    @property
    def items(self) -> int:
        """How many there are."""
        return self.stop - self.start


class Job(BaseModel):
    """What all shards follow from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: Literal[1] = 1
    header: Annotated[CodesHeader | ClipHeader, Field(discriminator="kind")]
    parts: tuple[JobPart, ...]
    shard_size: int = Field(ge=1)
    format: ShardFormat = "npy"

    @cached_property
    def text(self) -> bytes:
        """The bytes of `job.json`."""
        # json's ASCII escapes keep names that are not UTF-8; pydantic's own JSON refuses those.
        known = self.model_dump(exclude={"format"} if self.format == "npy" else None)
        return (json.dumps(known, indent=1, sort_keys=True) + "\n").encode("ascii")

    @cached_property
    def sha256(self) -> str:
        """Of those bytes; each shard holds it."""
        return hashlib.sha256(self.text).hexdigest()

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """All shards in order. Raises `VqtrtError` for more than a million."""
        counts = [-(-part.items // self.shard_size) for part in self.parts]
        if sum(counts) > _MAX_SHARDS:
            raise VqtrtError(
                f"{sum(counts):,} shards of {self.shard_size} items, and {_MAX_SHARDS:,} are the "
                "most; encode with a larger --shard-size"
            )
        made: list[Shard] = []
        for place, part in enumerate(self.parts):
            for start in range(0, part.items, self.shard_size):
                stop = min(start + self.shard_size, part.items)
                made.append(Shard(len(made), place, start, stop))
        return tuple(made)

    @property
    def items(self) -> int:
        """Items of all parts."""
        return sum(part.items for part in self.parts)


class ShardDone(NamedTuple):
    """What the last line of a shard's .jsonl says."""

    rows: int
    """Items that have codes."""
    rejected: int
    sha256: str
    """Of the .npy or the .parquet."""
    lines_sha256: str
    """Of the lines before this one."""
    content_sha256: str
    """Of its items' names, and sizes or what else tells that their bytes changed."""
    job_sha256: str


def is_sharded(path: Path) -> bool:
    """Whether a path names a folder of shards."""
    return (path / JOB).is_file()


def check_shards_folder(out: Path) -> None:
    """Raise `VqtrtError` if `out` cannot become a folder of shards, or holds other files."""
    check_folder(out)
    # Hidden: what a job left that was killed while it wrote job.json.
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if any(not name.startswith(".") and name != PLAN for name in held) and not is_sharded(out):
        raise VqtrtError(f"{out}: holds other files; name a new folder with --out")


def indexes_of(out: Path) -> Path | None:
    """The folder for the indexes of tars of a job; None if it writes one file."""
    if out.suffix == ".npy":
        return None
    check_shards_folder(out)
    return out / PLAN


def read_job(folder: Path) -> Job:
    """The job of a folder; raises `VqtrtError` if there is none or it is damaged."""
    path = folder / JOB
    data = read_or_raise(
        path,
        _MAX_JOB_BYTES,
        VqtrtError,
        missing=f"{folder}: holds no {JOB}; name a folder that `vqtrt encode --out FOLDER` made",
        large=f"{path}: larger than {_MAX_JOB_BYTES} bytes; encode again",
    )
    try:
        return Job.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise VqtrtError(f"{path}: not valid JSON; encode again") from error

        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VqtrtError(f"{path}: '{where}': {first['msg']}; encode again") from error


def write_job(folder: Path, job: Job) -> None:
    """Write `job.json`; two processes that begin at once write the same bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / JOB, job.text)
    except OSError as error:
        raise unwritable(folder, error) from error


def make_shards_folder(folder: Path) -> None:
    """Make the folder of the shards, or remove what jobs that were killed left in it."""
    try:
        (folder / SHARDS).mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    tidy(folder / SHARDS)


def require_same_job(folder: Path, old: Job, header: CodesHeader | ClipHeader) -> None:
    """Raise `VqtrtError` if a folder was begun with another header."""
    wanted = header.model_copy(update={"listing_sha256": old.header.listing_sha256})
    require_same(json.loads(json.dumps(old.header.model_dump())), wanted, folder)


def rows_path(folder: Path, job: Job, number: int) -> Path:
    """The .npy or the .parquet of a shard."""
    return folder / SHARDS / f"{number:06}.{job.format}"


def lines_path(folder: Path, number: int) -> Path:
    """The .jsonl of a shard."""
    return folder / SHARDS / f"{number:06}.jsonl"


def read_done(folder: Path, number: int) -> ShardDone | None:
    """What is known of a shard that is done; None if it is not, or its .jsonl has no last line."""
    try:
        with open_file(lines_path(folder, number)) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(folder, number, f"a .jsonl that cannot be read ({error.strerror})") from error
    try:
        last = json.loads(lines[-1])
        done = ShardDone(*(last[field] for field in ShardDone._fields))
    except (ValueError, IndexError, KeyError, TypeError, RecursionError):
        return None
    kinds = [int, int, *[str] * (len(done) - 2)]
    fits = all(type(value) is kind for value, kind in zip(done, kinds, strict=True))
    return done if fits and last.get("shard") == number else None


def damaged(folder: Path, number: int, what: str) -> VqtrtError:
    """The error of a shard that is not what it should be."""
    lines = lines_path(folder, number)
    return VqtrtError(
        f"{folder}: shard {number} has {what}; remove {lines} and run the command that makes it "
        "once more"
    )


def shards_listed(folder: Path, job: Job) -> list[int]:
    """The shards of which there is a .jsonl, by its name alone."""
    try:
        names = [path.name for path in (folder / SHARDS).iterdir()]
    except FileNotFoundError:
        return []
    wanted = {f"{shard.number:06}.jsonl": shard.number for shard in job.shards}
    return sorted(wanted[name] for name in names if name in wanted)


def done_shards(folder: Path, job: Job) -> dict[int, ShardDone]:
    """The shards that are there, by number; one of another job is not."""
    found = {number: read_done(folder, number) for number in shards_listed(folder, job)}
    return {n: done for n, done in found.items() if done and done.job_sha256 == job.sha256}


def write_index(folder: Path, job: Job, done: Mapping[int, ShardDone]) -> None:
    """Write `index.json`, once all shards are there."""
    shards = [[done[n].rows, done[n].rejected, done[n].sha256] for n in range(len(job.shards))]
    lines = ",\n".join(json.dumps(shard) for shard in shards)
    head = f'{{"format_version": 1, "job_sha256": "{job.sha256}", "shards": [\n'
    try:
        write_bytes(folder / INDEX, f"{head}{lines}\n]}}\n".encode())
    except OSError as error:
        raise unwritable(folder, error) from error


def read_lines(folder: Path, job: Job, number: int) -> Iterator[tuple[str, Numbers | str]]:
    """The items of a shard in order: name and numbers, or name and reason if it has no codes.

    Raises `VqtrtError` for a line that no item has.
    """
    try:
        with open_file(lines_path(folder, number)) as file:
            while line := file.readline(MAX_LINE_BYTES):
                entry = json.loads(line)
                if isinstance(entry, list) and rows_of(entry, job.header) is not None:
                    yield entry[0], tuple(entry[1:])
                elif "reject" in entry:
                    yield str(entry["reject"]), str(entry["reason"])
                elif "shard" not in entry:
                    raise ValueError("no item")
    except OSError as error:
        raise damaged(folder, number, f"a .jsonl that cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, number, "a line that no item has") from error
