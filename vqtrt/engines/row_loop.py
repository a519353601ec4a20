"""Rows of a PixelCNN prior, position by position, over the bound graphs of any engine.

TensorRT has a loop on the GPU in `tensorrt/loop.py`.
"""

from collections.abc import Callable

import numpy as np

from vqtrt.engines.base import BoundGraph


class HostRowLoop:
    """As `RowLoop`, position by position; what other loops are compared with."""

    def __init__(
        self, bind: Callable[..., BoundGraph], names: tuple[str, str], width: int, start_code: int
    ) -> None:
        """`bind` is `Engine.bind` with sizes; `names` are of the row graph and the step graph."""
        self._row = bind(names[0])
        shared = {"bias": self._row.outputs["bias"]}
        self._step = bind(names[1], shared=shared, skip=("logits",))
        self._start_code = start_code
        self.codes = np.zeros((width, *self._step.outputs["codes"].shape), np.int32)
        self._noise = np.zeros(self.codes.shape, np.float32)
        self.inputs = {**self._step.inputs, **self._row.inputs, "noise": self._noise}

    def begin(self) -> None:
        """Begin samples: forget the rows before."""
        self._row.reset()

    def skip(self) -> None:
        """Go past a row that is known."""
        self._row.run()

    def draw(self, progress: Callable[[], None]) -> None:
        """Draw a row; `progress` is called once for each position."""
        step = self._step
        code, column, noise = (step.inputs[name] for name in ("code", "column", "noise"))
        drawn = step.outputs["codes"]
        self._row.run()
        step.reset()
        code[:] = self._start_code
        for c in range(len(self.codes)):
            column[0] = c
            noise[:] = self._noise[c]
            step.run()
            code[:] = self.codes[c] = drawn
            progress()
