"""Which files of a folder are items, and what the others are counted as.

Notable:
- Nothing is passed over in silence: each file that is no item is counted by its kind (`.json`,
  `system`, `excluded`), and commands print the counts.
- Patterns work as in a .gitignore: one without `/` matches a file or folder of that name at any
  depth, one with `/` matches the path below the data's folder, and what matches a folder matches
  all that is below it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from vqtrt.errors import VqtrtError

_SYSTEM = frozenset(
    (
        ".ds_store",
        ".apdisk",
        ".directory",
        ".fseventsd",
        ".localized",
        ".spotlight-v100",
        ".temporaryitems",
        ".trashes",
        "__macosx",
        "thumbs.db",
        "thumbs.db:encryptable",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "icon\r",
        "$recycle.bin",
        "system volume information",
        "@eadir",
        "#recycle",
        "lost+found",
    )
)
"""Files and folders that macOS, Windows, Linux and network drives leave, in lower case."""
_MAX_KINDS = 100
"""Kinds that are counted one by one; a folder of strangers may hold any number of suffixes."""

Judge = Callable[[str, bool], str]
"""Of a path below the root, and whether it is a folder: "" if it counts, else its kind."""


class Selection:
    """The patterns of `--include` and `--exclude`.

    A file is an item if it matches no `exclude` pattern and, where there are any, one `include`
    pattern. `*` and `?` do not match a `/`, `**` does, `[a-z]` is one of these characters; case
    matters. Raises `VqtrtError` for a pattern that is empty or malformed.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self.include, self.exclude = tuple(include), tuple(exclude)
        self._include = _compiled("--include", self.include)
        self._exclude = _compiled("--exclude", self.exclude)
        self._named = {PurePosixPath(pattern).suffix.lower() for pattern in self.include}

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def __repr__(self) -> str:
        return f"Selection(include={self.include}, exclude={self.exclude})"

    def judge(self, own: Callable[[str], str]) -> Judge:
        """These patterns with the rule of a modality: `own` gives the kind of a name, "" for items.

        An include pattern that ends in a suffix (`*.txt`) makes items of files that `own` would
        pass over for that suffix.
        """

        def kind(path: str, folder: bool) -> str:
            name = path.rpartition("/")[2]
            if found := hidden_kind(name):
                return found
            if self._exclude and self._exclude.fullmatch(path):
                return "excluded"
            if folder:
                return ""
            found = own(name)
            if found and found not in self._named:
                return found
            if self._include and not self._include.fullmatch(path):
                return "not included"
            return ""

        return kind


def hidden_kind(name: str) -> str:
    """`system` or `hidden` for a name that never counts; "" for others."""
    # AppleDouble: what macOS writes beside each file on a drive that is not its own.
    if name.startswith("._") or name.lower() in _SYSTEM:
        return "system"
    return "hidden" if name.startswith(".") else ""


def suffix_of(name: str) -> str:
    """What a name ends with, in lower case with its dot; `no suffix` where there is none."""
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    return f".{suffix.lower()}" if dot and stem and suffix else "no suffix"


def add_kind(counts: Counter[str], kind: str) -> None:
    """Count one more of a kind; those after the first hundred kinds together, as `other`."""
    counts[kind if kind in counts or len(counts) < _MAX_KINDS else "other"] += 1


def in_words(counts: Mapping[str, int]) -> str:
    """`4 .json, 3 .txt`: the largest first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {kind}" for kind, count in ordered)


def _compiled(option: str, patterns: Sequence[str]) -> "re.Pattern[str] | None":
    if not patterns:
        return None
    for pattern in patterns:
        try:
            re.compile(_regex(pattern))
        except re.error as error:
            raise VqtrtError(f"{option} {pattern!r}: {error}; give a pattern like *.jpg") from None
        if not pattern.strip("./"):
            raise VqtrtError(f"{option} {pattern!r}: names no file; give a pattern like *.jpg")
    return re.compile("|".join(map(_regex, patterns)), re.DOTALL)


def _regex(pattern: str) -> str:
    body = pattern.removeprefix("./").rstrip("/")
    anywhere = "" if "/" in body else "(?:.*/)?"
    return f"{anywhere}{''.join(_pieces(body.removeprefix('/')))}(?:/.*)?"


def _pieces(pattern: str) -> Iterator[str]:
    """The parts of a regular expression for a pattern; `**/` also stands for no folder."""
    at = 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            yield "(?:.*/)?"
            at += 3
        elif pattern.startswith("**", at):
            yield ".*"
            at += 2
        elif pattern[at] == "*":
            yield "[^/]*"
            at += 1
        elif pattern[at] == "?":
            yield "[^/]"
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inside = pattern[at + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            yield f"[^/{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
            at = end + 1
        else:
            yield re.escape(pattern[at])
            at += 1
