"""Clips of different length in batches that waste little on padding."""

from collections.abc import Sequence


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
