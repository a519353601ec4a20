"""Clips of different length in batches that waste little on padding, and few lengths for all.

A runtime on a GPU compiles or chooses kernels for each shape, so lengths are rounded up to a grid:
a data set of a million lengths has some dozens of shapes.
"""

from collections.abc import Sequence


def grid_length(length: int) -> int:
    """The next length of the grid: 0, 1, …, 16, 18, 20, …, 32, 36, …: at most an eighth more.

    There are eight lengths from one power of two to the next.
    """
    step = 1 << max(0, (length - 1).bit_length() - 4)
    return -(-length // step) * step


def length_batches(
    lengths: Sequence[int], batch_size: int, waste: float = 0.1, *, most: int | None = None
) -> list[list[int]]:
    """Indices of clips in batches, the longest clips first; a clip's batch is as long as its first.

    A batch has up to `batch_size` clips and ends where one more would make padding more than the
    share `waste` of its steps, or its steps, padding included, more than `most`. A clip that is
    longer than `most` is a batch of its own.
    """
    batches: list[list[int]] = []
    total = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        if batches and len(batches[-1]) < batch_size:
            steps = (len(batches[-1]) + 1) * lengths[batches[-1][0]]
            padding = steps - total - length
            if padding <= waste * steps and (most is None or steps <= most):
                batches[-1].append(index)
                total += length
                continue
        batches.append([index])
        total = length
    return batches


def padded_batch(count: int, most: int, least: int = 1) -> int:
    """The batch, `least` to `most`, that `count` items are filled up to: 1, 2, 3, 4, 6, 8, 12, ….

    Binding, compiling or capturing for a batch is then done for few of them.
    """
    power = 1 << max(count - 1, 0).bit_length()
    between = 3 * power // 4
    return min(max(between if count <= between else power, least), most)
