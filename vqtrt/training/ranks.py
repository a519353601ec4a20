"""What the processes of a distributed run agree on, beside the gradients.

Notable: over gloo, on the CPU, and without a time limit. A barrier of NCCL ends a job after ten
minutes, and some work of the main process takes longer while the others wait: encoding what a prior
is trained on, an evaluation. If the main process dies, its connections break, and the others end.
"""

import atexit
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_FOREVER = timedelta(days=365)
_LOOK = 0.02
"""Seconds between two looks at whether the others have come, so that a signal is seen."""


class Ranks:
    """This process and the others; made by all of them at the same point."""

    _group: Any = None
    _of: Any = None
    _waiting = False
    """Whether a wait was begun and broken off: leaving would then wait for the others."""

    def __init__(self) -> None:
        if dist.is_available() and dist.is_initialized() and Ranks._of is not dist.group.WORLD:
            Ranks._group = dist.new_group(backend="gloo", timeout=_FOREVER)
            Ranks._of = dist.group.WORLD
            atexit.register(_leave)
        self._alone = Ranks._group is None or not dist.is_initialized()

    def wait(self) -> None:
        """Return once all processes are here."""
        if self._alone:
            return
        Ranks._waiting = True
        work = dist.barrier(Ranks._group, async_op=True)
        while not work.is_completed():
            time.sleep(_LOOK)
        work.wait()
        Ranks._waiting = False

    def any(self, here: bool) -> bool:
        """Whether it is so in any process; all ask at the same point."""
        if self._alone:
            return here
        flag = torch.tensor([int(here)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, Ranks._group)
        return bool(flag)


def _leave() -> None:
    """End the groups and their threads before Python does: a thread that outlives it can abort."""
    if Ranks._waiting:
        return
    Ranks._group = Ranks._of = None
    if dist.is_initialized():
        dist.destroy_process_group()
