"""Praat's TextGrids: which phone or word is said from when to when.

Both text forms, the long and the short, are read as Praat reads them ("TextGrid file formats" in
its manual): numbers and quoted strings in their order, whatever names stand between them. Nothing
is allocated by the counts that a file claims.
"""

import fnmatch
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vqtrt.errors import AudioError
from vqtrt.system.files import read_or_raise
from vqtrt.system.names import printable

_MAX_BYTES = 1 << 26
_SAME_TIME = 1e-6
"""Seconds by which intervals may overlap: tools round."""
_LISTED = 10
"""Names of tiers that a message lists."""

# Comments; strings, with "" for a quote (possessive: one pass, whatever the file); other words.
_TOKEN = re.compile(r'!.*|"(?P<text>(?:[^"]++|"")*+)(?P<end>"?)|(?P<word>[^\s"]+)')
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?", re.ASCII)


class Interval(NamedTuple):
    """What is said in a part of a recording."""

    start: float
    """Seconds."""
    end: float
    """Seconds; not before `start`."""
    text: str
    """A phone or a word; empty if there is none."""


def read_intervals(path: Path, tier: str = "phones") -> list[Interval]:
    """The intervals of one tier, in order; there may be gaps between them.

    The tier is the first of this name. If there is none, it is the one interval tier whose name
    matches `tier` as a pattern (`*`, `?`, `[…]` as in file names), or ends in ` - ` and `tier`:
    forced aligners write `ann - phones`.

    The file is UTF-8, or UTF-16 with its mark. Raises `AudioError` for what is no TextGrid, is
    damaged, has no such tier or several that match, and for intervals that overlap or run
    backwards.
    """
    values = _Values(path, _text(path))
    if not values.string("its type").startswith("ooTextFile"):
        raise values.error("is no TextGrid; give one that Praat saved as text")
    if (kind := values.string("its class")) != "TextGrid":
        raise values.error(f"holds a {printable(kind)[:40]}, not a TextGrid")
    values.number("its beginning")
    values.number("its end")
    names: list[str] = []
    alike: list[list[Interval]] = []
    alike_names: list[str] = []
    for _ in range(values.count("tiers")):
        points = values.string("a tier's class") == "TextTier"
        name = values.string("a tier's name")
        found = _entries(values, name, points=points)
        if name == tier:
            if points:
                raise values.error(f"its tier {printable(tier)} holds points, not intervals")
            return list(_ordered(values, found))
        names.append(printable(name)[:40])
        if not points and _matches(name, tier):
            alike_names.append(names[-1])
            if len(alike) < 2:  # enough to know that there is more than one
                alike.append(list(found))
        for _ in found:
            pass
    if len(alike) == 1:
        return list(_ordered(values, iter(alike[0])))
    if alike:
        raise values.error(
            f"has {len(alike_names)} tiers that match {printable(tier)}: {_list(alike_names)}; "
            "name one of them with --tier"
        )
    raise values.error(
        f"has no tier {printable(tier)}, but {_list(names) or 'none at all'}; name one with "
        f"--tier, "
        "or a pattern such as '*phones'"
    )


def _matches(name: str, tier: str) -> bool:
    """Whether a tier that is not called `tier` may be meant by it."""
    return fnmatch.fnmatchcase(name, tier) or name.endswith(f" - {tier}")


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{', '.join(names[:_LISTED])}{more}"


def _entries(values: "_Values", tier: str, *, points: bool) -> Iterator[Interval]:
    """All of a tier, as it stands there; a point begins and ends at once."""
    values.number(f"the beginning of tier {tier}")
    values.number(f"the end of tier {tier}")
    count = values.count(f"intervals of tier {tier}")
    for i in range(1, count + 1):
        what = f"interval {i} of {count} in tier {tier}"
        start = values.number(what)
        end = start if points else values.number(what)
        yield Interval(start, end, values.string(what))


def _ordered(values: "_Values", intervals: Iterator[Interval]) -> Iterator[Interval]:
    """The intervals, checked to follow one another."""
    before = -math.inf
    for i, interval in enumerate(intervals, 1):
        start, end, text = interval
        if end < start:
            raise values.error(
                f"interval {i} ({printable(text)[:40]}) runs backwards, from {start:g} to {end:g} s"
            )
        if start < before - _SAME_TIME:
            raise values.error(
                f"interval {i} ({printable(text)[:40]}) begins at {start:g} s, before the one "
                f"ahead of "
                f"it ends at {before:g} s"
            )
        before = end
        yield interval


class _Values:
    """The numbers and strings of a file, one after the other."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._tokens = _TOKEN.finditer(text)

    def error(self, what: str) -> AudioError:
        """One that names the file."""
        return AudioError(f"{printable(self._path)}: {what}")

    def string(self, what: str) -> str:
        """The next value, which has to be a string."""
        value = self._next(what)
        if not isinstance(value, str):
            raise self._damaged(what, "a number is where a text has to be")
        return value

    def number(self, what: str) -> float:
        """The next value, which has to be a number."""
        value = self._next(what)
        if isinstance(value, str):
            raise self._damaged(what, "a text is where a number has to be")
        return value

    def count(self, what: str) -> int:
        """The next value, which has to be a count."""
        value = self.number(f"the number of {what}")
        if value < 0 or value != int(value):
            raise self._damaged(f"the number of {what}", f"it is {value:g}")
        return int(value)

    def _next(self, what: str) -> str | float:
        for token in self._tokens:
            if (text := token["text"]) is not None:
                if not token["end"]:
                    raise self._damaged(what, "a quote is not closed")
                return text.replace('""', '"')
            if (word := token["word"]) and _NUMBER.fullmatch(word):
                if math.isinf(value := float(word)):
                    raise self._damaged(what, "a number is too large")
                return value
        raise self._damaged(what, "the file ends too soon")

    def _damaged(self, what: str, why: str) -> AudioError:
        return self.error(f"is no TextGrid, or is damaged at {printable(what)[:100]} ({why})")


def _text(path: Path) -> str:
    name = printable(path)
    data = read_or_raise(
        path,
        _MAX_BYTES,
        AudioError,
        missing=f"{name}: no such file; check the path",
        large=f"{name}: is larger than {_MAX_BYTES >> 20} MiB; split it",
    )
    if data.startswith(b"ooBinaryFile"):
        raise AudioError(f"{printable(path)}: is binary; save it as text in Praat")
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise AudioError(
            f"{printable(path)}: is neither UTF-8 nor UTF-16 with its mark; save it as UTF-8"
        ) from error
