"""The job that encodes a source into a folder of shards, or its share of them.

Notable: the same command continues an interrupted job, on this machine or on another one. Jobs that
do shards 0, 3, 6…, 1, 4, 7… and 2, 5, 8… need not know of each other, and together write the same
bytes as one job that does all.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from vqtrt.data.folder import passed_over
from vqtrt.data.parts import Listed, Part, content_sha256, parts_of, survey
from vqtrt.data.rejects import reject_kinds
from vqtrt.data.source import Item, Source
from vqtrt.errors import VqtrtError, add_hint
from vqtrt.formats.listing import listing_path, read_listing, write_listing
from vqtrt.formats.shards import (
    SHARD_SIZE,
    Job,
    JobPart,
    Shard,
    ShardDone,
    check_shards_folder,
    done_shards,
    is_sharded,
    lines_path,
    make_shards_folder,
    read_job,
    read_lines,
    require_same_job,
    write_index,
    write_job,
)
from vqtrt.jobs.encode import EncodeOptions, EncodeParts, EncodeResult, header_fields
from vqtrt.jobs.loop import Steps, ignore, nothing_read, run_steps
from vqtrt.jobs.tokenizer import Tokenizer


def run_shards(
    tokenizer: Tokenizer,
    source: Source,
    out: Path,
    options: EncodeOptions,
    parts: EncodeParts[Any],
) -> EncodeResult:
    """Write the shards that are not there yet; the counts also include those that were.

    Which shards: `options["numbers"]` or `options["turn"]`; all by default.

    Raises `VqtrtError` if `out` holds something else or shards of another job, if the data changed
    since the job began, or if none of its items can be read.
    """
    check_shards_folder(out)
    places = parts_of(source, options["root"])
    job = _job(tokenizer, source, places, out, options, parts)
    if options.get("plan", False):
        for number, place in enumerate(places):
            if folder := place.folder:
                write_listing(out, number, folder.items())
        return EncodeResult(out, 0, 0, 0, passed_over(source))
    make_shards_folder(out)
    before, own = done_shards(out, job), set[int]()
    numbers, total, there = options.get("numbers"), job.items, list[int]()
    if numbers is None:
        turn, turns = options.get("turn", (0, 1))
        numbers = range(turn, len(job.shards), turns)
        total = sum(job.shards[number].items for number in numbers)
        there = [number for number in numbers if number in before]
    first, kept = sum(job.shards[number].items for number in there), len(there)
    shares = options.get("turn", (0, 1))[1] > 1 or "numbers" in options

    def steps() -> Steps:
        nonlocal kept
        items, done = _Items(source, places, job, out, before, planned=shares), first
        for number in numbers:
            own.add(number)
            shard = job.shards[number]
            chosen = items.of(shard)
            if shard.number in before:
                continue
            content, writer = content_sha256(source, chosen), parts.shard(out, job, shard.number)
            with closing(parts.steps(Listed(source, chosen), writer, 0)) as running:
                for count in running:
                    yield done + count
            with parts.stages.of("write"):
                writer.finish(content)
            kept, done = kept + 1, done + shard.items

    try:
        run_steps(steps(), total, options.get("progress", ignore), first=first)
    except BaseException as error:
        if kept:
            add_hint(error, f"{kept} shards are kept in {out}; the same command continues")
        raise
    made = done_shards(out, job)
    ends = [made[number] for number in own]
    rows, rejected = sum(end.rows for end in ends), sum(end.rejected for end in ends)
    if len(made) == len(job.shards):
        if not any(end.rows for end in made.values()):
            raise nothing_read(options["root"], job.items, parts.item)
        write_index(out, job, made)
    kinds = reject_kinds(_rejects(out, job, own)) if rejected else {}
    # A share of the shards says nothing of other files, which only a walk would tell.
    others = {} if shares else passed_over(source)
    return EncodeResult(out, rows, rejected, first, others, kinds, parts.stages.shares())


def _job(
    tokenizer: Tokenizer,
    source: Source,
    places: list[Part],
    out: Path,
    options: EncodeOptions,
    parts: EncodeParts[Any],
) -> Job:
    """The job of a folder, which is written if this is its first process."""
    old = read_job(out) if is_sharded(out) else None
    surveyed = [] if old else [survey(place.items()) for place in places]
    fields = header_fields(
        tokenizer.engine,
        options.get("model") or tokenizer.located(),
        classes=source.classes,
        root=options["root"],
        listing_sha256=hashlib.sha256("".join(s.sha256 for s in surveyed).encode()).hexdigest(),
    )
    # Where the model lies and what runs it differ from machine to machine, and codes do not.
    header = parts.header({**fields, "model": {}})
    if old is None:
        found = tuple(
            JobPart(name=place.name, items=one.items, sha256=one.sha256)
            for place, one in zip(places, surveyed, strict=True)
        )
        job = Job(
            header=header,
            parts=found,
            shard_size=options.get("shard_size", SHARD_SIZE),
            format=options.get("format", "npy"),
        )
        if not job.shards:
            raise nothing_read(options["root"], 0, parts.item)
        write_job(out, job)
        return job
    require_same_job(out, old, header)
    if (kind := options.get("format", old.format)) != old.format:
        raise VqtrtError(
            f"{out}: has shards of format {old.format}, not {kind}; leave --format out, or name a "
            "new folder with --out"
        )
    size = options.get("shard_size", old.shard_size)
    if size != old.shard_size:
        raise VqtrtError(
            f"{out}: has {old.shard_size} items per shard, not {size}; leave --shard-size out, or "
            "name a new folder with --out"
        )
    if len(places) != len(old.parts):
        raise VqtrtError(
            f"{out}: was begun with {len(old.parts)} folders or files, not {len(places)}; give "
            "the same, or name a new folder with --out"
        )
    return old


class _Items:
    """The items of shards; each part is gone through twice, if its shards come in order."""

    def __init__(
        self,
        source: Source,
        places: list[Part],
        job: Job,
        out: Path,
        before: Mapping[int, ShardDone],
        *,
        planned: bool,
    ) -> None:
        """`planned`: take the list of a folder from the plan, if it is there."""
        self._source, self._places, self._job = source, places, job
        self._out, self._before, self._planned = out, before, planned
        self._part, self._at = -1, 0
        self._walk: Iterator[Item] = iter(())

    def of(self, shard: Shard) -> list[Item]:
        """The items of a shard.

        Raises `VqtrtError` if its part has other items than the job says, or if the shard was made
        of files of other sizes.
        """
        if shard.part != self._part or shard.start < self._at:
            part = self._job.parts[shard.part]
            if survey(self._walk_of(shard.part)) != (part.items, part.sha256):
                raise VqtrtError(
                    f"{part.name}: its list of files changed since {self._out} was begun; bring "
                    "them back, or name a new folder with --out"
                )
            self._part, self._at, self._walk = shard.part, 0, self._walk_of(shard.part)
        skip = shard.start - self._at
        self._at = shard.stop
        items = list(itertools.islice(self._walk, skip, skip + shard.items))
        done = self._before.get(shard.number)
        if done and done.content_sha256 != content_sha256(self._source, items):
            raise VqtrtError(
                f"{self._job.parts[shard.part].name}: files {shard.start} to {shard.stop - 1} "
                f"changed since shard {shard.number} of {self._out} was made of them; remove "
                f"{lines_path(self._out, shard.number)} to encode them again"
            )
        return items

    def _walk_of(self, part: int) -> Iterator[Item]:
        place, listing = self._places[part], listing_path(self._out, part)
        if self._planned and place.folder and listing.exists():
            return place.items(read_listing(listing))
        return place.items()


def _rejects(folder: Path, job: Job, numbers: set[int]) -> Iterator[tuple[str, str]]:
    for number in sorted(numbers):
        for name, known in read_lines(folder, job, number):
            if isinstance(known, str):
                yield name, known
