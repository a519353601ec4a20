"""What the commands show: bars and choices on standard error, results on standard output."""

import json
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typer.core import TyperGroup

from vqtrt.errors import Interrupted, VqtrtError
from vqtrt.system import interrupts

console = Console(stderr=True, highlight=False)

_EXTRAS = {
    **dict.fromkeys(
        ("accelerate", "matplotlib", "onnx", "onnxscript", "safetensors", "tensorboard", "torch"),
        "train",
    ),
    **dict.fromkeys(("soundfile", "soxr"), "speech"),
}
"""Which extra installs a package."""


def note(message: str) -> None:
    """A line on standard error, as it is."""
    with suppress(OSError):  # a terminal that was closed is no reason to lose work
        console.print(printable(message), markup=False, emoji=False, soft_wrap=True)


class _Notes(logging.Handler):
    """What the package has to say, as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        note(record.getMessage())


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show what `vqtrt` logs while the block runs."""
    logger, handler = logging.getLogger("vqtrt"), _Notes()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def printable(text: str) -> str:
    """The text on one line, control characters escaped: names and messages come from strangers."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(figures: Mapping[str, Any], as_json: bool) -> None:
    """Results on standard output: one JSON object and nothing else, or a line a figure."""
    if as_json:
        print(json.dumps(figures))
        return
    lines = list(_flat(figures))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(printable(f"{name:<{width}}  {_text(value)}"))


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and values; a name within a group as `group.name`."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "-"
    return str(value)


class _Rate(ProgressColumn):
    """Items a second."""

    def render(self, task: Task) -> Text:
        """The rate, or nothing before the first items."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


def _bar(*columns: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        # In a log, a bar is noise.
        disable=not console.is_terminal,
    )


class Counter:
    """A progress bar that is told how many items are done."""

    def __init__(self, progress: Progress, description: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total)

    def __call__(self, done: int, total: int | None = None) -> None:
        """Show `done` items, of `total` where that is known only now."""
        interrupts.check()
        self._progress.update(self._task, completed=done)
        if total is not None:
            self._progress.update(self._task, total=total)


@contextmanager
def counting(description: str, total: int | None = None) -> Iterator[Counter]:
    """A bar on standard error for as long as the block runs."""
    with _bar(_Rate()) as progress:
        yield Counter(progress, description, total)


@contextmanager
def waiting(description: str) -> Iterator[None]:
    """A spinner for work whose length is not known."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        progress.add_task(description, total=None)
        yield


class Commands(TyperGroup):
    """The commands, where two errors become messages that their users can read."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            # Inference is installed without torch, and then some commands cannot run.
            package = (error.name or "").partition(".")[0]
            if package not in _EXTRAS:
                raise
            raise VqtrtError(
                f"{package} is not installed, which this needs: "
                f'pip install "vqtrt[{_EXTRAS[package]}]"'
            ) from error
        except KeyboardInterrupt as error:
            # Typer would exit in silence, and drop where the work can go on.
            number = getattr(error, "number", signal.SIGINT)
            raise Interrupted(number, getattr(error, "__notes__", [])) from error
        except Exception as error:
            # Libraries that are interrupted while they are imported raise errors of their own.
            caught = interrupts.received()
            if caught is None or isinstance(error, VqtrtError):
                raise
            raise Interrupted(caught, getattr(error, "__notes__", [])) from error


def _line(figures: Mapping[str, float | None]) -> str:
    """Figures in one line; those that are not defined are left out."""
    parts = []
    for name, value in figures.items():
        if value is None:
            continue
        if name.endswith("_per_second"):
            number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            parts.append(f"{number} {name.removesuffix('_per_second')}/s")
        else:
            parts.append(f"{name} {value:.4g}")
    return "  ".join(parts)


class TrainingBar:
    """Shows training: a bar in a terminal, a line a report elsewhere."""

    def __init__(self) -> None:
        self._progress = _bar(TextColumn("{task.fields[figures]}"))
        self._task = self._progress.add_task("training", total=None, figures="")

    def started(self, step: int, steps: int) -> None:
        """Start the bar at `step` of `steps`."""
        self._progress.start()
        self._progress.update(self._task, total=steps, completed=step)
        if step >= steps:
            note(f"all {steps} steps are done already; --set train.steps=N trains up to N")
        elif step:
            note(f"resumed at step {step}")

    def advanced(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def reported(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Show the newest means."""
        text = _line(figures)
        self._progress.update(self._task, figures=text)
        if not console.is_terminal:
            note(f"step {step}  {text}")

    def evaluated(self, step: int, figures: Mapping[str, float | None], picture: Path) -> None:
        """Print the held-out figures, and where the picture is."""
        note(f"step {step}  held out: {_line(figures)}  {picture}")

    def noted(self, text: str) -> None:
        """Print a line about the data."""
        note(text)

    def stop(self) -> None:
        """Leave the terminal as it was."""
        self._progress.stop()


def fail(message: str) -> None:
    """One line on standard error."""
    with suppress(OSError):
        print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
