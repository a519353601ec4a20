"""Rows of a PixelCNN prior, position by position, over the bound graphs of any engine.

TensorRT has a loop on the GPU in `tensorrt/loop.py`.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from vqtrt.engines.base import Engine


class HostRowLoop:
    """As `RowLoop`, position by position; what other loops are compared with."""

    def __init__(
        self,
        engine: Engine,
        prior: str,
        step: str,
        sizes: Mapping[str, int],
        start_code: int,
        threads: int | None = None,
    ) -> None:
        bind = partial(engine.bind, threads=threads)
        self._row = bind(f"priors/{prior}/row", sizes)
        shared = {"bias": self._row.outputs["bias"]}
        self._step = bind(f"priors/{prior}/{step}", sizes, shared=shared, skip=("logits",))
        self._start_code = start_code
        self.codes = np.zeros((sizes["width"], *self._step.outputs["codes"].shape), np.int32)
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
