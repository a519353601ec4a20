"""What the commands print: notes and errors on standard error, results on standard output."""

import json
import logging
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
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
    **dict.fromkeys(("fsspec", "pyarrow"), "scale"),
    "ray": "ray",
}
"""Which extra installs a package."""


def missing(package: str) -> str:
    """The error for a package that is not installed, with the extra that installs it."""
    extra = _EXTRAS[package]
    return f'{package} is not installed, which this command needs: pip install "vqtrt[{extra}]"'


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
            raise VqtrtError(missing(package)) from error
        except KeyboardInterrupt as error:
            # Typer would exit in silence, and drop where the work can go on.
            # Libraries that are interrupted may raise one of their own, without the number.
            number = getattr(error, "number", interrupts.received() or signal.SIGINT)
            raise Interrupted(number, getattr(error, "__notes__", [])) from error
        except Exception as error:
            # Libraries that are interrupted while they are imported raise errors of their own.
            caught = interrupts.received()
            if caught is None or isinstance(error, VqtrtError):
                raise
            raise Interrupted(caught, getattr(error, "__notes__", [])) from error


def fail(message: str) -> None:
    """One line on standard error."""
    with suppress(OSError):
        print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
