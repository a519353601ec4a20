"""A run: the folder that training writes and everything later reads.

config.yaml          all settings, as `vqtrt.config.images.Config`
model.safetensors    the weights of the newest checkpoint
metrics.jsonl        a JSON object a line: training figures, and evaluations
data.json            what was trained on and held out, as `data_record.DataRecord`
checkpoints/         what `--resume` continues from
reconstructions/     a PNG an evaluation: originals over reconstructions
tensorboard/         the same figures for TensorBoard
bundle/              what `vqtrt export` writes
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vqtrt.config.location import CONFIG
from vqtrt.config.settings import Settings
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.system.atomic import check_folder, tidy, write_text
from vqtrt.system.locks import only_writer
from vqtrt.training.data_record import DataRecord, require_same_data, write_record
from vqtrt.training.ranks import Ranks

if TYPE_CHECKING:
    from accelerate import Accelerator

_LOCK = ".lock"


@contextmanager
def open_folder(
    path: Path,
    config: Settings,
    accelerator: "Accelerator",
    data: DataRecord,
    *,
    resume: bool,
    option: str,
) -> Iterator[Callable[[], None]]:
    """A run's folder while it is trained in: new or empty, or with `resume` one that may exist.

    The main process makes and locks it, the others wait. Gives what to call when training is about
    to begin: only then are the settings of a resumed run replaced. A new folder goes again if what
    is done before that fails. `option` of the command line would name another folder.

    Raises `VqtrtError` where another process trains there, or the run was begun on other data.
    """
    ranks, main = Ranks(), accelerator.is_main_process
    with _kept(path, config, data, resume, option) if main else nullcontext(_nothing) as begin:
        ranks.wait()
        yield begin


def _nothing() -> None: ...


@contextmanager
def _kept(
    path: Path, config: Settings, data: DataRecord, resume: bool, option: str
) -> Iterator[Callable[[], None]]:
    """`open_folder` in the main process."""
    resumed = resume and (path / CONFIG).is_file()
    if not resumed:
        require_new(path, option)
        with _writing(path):
            path.mkdir(parents=True, exist_ok=True)
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True
        with _writing(path):
            write_text(path / CONFIG, config.to_yaml())
            write_record(path, data)

    try:
        with only_writer(path / _LOCK, path):
            tidy(path)
            if resumed:
                require_same_data(path, data)
            else:
                with _writing(path):
                    write_text(path / CONFIG, config.to_yaml())
            try:
                yield begin
            except BaseException:
                if not resumed and not begun:
                    (path / CONFIG).unlink(missing_ok=True)
                raise
    finally:
        if not resumed and not begun:
            with suppress(OSError):  # something else is in it by now
                path.rmdir()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


def require_new(path: Path, option: str) -> None:
    """Raise `VqtrtError` where no new run can be begun: before its data are read, not after."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise VqtrtError(
            f"{path} exists already: pass --resume to continue it, or another {option}"
        )
    check_folder(path)


class MetricsFile:
    """`metrics.jsonl`: appended to as training goes."""

    def __init__(self, path: Path, start: int) -> None:
        """Open for appending after step `start`; lines of later steps are dropped."""
        kept = []
        self.evaluated: set[float] = set()
        """Steps whose evaluation is in the file."""
        if start and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                if (step := _step(line)) <= start:
                    kept.append(line + "\n")
                    if "evaluation" in json.loads(line):
                        self.evaluated.add(step)
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")

    def write(self, figures: dict[str, Any]) -> None:
        """Append one line and hand it to the system, so that `tail -f` shows it."""
        self._file.write(json.dumps(figures) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _step(line: str) -> float:
    """The step of a line. A crash can tear the last one; it belongs to a step that is redone."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf
