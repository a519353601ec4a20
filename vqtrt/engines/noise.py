"""The noise that sampling draws with: an input of the graphs, keyed by (seed, sample, position).

Sample 17 of seed 0 is the same whatever the batch, the number asked for, or the engine.
"""

import numpy as np
from numpy.typing import NDArray


def noise(seed: int, samples: range, count: int) -> NDArray[np.float32]:
    """Uniform numbers inside (0, 1), `count` for each sample number: (n, count) float32.

    As `NoiseStream` gives them.
    """
    out = np.empty((len(samples), count), np.float32)
    for row, sample in enumerate(samples):
        out[row] = NoiseStream(seed, sample).take(count)
    return out


class NoiseStream:
    """Uniform numbers inside (0, 1) of a seed and a sample number, some at a time.

    Philox keyed by (seed, sample), whose raw stream numpy guarantees never to change. 23 bits and
    a half, so that every number is exact in float32 and none is 0 or 1.
    """

    def __init__(self, seed: int, sample: int) -> None:
        self._philox = np.random.Philox(key=np.array([seed, sample], np.uint64))

    def take(self, count: int) -> NDArray[np.float32]:
        """The next `count` of them."""
        raw = self._philox.random_raw(count)
        uniform: NDArray[np.float64] = ((raw >> np.uint64(41)).astype(np.float64) + 0.5) * 2.0**-23
        return uniform.astype(np.float32)
