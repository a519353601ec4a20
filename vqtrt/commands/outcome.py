"""What commands say of the files that they read and wrote."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vqtrt.commands import terminal
from vqtrt.errors import AudioError, ImageError


def tell_passed_over(kinds: Mapping[str, int], *, audio: bool) -> None:
    """Say which files of a folder are no items; for recordings, also how to convert them."""
    from vqtrt.data.selection import in_words

    if not kinds:
        return
    hint = ""
    if audio:
        from vqtrt.data.audio.folder import conversion_hint

        hint = conversion_hint(kinds)
    mend = f"; {hint}" if hint else ""
    terminal.note(f"passed over {sum(kinds.values())} files: {in_words(kinds)}{mend}")


_MEND = {
    "read": "reading is the bottleneck: more --workers or a faster disk may help",
    "engine": "the engine is the bottleneck: a larger --batch-size or a faster device may help",
    "write": "writing is the bottleneck: a faster disk may help",
}


def tell_stages(shares: Mapping[str, float]) -> None:
    """Say what the time was spent on, and what may help."""
    from vqtrt.jobs.stages import bottleneck

    if slowest := bottleneck(shares):
        parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        terminal.note(f"time: {parts}; {_MEND[slowest]}")


def with_kinds(
    figures: dict[str, Any], source: object, as_json: bool, *, audio: bool
) -> dict[str, Any]:
    """Figures with what was passed over and rejected, by kind; without JSON, in notes."""
    from vqtrt.data.folder import passed_over
    from vqtrt.data.selection import in_words

    over, kinds = passed_over(source), figures.get("rejected_kinds", {})
    if as_json:
        return figures | {"passed_over": over}
    tell_passed_over(over, audio=audio)
    if kinds:
        terminal.note(f"rejected {figures['rejected']}: {in_words(kinds)}")
    return {name: value for name, value in figures.items() if name != "rejected_kinds"}


@contextmanager
def skippable() -> Iterator[None]:
    """Name `--on-error skip` in the error of a file that cannot be read."""
    try:
        yield
    except (ImageError, AudioError) as error:
        raise type(error)(f"{error}; pass --on-error skip to skip such files") from error


class Written:
    """What a job that fills a folder says at its end."""

    def __init__(self) -> None:
        self._before = 0

    def resumed(self, count: int) -> None:
        """Take note of the files that an earlier, interrupted job had made."""
        self._before = count

    def tell(self, out: Path, count: int, what: str, wrote: str) -> None:
        """Say that `out` has all files; `wrote` tells of them if there was anything to do."""
        if 0 < count == self._before:
            terminal.note(f"{out} is complete already: {count} {what}; nothing was left to do")
            return
        if self._before:
            terminal.note(f"resumed after {self._before} files")
        terminal.note(wrote)
