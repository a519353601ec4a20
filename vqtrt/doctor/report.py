"""What the doctor finds: one line a check, each ok, a warning, or failed with what to do.

A check never ends the examination. What it raises becomes a failed line, whatever it is: the
machines that need a doctor are those where libraries raise what nobody expects.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from vqtrt.errors import VqtrtError

T = TypeVar("T")
Status = Literal["ok", "warning", "failed"]
_FOLDERS = re.compile(r"(?<![\w.~/])/(?:[^\s/:,;'\"()]+/)+")
_LOG_LINES = 50


@dataclass(frozen=True)
class Check:
    """One line."""

    section: str
    name: str
    status: Status
    text: str
    mend: str = ""
    """What to do, if there is something to do."""


@dataclass
class Report:
    """The lines of an examination, and the last that each package logged."""

    checks: list[Check] = field(default_factory=list)
    logs: dict[str, list[str]] = field(default_factory=dict)
    section: str = ""
    names: dict[str, str] = field(default_factory=dict)
    """Texts that are shown as others: folders, which are nobody's business."""

    def ok(self, name: str, text: str) -> None:
        """Something works, or is missing without being needed."""
        self._add(name, "ok", text, "")

    def warning(self, name: str, text: str, mend: str = "") -> None:
        """Something works, and could be better."""
        self._add(name, "warning", text, mend)

    def failed(self, name: str, text: str, mend: str = "") -> None:
        """Something that is installed does not work."""
        self._add(name, "failed", text, mend)

    def _add(self, name: str, status: Status, text: str, mend: str) -> None:
        self.checks.append(Check(self.section, name, status, self._shown(text), self._shown(mend)))

    @contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """Turn what the block raises into a failed line of this name."""
        try:
            yield
        except VqtrtError as error:
            self.failed(name, str(error))
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            self.failed(name, f"{what[:400]} (not expected: please report it with this output)")

    def attempt(self, name: str, work: Callable[[], T]) -> T | None:
        """What `work` gives; None, and a failed line of this name, if it raises."""
        results = []
        with self.checking(name):
            results.append(work())
        return results[0] if results else None

    def hide(self, folder: Path, name: str) -> None:
        """Show a folder under a name; one that is named by a single word stays as it is."""
        for path in (folder, folder.resolve()):
            if len(path.parts) > 1:
                self.names[str(path)] = name

    def log(self, package: str, lines: list[str]) -> None:
        """Keep the last lines that a package logged."""
        kept = self.logs.setdefault(package, [])
        kept += [self._shown(line) for line in lines]
        del kept[:-_LOG_LINES]

    def _shown(self, text: str) -> str:
        for folder, name in sorted(self.names.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(folder, name)
        return _FOLDERS.sub("", " ".join(text.split()))

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.status != "failed" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        checks = [asdict(check) for check in self.checks]
        return {"passed": self.passed, "checks": checks, "logs": self.logs}

    def as_text(self) -> str:
        """All of it, to be read and pasted."""
        lines = []
        width = max((len(check.name) for check in self.checks), default=0)
        section = None
        for check in self.checks:
            if check.section != section:
                section = check.section
                lines.append(f"{section}:")
            lines.append(f"  {check.status:<8} {check.name:<{width}}  {check.text}")
            if check.mend:
                lines.append(f"  {'':<8} {'':<{width}}  -> {check.mend}")
        # Of what works they would only be in the way; the JSON has them all.
        wrong = {check.name for check in self.checks if check.status != "ok"}
        for package, logged in self.logs.items():
            if package not in wrong:
                continue
            lines += [f"last lines of {package}:", *(f"  {line}" for line in logged)]
        counts = [sum(check.status == status for check in self.checks) for status in _COUNTED]
        told = [f"{count} {name}" for count, name in zip(counts, _COUNTED, strict=True) if count]
        verdict = "all that is installed works" if self.passed else "something does not work"
        return "\n".join([*lines, f"{verdict} ({', '.join(told) or 'nothing checked'})"])


_COUNTED: tuple[Status, ...] = ("ok", "warning", "failed")
