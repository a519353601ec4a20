"""Whole data sets through a tokenizer: folder to codes file, and codes file to pictures.

Reading ahead happens in threads (`data/images/batches.py`) while the engine works on the batch
before, so both run at once; memory holds a few batches whatever the folder's size. What speech has
in common with images is here, too; the rest is in `audio/pipeline.py`.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import vqtrt
from vqtrt.config.location import ModelLocation
from vqtrt.data.folder import ImageFolder, passed_over
from vqtrt.data.images.batches import OnError, read_batches
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.rejects import reject_kinds
from vqtrt.data.source import Images, ImageSource, Item
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Codes, CodesHeader, Rejected, check_codes, read_codes
from vqtrt.formats.codes_writer import CodesWriter, ItemsWriter, check_codes_out, is_complete
from vqtrt.formats.folder_writer import FolderWriter, is_finished
from vqtrt.formats.output_names import NameLimits, name_limits, output_names
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.system.atomic import check_folder

Progress = Callable[[int, int], None]
"""Called with (items done, items in all) as the work goes on."""
Note = Callable[[str], None]
"""Called with a line for the user."""

Resumed = Callable[[int], None]
"""Called with the number of files that an earlier, interrupted job had made already."""

_COMMIT_SECONDS = 2.0
_HASHED = 1 << 12
"""Rows of codes that are hashed at once."""


class Source(Protocol):
    """What every source has, of images or of speech."""

    def items(self) -> Iterator[Item]:
        """All items in order."""


class Listing(NamedTuple):
    """What a source holds, without reading it."""

    items: int
    sha256: str
    """Of the names in their order."""
    passed_over: Mapping[str, int] = {}
    """Files of a folder that are no items, by kind."""


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


def list_source(source: Source) -> Listing:
    """Count a source's items and hash their names; they are not read."""
    digest, count = hashlib.sha256(), 0
    for item in source.items():
        digest.update(os.fsencode(item.name) + b"\0")
        count += 1
    return Listing(count, digest.hexdigest(), passed_over(source))


def encode_source(
    tokenizer: ImageTokenizer,
    source: ImageSource,
    out: Path,
    *,
    root: str,
    model: ModelLocation,
    preprocessing: Preprocessing | None = None,
    workers: int,
    on_error: OnError = "stop",
    resume: bool = False,
    progress: Progress = lambda done, total: None,
) -> EncodeResult:
    """Write the codes of a source to `out` (.npy) and a .json beside it, in the source's order.

    `preprocessing` replaces the model's own. Where an image cannot be read, raises `ImageError`
    and leaves no `out`; with `on_error="skip"` the .json lists it as rejected. What was done when
    a job stopped is kept beside `out`, and `resume` continues it; an `out` that this very job has
    finished stays. Where no image at all can be read, raises `VqtrtError` and leaves nothing.
    """
    if isinstance(source, ImageFolder):
        require_outside(out, source.root, root)
    size = preprocessing or tokenizer.preprocessing
    shape = tokenizer.code_shape(size.height, size.width)
    check_codes_out(out)
    listing = list_source(source)
    header = CodesHeader(
        codebook_size=tokenizer.codebook_size,
        num_codebooks=tokenizer.num_codebooks,
        code_shape=(shape[0], shape[1]),
        image_size=(size.height, size.width),
        classes=source.classes,
        root=root,
        listing_sha256=listing.sha256,
        weights_sha256=tokenizer.engine.weights_sha256,
        precision=tokenizer.engine.precision,
        model={"path": str(model.path), "engine": tokenizer.engine.name},
        preprocessing=size.model_dump(mode="json"),
        vqtrt_version=vqtrt.__version__,
    )
    if resume and is_complete(out, header):
        done = read_codes(out)
        return already_done(out, len(done.codes), done.rejected, listing)
    with CodesWriter(out, header=header, resume=resume) as writer:
        resumed_at, committed = writer.files_done, time.monotonic()
        progress(resumed_at, listing.items)
        for batch in read_batches(
            source,
            size,
            batch_size=tokenizer.batch_size,
            workers=workers,
            on_error=on_error,
            skip=resumed_at,
        ):
            if batch.items:
                names, labels = [i.name for i in batch.items], [i.label for i in batch.items]
                writer.write(names, labels, tokenizer.encode(batch.images))
            for item, reason in batch.rejected:
                writer.reject(item.name, reason)
            if time.monotonic() - committed > _COMMIT_SECONDS:
                writer.commit()
                committed = time.monotonic()
            progress(writer.files_done, listing.items)
        return finish(writer, listing, resumed_at, root, "an image")


def require_outside(out: Path, folder: Path, root: str) -> None:
    """Raise `VqtrtError` where `out` would be among the files that are encoded."""
    if out.parent.resolve().is_relative_to(folder.resolve()):
        raise VqtrtError(
            f"{out}: is inside {root}, whose files are encoded; give --out a path outside of it"
        )


def finish(
    writer: ItemsWriter[Any], listing: Listing, resumed_at: int, root: str, what: str
) -> EncodeResult:
    """Put the codes into place, unless the source changed meanwhile or nothing could be read."""
    total, rows = writer.files_done, writer.written
    if total != listing.items:
        raise VqtrtError(
            f"{root}: held {listing.items} files at first and {total} at the end; "
            "encode it again while nothing changes it"
        )
    if not rows:
        writer.discard()
        raise VqtrtError(
            f"{root}: none of its {total} files is {what} that can be read: there is nothing "
            "to encode; check the path (without --on-error skip, the first file's fault is "
            "named)"
        )
    kinds = writer.rejected_kinds() if rows < total else {}
    return EncodeResult(writer.finish(), rows, total - rows, resumed_at, listing.passed_over, kinds)


def already_done(
    out: Path, rows: int, rejected: Sequence[Rejected], listing: Listing
) -> EncodeResult:
    """The result of an encode that an earlier job has finished."""
    kinds = reject_kinds((reject.file, reject.reason) for reject in rejected)
    return EncodeResult(out, rows, len(rejected), listing.items, listing.passed_over, kinds)


def decode_codes(
    tokenizer: ImageTokenizer,
    codes: Codes,
    out: Path,
    *,
    workers: int,
    note: Note = lambda text: None,
    resume: bool = False,
    resumed: Resumed = lambda count: None,
    progress: Progress = lambda done, total: None,
) -> int:
    """Write every row of `codes` as a PNG below the folder `out`; returns how many.

    A picture is named like the file that its row came from, or by its row; `note` is told where
    names are too long and had to be shortened. All codes are checked first, and pictures appear in
    `out` only when all of them are decoded. What was done when a job stopped is kept (see
    `FolderWriter`), and `resume` continues it, and calls `resumed`; an `out` that this very job has
    finished stays. Raises `VqtrtError` before any work where `out` cannot be written.
    """
    check_folder(out)
    check_codes(
        codes.codes, tokenizer.codebook_size, None, tokenizer.num_codebooks, name=str(codes.path)
    )
    rows, size = len(codes.codes), tokenizer.batch_size
    names = picture_names(codes, name_limits(out), note)
    job = {
        "kind": "pictures",
        "codes_sha256": codes_sha256(codes.codes),
        "weights_sha256": tokenizer.engine.weights_sha256,
        "precision": tokenizer.engine.precision,
    }
    if resume and is_finished(out, job, names):
        resumed(rows)
        return rows
    with (
        FolderWriter(out, job, names, resume=resume) as writer,
        ThreadPoolExecutor(workers) as pool,
    ):
        resumed(len(writer.done))
        progress(len(writer.done), rows)
        for start in range(0, rows, size):
            batch = range(start, min(start + size, rows))
            # The whole batch or nothing of it, so that each picture is what it would have been.
            if writer.done.issuperset(batch):
                continue
            images = tokenizer.decode(codes.codes[batch.start : batch.stop])
            targets = [writer.path(row) for row in batch]
            # The list waits for the batch: at most one batch of pictures is in memory.
            list(pool.map(_write_picture, targets, images))
            writer.wrote(batch)
            progress(len(writer.done), rows)
        writer.finish()
    return rows


def codes_sha256(codes: NDArray[Any]) -> str:
    """SHA-256 of codes and their shape, whatever integers they are stored as."""
    digest = hashlib.sha256(str(codes.shape).encode())
    for start in range(0, len(codes), _HASHED):
        digest.update(np.ascontiguousarray(codes[start : start + _HASHED], "<i8").tobytes())
    return digest.hexdigest()


def picture_names(
    codes: Codes, limits: NameLimits | None = None, note: Note = lambda text: None
) -> list[str]:
    """A relative path ending in .png for each row, all different and none outside the folder."""
    return output_names(codes.files, len(codes.codes), codes.path, ".png", limits, note)


def _write_picture(path: Path, image: Images) -> None:
    # The folder is not in place yet, so the file need not appear all at once.
    Image.fromarray(image).save(path, "PNG")
