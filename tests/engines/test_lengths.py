import itertools

import numpy as np
import pytest

from vqtrt.engines.lengths import length_batches, padded_batch


def padding(lengths: list[int], batch: list[int]) -> float:
    steps = len(batch) * max(lengths[i] for i in batch)
    return 1 - sum(lengths[i] for i in batch) / steps if steps else 0.0


@pytest.mark.parametrize("batch_size", [1, 4, 16])
@pytest.mark.parametrize("waste", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seed", [0, 1])
def test_all_clips_are_there_and_little_is_wasted(batch_size, waste, seed):
    rng = np.random.default_rng(seed)
    lengths = np.rint(np.exp(rng.normal(4, 0.7, 500))).astype(int).tolist()
    batches = length_batches(lengths, batch_size, waste)
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    assert all(padding(lengths, batch) <= waste + 1e-12 for batch in batches)
    # The longest come first, within a batch and from one to the next.
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(lengths, reverse=True)


def test_a_batch_ends_only_where_one_more_would_waste_too_much():
    rng = np.random.default_rng(3)
    lengths = rng.integers(10, 300, 400).tolist()
    batches = length_batches(lengths, 8)
    assert max(map(len, batches)) == 8
    for batch, after in itertools.pairwise(batches):
        assert len(batch) == 8 or padding(lengths, [*batch, after[0]]) > 0.1


def test_exactly_a_tenth_is_allowed():
    assert length_batches([10, 8], 4) == [[0, 1]]
    assert length_batches([100, 79], 4) == [[0], [1]]


def test_clips_of_one_length_keep_their_order():
    assert length_batches([7] * 5, 2) == [[0, 1], [2, 3], [4]]


def test_the_steps_of_a_batch_are_bounded():
    assert length_batches([10, 10, 10, 10], 4, most=20) == [[0, 1], [2, 3]]
    assert length_batches([10, 9, 9], 4, most=29) == [[0, 1], [2]]
    # What is longer than that alone goes alone.
    assert length_batches([30, 10, 10], 4, most=20) == [[0], [1, 2]]


def test_few_clips():
    assert length_batches([], 4) == []
    assert length_batches([0, 0], 4) == [[0, 1]]
    assert length_batches([3], 1) == [[0]]


def test_few_batches_are_padded_to() -> None:
    assert [padded_batch(n, 64) for n in (0, 1, 2, 3, 4, 5, 7, 9, 13, 17, 33, 48, 49, 64)] == [
        *(1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 48, 48, 64, 64)
    ]
    assert {padded_batch(n, 20, 5) for n in range(21)} == {5, 6, 8, 12, 16, 20}
