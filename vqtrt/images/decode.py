"""A codes file through a tokenizer, to a folder of pictures (`vqtrt decode`)."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from vqtrt.data.images.source import Images
from vqtrt.data.reading import default_workers
from vqtrt.formats.code_values import check_codes
from vqtrt.formats.codes import Codes, require_one_view
from vqtrt.formats.output_names import NameLimits, name_limits, output_names
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.decode import FilesWriter, check_files_out, codes_sha256, write_files
from vqtrt.jobs.loop import Note, Progress, Resumed, Steps, ignore


def decode_codes(
    tokenizer: ImageTokenizer,
    codes: Codes,
    out: Path,
    *,
    workers: int | None = None,
    note: Note = lambda text: None,
    resume: bool = False,
    resumed: Resumed = lambda count: None,
    progress: Progress = ignore,
) -> int:
    """Write every row of `codes` as a PNG into a folder or a .tar, `out`; returns how many.

    A picture is named like the file that its row came from, or by its row; `note` is told where
    names are too long and had to be shortened. All codes are checked first, and pictures appear in
    `out` only when all of them are decoded. `resume` continues a job that was interrupted, and
    calls `resumed`. Raises `VqtrtError` before any work if `out` cannot be written.
    """
    check_files_out(out)
    require_one_view(codes)
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

    def steps(writer: FilesWriter) -> Steps:
        with ThreadPoolExecutor(workers or default_workers()) as pool:
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
                yield len(writer.done)

    return write_files(out, job, names, steps, resume=resume, resumed=resumed, progress=progress)


def picture_names(
    codes: Codes, limits: NameLimits | None = None, note: Note = lambda text: None
) -> list[str]:
    """A relative path ending in .png for each row, all different and none outside the folder."""
    return output_names(codes.files, len(codes.codes), codes.path, ".png", limits, note)


def _write_picture(path: Path, image: Images) -> None:
    # The folder is not in place yet, so the file need not appear all at once.
    Image.fromarray(image).save(path, "PNG")
