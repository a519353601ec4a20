"""Memory over 10,000 batches: it stays where it was after 1,000, and a leak would be seen."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
LIMIT = 50 << 20
"""Bytes of growth that are allowed."""
pytestmark = pytest.mark.slow


def growth(*arguments: object) -> int:
    command = [sys.executable, str(TESTS / "memory_run.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=TESTS.parent)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["images", "clips"])
@pytest.mark.parametrize("name", ["codes.npy", "codes"])
def test_memory_does_not_grow_over_10000_batches(tmp_path, kind, name):
    assert growth(kind, tmp_path / name) < LIMIT


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_a_leak_would_be_seen(tmp_path, kind):
    """Of 8 KiB a batch, less than an image of 64x64 pixels has."""
    assert growth(kind, tmp_path / "codes", 8 << 10) > LIMIT
