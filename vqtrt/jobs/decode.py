"""The job that decodes codes into a folder of files, one for each row or clip; it resumes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.formats.folder_writer import FolderWriter, is_finished
from vqtrt.jobs.loop import Progress, Resumed, Steps, run_steps

_HASHED = 1 << 12
"""Rows of codes that are hashed at once."""


def write_files(
    out: Path,
    job: Mapping[str, Any],
    names: Sequence[str],
    steps: Callable[[FolderWriter], Steps],
    *,
    resume: bool,
    resumed: Resumed,
    keep: bool = True,
    progress: Progress,
) -> int:
    """Run the steps of a job until every file of `names` is written, and put the folder into place.

    `job` identifies what the files depend on. `steps(writer)` writes the files that are not in
    `writer.done`, and says so by `writer.wrote`. With `keep`, what was
    done when a job stopped is kept for `resume`. An `out` that this job has finished stays.
    Returns the number of files.
    """
    if resume and is_finished(out, job, names):
        resumed(len(names))
        return len(names)
    with FolderWriter(out, job, names, resume=resume, keep=keep) as writer:
        resumed(len(writer.done))
        run_steps(steps(writer), len(names), progress, first=len(writer.done))
        writer.finish()
    return len(names)


def codes_sha256(codes: NDArray[Any]) -> str:
    """SHA-256 of codes and their shape, whatever integers they are stored as."""
    digest = hashlib.sha256(str(codes.shape).encode())
    for start in range(0, len(codes), _HASHED):
        digest.update(np.ascontiguousarray(codes[start : start + _HASHED], "<i8").tobytes())
    return digest.hexdigest()
