"""Runs of a step graph one after the other, each fed what the one before drew.

This is how a WaveNet decoder draws samples and a WaveNet prior draws codes. `HostStepLoop` goes run
by run over the bound graph of any engine; TensorRT has `cuda_step_loop.py`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import BoundGraph
from vqtrt.formats.bundle import GraphSpec, TensorSpec
from vqtrt.formats.caches import is_kept


def drawn_output(spec: GraphSpec) -> TensorSpec:
    """The output of a step graph that holds what it draws, int32 (N, u)."""
    (found,) = (t for t in spec.outputs if not is_kept(t) and t.name != "logits")
    return found


class HostStepLoop:
    """As `StepLoop`, run by run; what other loops are compared with."""

    def __init__(self, step: BoundGraph, runs: int, start: int) -> None:
        """`step` is bound without its logits; `start` stands for what is before the first run."""
        self._step, self.runs, self._start = step, runs, start
        (self._made,) = step.outputs.values()
        self.drawn: NDArray[Any] = np.zeros((runs, *self._made.shape), np.int32)
        self._noise = np.zeros(self.drawn.shape, np.float32)
        self.inputs = {**step.inputs, "noise": self._noise}

    def begin(self) -> None:
        """Begin sequences: forget what was drawn."""
        self._step.reset()
        self._step.inputs["previous"][:] = self._start

    def draw(self, runs: int) -> None:
        """Draw the first `runs` of a call."""
        step, made = self._step, self._made
        previous, noise = step.inputs["previous"], step.inputs["noise"]
        last = made[:, -1]
        for index in range(runs):
            noise[:] = self._noise[index]
            step.run()
            self.drawn[index] = made
            previous[:] = last
