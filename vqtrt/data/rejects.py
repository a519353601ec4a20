"""Rejected items counted by kind: a job of millions is judged by counts, not by a list."""

import re
from collections import Counter
from collections.abc import Iterable

from vqtrt.data.selection import add_kind, suffix_of
from vqtrt.system.names import printable

_LONGEST = 80
# "not an image that can be read (image file is truncated); replace or remove it"
_QUOTED = re.compile(r"[^(;]*that can be read[^(;]*\((.*)\)")


def reject_kinds(rejected: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How many items there are of each kind, of their names and the messages of their errors."""
    counts = Counter[str]()
    for name, message in rejected:
        add_kind(counts, reject_kind(name, message))
    return dict(counts)


def reject_kind(name: str, message: str) -> str:
    """`.jpg: image file is truncated (N bytes not processed)`: suffix and reason.

    `message` is that of an `ImageError` or `AudioError`: path, reason, what to do. What differs
    from file to file (path, numbers) is left out.
    """
    _, path, reason = message.partition(f"{printable(name.rpartition('/')[2])}: ")
    if not path:
        reason = message.partition(": ")[2] or message
    found = _QUOTED.match(reason)
    reason = found[1] if found else reason.partition(";")[0]
    reason = re.sub(r"\d+", "N", reason).strip()
    if len(reason) > _LONGEST:
        reason = f"{reason[: _LONGEST - 1]}…"
    container = re.sub(r"\[\d+\]$", "", name)  # of an array's item, `images.npy[17]`
    return f"{suffix_of(container)}: {reason}"
