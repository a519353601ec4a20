"""What a writer of files says when an error ends it: how many files are kept, and where."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from vqtrt.errors import VqtrtError, add_hint, unwritable


class KeepsFiles(ABC):
    """A writer as a context manager, which keeps what it has committed if an error ends it."""

    out: Path
    partial: Path
    """Where the files are until all are written."""

    @abstractmethod
    def _leave(self) -> int:
        """Stop; the number of files that are kept."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        kept = self._leave()
        hint = f"{kept} files are kept in {self.partial}; --resume continues"
        if isinstance(error, OSError):
            told = unwritable(self.out, error)
            raise VqtrtError(f"{told}; {hint}") if kept else told from error
        if kept and error is not None:
            add_hint(error, hint)
