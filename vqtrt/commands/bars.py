"""Progress bars and spinners on standard error; in a log, a line a report."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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

from vqtrt.commands import terminal
from vqtrt.commands.terminal import note
from vqtrt.system import interrupts


class _Rate(ProgressColumn):
    """Items per second."""

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
        console=terminal.console,
        # In a log, a bar is noise.
        disable=not terminal.console.is_terminal,
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
    with Progress(
        *columns, console=terminal.console, disable=not terminal.console.is_terminal
    ) as progress:
        progress.add_task(description, total=None)
        yield


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
        if not terminal.console.is_terminal:
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
