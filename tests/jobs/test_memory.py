"""Memory over 10,000 batches: it stays where it was after 1,000, and a leak would be seen."""

import gc
import resource
from pathlib import Path
from typing import Any

import pytest
from doubles import FakeSource
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech
from speech_jobs import encode as encode_clips

BATCHES = 10_000
SETTLED = 1_000
LIMIT = 50 << 20
"""Bytes of growth that are allowed."""
pytestmark = pytest.mark.slow


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Watch:
    """Sees each item that is read, and how far memory grew after the first 1,000."""

    def __init__(self, leak: int = 0) -> None:
        self._leak, self._kept = leak, list[bytes]()
        self._reads = self._before = 0

    def __call__(self, *_: Any) -> None:
        self._reads += 1
        if self._reads == SETTLED:
            self._before = resident()
        if self._leak:
            self._kept.append(bytes([self._reads % 255 + 1]) * self._leak)

    def growth(self) -> int:
        """Bytes since then."""
        assert self._reads >= BATCHES
        return resident() - self._before


def images(watch: Watch, out: Path) -> None:
    encode_images(FakeSource(BATCHES, before=watch), out, batch_size=1, **options(out))


def clips(watch: Watch, out: Path) -> None:
    encode_clips(FakeSpeech([60] * BATCHES, before=watch), out, batch_size=1, **options(out))


def options(out: Path) -> dict[str, Any]:
    return {} if out.suffix else {"shard_size": 1000}


@pytest.mark.parametrize("run", [images, clips])
@pytest.mark.parametrize("name", ["codes.npy", "codes"])
def test_memory_does_not_grow_over_10000_batches(tmp_path, run, name):
    watch = Watch()
    run(watch, tmp_path / name)
    assert watch.growth() < LIMIT


@pytest.mark.parametrize("run", [images, clips])
def test_a_leak_would_be_seen(tmp_path, run):
    """Of 8 KiB a batch, less than an image of 64x64 pixels has."""
    watch = Watch(leak=8 << 10)
    run(watch, tmp_path / "codes")
    assert watch.growth() > LIMIT
