"""Which run or bundle is meant: the named one, `$VQTRT_MODEL`, or the newest run under ./runs."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vqtrt.bundle import INFO, Bundle
from vqtrt.errors import VqtrtError

RUNS = Path("runs")
VARIABLE = "VQTRT_MODEL"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Artefacts:
    """A model on disk: its run, its bundle, or both."""

    run: Path | None
    """Folder with config.yaml and weights, where there is one."""
    bundle: Path | None
    """Folder with bundle.json, where there is one."""
    chosen_by: str
    """Why this one: "named", "$VQTRT_MODEL" or "newest under runs"."""

    @property
    def path(self) -> Path:
        """The folder that was meant."""
        path = self.run or self.bundle
        assert path is not None  # noqa: S101 - `find_model` makes no other
        return path

    def open_bundle(self) -> Bundle:
        """The bundle; where there is none, the error names the command that makes it."""
        if self.bundle is None:
            raise VqtrtError(f"{self.path} has no bundle yet: type `vqtrt export {self.path}`")
        return Bundle.open(self.bundle)


def find_model(named: str | Path | None = None) -> Artefacts:
    """Resolve a `--model` option."""
    if named is not None:
        return _at(Path(named), "named")
    if os.environ.get(VARIABLE):
        try:
            return _at(Path(os.environ[VARIABLE]), f"${VARIABLE}")
        except VqtrtError as error:
            raise VqtrtError(f"{error} (named by ${VARIABLE})") from None
    run = newest_run(trained=True) or newest_run()
    if run is None:
        raise VqtrtError(
            "no model: ./runs holds no run; type `vqtrt train shapes` to make one, "
            "or pass --model RUN_OR_BUNDLE"
        )
    return _at(run, f"newest under {RUNS}")


def newest_run(recipe: str | None = None, *, trained: bool = False) -> Path | None:
    """The run under ./runs (of a recipe) whose weights, or before any settings, are newest.

    With `trained`, only runs that have weights: one that has just begun is of no use yet.
    """
    runs = [path.parent for path in RUNS.glob("*/config.yaml")]
    if recipe is not None:
        # As `vqtrt train` names them: RECIPE, RECIPE-2 and so on.
        numbered = re.compile(rf"{re.escape(recipe)}(-\d+)?")
        runs = [run for run in runs if numbered.fullmatch(run.name)]
    if trained:
        runs = [run for run in runs if (run / WEIGHTS).is_file()]
    return max(runs, key=_age, default=None)


def _age(run: Path) -> tuple[int, str]:
    weights = run / WEIGHTS
    newest = weights if weights.exists() else run / "config.yaml"
    return newest.stat().st_mtime_ns, run.name


def _at(path: Path, chosen_by: str) -> Artefacts:
    if (path / INFO).is_file():
        # `vqtrt export` writes RUN/bundle: the weights it came from are then at hand.
        parent = path.resolve().parent
        return Artefacts(parent if _is_run(parent) else None, path, chosen_by)
    if _is_run(path):
        bundle = path / "bundle"
        return Artefacts(path, bundle if (bundle / INFO).is_file() else None, chosen_by)
    if not path.exists():
        raise VqtrtError(f"{path}: no such run or bundle")
    raise VqtrtError(f"{path} is neither a run (config.yaml) nor a bundle ({INFO})")


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()
