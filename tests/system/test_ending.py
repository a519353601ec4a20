"""How a process ends: as any other, or at once."""

import subprocess
import sys

import pytest

from vqtrt.system.ending import end


def code_of(status):
    try:
        end(status)
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize("status", [0, 3, None, "text"])
def test_it_ends_as_any_other(status):
    assert code_of(status) == status


def test_at_once_skips_what_would_hang():
    code = """
import atexit, threading
from vqtrt.system.ending import end, end_at_once
atexit.register(threading.Event().wait)
print("said", end="")
end_at_once()
end(3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said", "")
