"""The job that decodes codes to files, one for each row or clip; it resumes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.formats.folder_writer import FolderWriter, is_finished
from vqtrt.formats.tar_writer import TarWriter, is_finished_tar
from vqtrt.jobs.loop import Progress, Resumed, Steps, run_steps
from vqtrt.system.atomic import check_file, check_folder

_HASHED = 1 << 12
"""Rows of codes that are hashed at once."""
FilesWriter = FolderWriter | TarWriter


def check_files_out(out: Path) -> None:
    """Raise `VqtrtError` if no folder or tar `out` can be written, before the work is done."""
    (check_file if _is_tar(out) else check_folder)(out)


def write_files(
    out: Path,
    job: Mapping[str, Any],
    names: Sequence[str],
    steps: Callable[[FilesWriter], Steps],
    *,
    resume: bool,
    resumed: Resumed,
    keep: bool = True,
    progress: Progress,
) -> int:
    """Run the steps of a job until every file of `names` is written, and put `out` into place.

    `out` is a folder, or a tar if it ends in .tar.

    `job` identifies what the files depend on. `steps(writer)` writes the files that are not in
    `writer.done`, and says so by `writer.wrote`. With `keep`, what was
    done when a job stopped is kept for `resume`. An `out` that this job has finished stays.
    Returns the number of files.
    """
    if resume and (is_finished_tar if _is_tar(out) else is_finished)(out, job, names):
        resumed(len(names))
        return len(names)
    writer: FilesWriter
    if _is_tar(out):
        writer = TarWriter(out, job, names, resume=resume)
    else:
        writer = FolderWriter(out, job, names, resume=resume, keep=keep)
    with writer:
        resumed(len(writer.done))
        run_steps(steps(writer), len(names), progress, first=len(writer.done))
        writer.finish()
    return len(names)


def _is_tar(out: Path) -> bool:
    return out.suffix == ".tar" and not out.is_dir()


def codes_sha256(codes: NDArray[Any]) -> str:
    """SHA-256 of codes and their shape, whatever integers they are stored as."""
    digest = hashlib.sha256(str(codes.shape).encode())
    for start in range(0, len(codes), _HASHED):
        digest.update(np.ascontiguousarray(codes[start : start + _HASHED], "<i8").tobytes())
    return digest.hexdigest()
