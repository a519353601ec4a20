"""The job that encodes a source: list it, read and tokenize, commit every few seconds, resume.

A modality gives the header of its codes and the steps that write them; which items they are, and
when they are safe on disk, is decided here.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, Required, TypedDict, TypeVar

from vqtrt.config.location import ModelLocation
from vqtrt.data.folder import folders, passed_over
from vqtrt.data.parts import Contents, Listed, survey
from vqtrt.data.reading import OnError
from vqtrt.data.rejects import reject_kinds
from vqtrt.data.source import Item, Source
from vqtrt.engines.base import Engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Rejected
from vqtrt.formats.codes_writer import ItemsWriter, check_codes_out, is_complete
from vqtrt.formats.shards import Job, ShardFormat
from vqtrt.jobs.loop import Progress, Steps, ignore, nothing_read, run_steps
from vqtrt.jobs.stages import Stages
from vqtrt.jobs.tokenizer import Tokenizer
from vqtrt.version import __version__

W = TypeVar("W", bound=ItemsWriter[Any])

_COMMIT_SECONDS = 2.0


class EncodeOptions(TypedDict, total=False):
    """How a source is encoded, whatever its modality."""

    root: Required[str]
    """The data as the user named them, for the header and for errors."""
    model: ModelLocation
    """Which model encodes, for the header (default: the tokenizer's own location)."""
    preprocessing: Any
    """In place of the model's own."""
    workers: Required[int]
    """Threads that read."""
    on_error: OnError
    """At an item that cannot be read: raise its error (the default), or list it as rejected."""
    resume: bool
    """Continue a job that was interrupted; what was done is kept beside the output."""
    shard_size: int
    """Items per shard (default 10,000), if the output is a folder of shards."""
    format: ShardFormat
    """What the rows of shards are written as: `npy` (the default), or `parquet`."""
    turn: tuple[int, int]
    """(i, n): of those, only shards i, i + n, i + 2n and so on."""
    numbers: Iterable[int]
    """In their place, numbers of shards. They are asked for one by one, each when the shard before
    it is in place, so that what gives them can hand out work."""
    plan: bool
    """Only write `job.json` of a folder of shards."""
    progress: Progress
    """Called with the number of items done, and of all."""


class Listing(NamedTuple):
    """What a source holds, without reading it."""

    items: int
    sha256: str
    """Of the names in their order."""
    passed_over: Mapping[str, int] = {}
    """Files of a folder that are no items, by kind."""


@dataclass(frozen=True)
class EncodeParts(Generic[W]):
    """What a modality gives to the job that encodes."""

    item: str
    """What an item is, for errors: `an image`."""
    header: Callable[[dict[str, Any]], Any]
    """The header of the codes, of the fields that all codes have."""
    writer: Callable[..., W]
    """The writer of codes to a path, with a `header`, and with `resume`."""
    read: Callable[[Path], tuple[int, Sequence[Rejected]]]
    """Rows and rejected items of a codes file."""
    shard: Callable[[Path, Job, int], Any]
    """The writer of a shard of a folder."""
    stages: Stages
    """What `steps` counts its time with."""
    steps: Callable[[Any, Any, int], Steps]
    """Writes all items of a source after the first so many to a writer, or rejects them."""


class EncodeResult(NamedTuple):
    """What an encode wrote."""

    out: Path
    rows: int
    """Items that have codes."""
    rejected: int
    resumed_at: int
    """Items that an earlier, interrupted job had done already."""
    passed_over: Mapping[str, int] = {}
    """Files of a folder that are no items, by kind: `{".json": 3, "system": 1}`."""
    rejected_kinds: Mapping[str, int] = {}
    """Items without codes by suffix and reason."""
    stages: Mapping[str, float] = {}
    """Shares of the time: `read`, `engine`, `write`."""


def list_source(source: Source) -> Listing:
    """Count a source's items and hash their names; they are not read."""
    found = survey(source.items())
    return Listing(found.items, found.sha256, passed_over(source))


def header_fields(
    engine: Engine,
    model: ModelLocation,
    *,
    classes: tuple[str, ...],
    root: str,
    listing_sha256: str,
) -> dict[str, Any]:
    """What the header of codes says whatever they are of: which model made what. The only place."""
    return {
        "codebook_size": engine.info.codebook_size,
        "classes": classes,
        "root": root,
        "listing_sha256": listing_sha256,
        "weights_sha256": engine.weights_sha256,
        "precision": engine.precision,
        "model": {"path": str(model.path), "engine": engine.name},
        "vqtrt_version": __version__,
    }


def sample_fields(
    engine: Engine,
    model: ModelLocation,
    names: Sequence[str],
    classes: tuple[str, ...],
    *,
    prior: str,
    seed: int,
) -> dict[str, Any]:
    """`header_fields` of samples of a prior."""
    return header_fields(
        engine,
        model,
        classes=classes,
        root=f"prior {prior}, seed {seed}",
        listing_sha256=hashlib.sha256("\0".join(names).encode()).hexdigest(),
    )


def run_encode(
    tokenizer: Tokenizer,
    source: Source,
    out: Path,
    options: EncodeOptions,
    parts: EncodeParts[W],
) -> EncodeResult:
    """Write the codes of a source to `out`; an `out` that this very job has finished stays.

    Raises `VqtrtError`, and leaves nothing, if no item can be read, or if the source changed.
    """
    check_codes_out(out)
    listing, resume = list_source(source), options.get("resume", False)
    header = parts.header(
        header_fields(
            tokenizer.engine,
            options.get("model") or tokenizer.located(),
            classes=source.classes,
            root=options["root"],
            listing_sha256=listing.sha256,
        )
    )
    if resume and is_complete(out, header):
        rows, rejected = parts.read(out)
        kinds = reject_kinds((reject.file, reject.reason) for reject in rejected)
        return EncodeResult(out, rows, len(rejected), listing.items, listing.passed_over, kinds)
    writer = parts.writer(out, header=header, resume=resume)
    return _write_codes(source, writer, parts, listing, options)


def _write_codes(
    source: Source, writer: W, parts: EncodeParts[W], listing: Listing, options: EncodeOptions
) -> EncodeResult:
    """Run the steps of a job until all items are written, and put the codes into place."""
    progress, committed = options.get("progress", ignore), time.monotonic()

    def step_done(done: int, total: int) -> None:
        nonlocal committed
        if time.monotonic() - committed > _COMMIT_SECONDS:
            with parts.stages.of("write"):
                writer.commit()
            committed = time.monotonic()
        progress(done, total)

    with writer:
        resumed_at = writer.files_done
        walked = _keep_content(source, writer, options["root"])
        steps = parts.steps(Listed(source, walked), writer, resumed_at)
        run_steps(steps, listing.items, step_done, first=resumed_at)
        return _finish(writer, listing, resumed_at, options["root"], parts)


def _keep_content(source: Source, writer: W, root: str) -> Iterator[Item]:
    """The items of a source, of which the writer's commits will have a hash.

    Raises `VqtrtError` if those that are done already changed since.
    """
    first, pending, contents = writer.files_done, deque[Item](), Contents(source)
    for item in islice(source.items(), first):
        contents.add(item)
    if writer.committed_content not in (None, contents.sha256):
        raise VqtrtError(
            f"{root}: some of the first {first} files changed since their codes were made; bring "
            "them back, or start anew without --resume"
        )

    def content() -> str:
        while contents.count < writer.files_done:
            contents.add(pending.popleft())
        return contents.sha256

    def walked() -> Iterator[Item]:
        for place, item in enumerate(source.items()):
            if place >= first:
                pending.append(item)
            yield item

    writer.content = content
    return walked()


def _finish(
    writer: W, listing: Listing, resumed_at: int, root: str, parts: EncodeParts[W]
) -> EncodeResult:
    total, rows = writer.files_done, writer.written
    if total != listing.items:
        raise VqtrtError(
            f"{root}: held {listing.items} files at first and {total} at the end; "
            "encode it again while nothing changes it"
        )
    if not rows:
        writer.discard()
        raise nothing_read(root, total, parts.item)
    kinds = writer.rejected_kinds() if rows < total else {}
    with parts.stages.of("write"):
        out = writer.finish()
    shares = parts.stages.shares()
    return EncodeResult(out, rows, total - rows, resumed_at, listing.passed_over, kinds, shares)


def require_outside(out: Path, source: object) -> None:
    """Raise `VqtrtError` if `out` would be among the files that are encoded."""
    for folder in folders(source):
        if out.parent.resolve().is_relative_to(folder.resolve()):
            raise VqtrtError(
                f"{out}: is inside {folder}, whose files are encoded; give --out a path outside it"
            )
