"""Folders that take long to make, made once for all worker processes of a test session."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

_root: Path | None = None
"""Where they are, below pytest's folder of the session."""


def share_below(factory: pytest.TempPathFactory) -> None:
    """Begin a session."""
    global _root
    base = factory.getbasetemp()
    # A worker's own folder is below that of the session.
    _root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"


def shared(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, which `make` is to make; whoever comes first makes it, others wait."""
    assert _root is not None, "no session has begun"
    path, done = _root / name, _root / f"{name}.done"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)  # of a worker that failed
            make(path)
            done.touch()
    return path
