"""10,000 batches through a job, in a process of their own; prints how far its memory grew.

    python tests/memory_run.py images|clips OUT [BYTES]

In a process that ran other tests, what those had freed would take up what grows here. BYTES are
kept of each item that is read: a leak.
"""

import gc
import resource
import sys
from pathlib import Path
from typing import Any

from doubles import FakeSource
from pipeline_jobs import encode as encode_images
from speech_doubles import FakeSpeech
from speech_jobs import encode as encode_clips

BATCHES = 10_000
SETTLED = 1_000


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Watch:
    """Sees each item that is read, and how far memory grew after the first 1,000."""

    def __init__(self, leak: int) -> None:
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


def main(kind: str, out: Path, leak: int = 0) -> None:
    watch = Watch(leak)
    options: dict[str, Any] = {"batch_size": 1} | ({} if out.suffix else {"shard_size": 1000})
    if kind == "images":
        encode_images(FakeSource(BATCHES, before=watch), out, **options)
    else:
        encode_clips(FakeSpeech([60] * BATCHES, before=watch), out, **options)
    print(watch.growth())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
