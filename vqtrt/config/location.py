"""Which run or bundle is meant: the named one, `$VQTRT_MODEL`, or the newest run under ./runs."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from vqtrt.config.images import holds_settings, load_any_config
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import INFO, Bundle, file_sha256

RUNS = Path("runs")
CONFIG = "config.yaml"
VARIABLE = "VQTRT_MODEL"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ModelLocation:
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


def find_model(named: str | Path | None = None) -> ModelLocation:
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
        others = [path.parent for path in RUNS.glob(f"*/{CONFIG}")]
        if others:
            require_run(max(others, key=_age))  # which may be a run with damaged settings
        raise VqtrtError(
            "no model: ./runs holds no run; type `vqtrt train shapes` to make one, "
            "or pass --model RUN_OR_BUNDLE"
        )
    return _at(run, f"newest under {RUNS}")


def newest_run(recipe: str | None = None, *, trained: bool = False) -> Path | None:
    """The run under ./runs (of a recipe) whose weights, or before any settings, are newest.

    With `trained`, only runs that have weights: one that has just begun is of no use yet. Folders
    of other projects, which have a config.yaml of another kind, are passed over.
    """
    runs = [path.parent for path in RUNS.glob(f"*/{CONFIG}")]
    if recipe is not None:
        # As `vqtrt train` names them: RECIPE, RECIPE-2 and so on.
        numbered = re.compile(rf"{re.escape(recipe)}(-\d+)?")
        runs = [run for run in runs if numbered.fullmatch(run.name)]
    if trained:
        runs = [run for run in runs if (run / WEIGHTS).is_file()]
    return next((run for run in sorted(runs, key=_age, reverse=True) if is_run(run)), None)


def is_run(path: Path) -> bool:
    """Whether a folder has settings as `vqtrt train` writes them; they may be damaged otherwise."""
    try:
        return (path / CONFIG).is_file() and holds_settings(path / CONFIG, "model")
    except VqtrtError:
        return False


def _age(run: Path) -> tuple[int, str]:
    weights = run / WEIGHTS
    newest = weights if weights.exists() else run / CONFIG
    return newest.stat().st_mtime_ns, run.name


def _at(path: Path, chosen_by: str) -> ModelLocation:
    if (path / INFO).is_file():
        return ModelLocation(_run_of(path), path, chosen_by)
    if (path / CONFIG).is_file():
        require_run(path)
        bundle = path / "bundle"
        return ModelLocation(path, bundle if (bundle / INFO).is_file() else None, chosen_by)
    if not path.exists():
        raise VqtrtError(f"{path}: no such run or bundle")
    raise VqtrtError(f"{path} is neither a run ({CONFIG}) nor a bundle ({INFO})")


def _run_of(bundle: Path) -> Path | None:
    """The run that a bundle was exported from, if the bundle lies in it: RUN/bundle by default.

    The parent of a bundle may be any folder, such as a project with a config.yaml of its own, or a
    run that another bundle was put into. A bundle needs no run: where in doubt, it has none.
    """
    parent = bundle.resolve().parent
    try:
        if not (is_run(parent) and (parent / WEIGHTS).is_file()):
            return None
        load_any_config(parent / CONFIG)
        if bundle.resolve().name == "bundle":
            return parent  # also after more training: `vqtrt verify` then asks for a new export
        made_from = Bundle.open(bundle).info.source.weights_sha256
        return parent if file_sha256(parent / WEIGHTS) == made_from else None
    except (VqtrtError, OSError):
        return None


def require_run(path: Path) -> None:
    """Raise `VqtrtError` if a folder's config.yaml is not that of a run."""
    config = path / CONFIG
    reason = f"{config} has no format_version and model.kind, which that of a run has"
    try:
        if holds_settings(config, "model"):
            return
        if holds_settings(config, "prior"):
            reason = "it is a prior; name the run that it belongs to, two folders up"
        else:
            load_any_config(config)  # says what is wrong where something is
    except VqtrtError as error:
        reason = str(error)
    raise VqtrtError(f"{path} is neither a run nor a bundle ({INFO}): {reason}")
