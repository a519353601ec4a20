from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from vqtrt.audio.code_crops import Crop, code_crops, take_crops
from vqtrt.formats.audio_codes import ClipCodes

LENGTHS = [5, 1, 12, 4, 23]


def clips() -> ClipCodes:
    """Codes that say where they are: no two are equal."""
    offsets = tuple(accumulate(LENGTHS, initial=0))
    return ClipCodes(Path("codes.npy"), np.arange(1, offsets[-1] + 1, dtype=np.uint8), offsets)


@pytest.mark.parametrize("size", [1, 4, 5, 23, 100])
@pytest.mark.parametrize("reach", [1, 3, 50])
def test_together_they_have_every_code_once(size, reach):
    codes = clips()
    crops = code_crops(LENGTHS, [4, 0, 2], size, reach)
    batch = take_crops(codes, crops)
    expected = np.concatenate([codes.clip(clip) for clip in (4, 0, 2)])
    np.testing.assert_array_equal(batch.codes[batch.loss_mask], expected)
    assert batch.codes.dtype == np.int32
    assert all(1 <= crop.stop - crop.start <= size for crop in crops)


def test_what_lies_before_and_behind():
    crops = code_crops(LENGTHS, range(5), 10, 3)
    assert crops[2:4] == [Crop(2, 0, 0, 10), Crop(2, 7, 10, 12)]
    batch = take_crops(clips(), crops[2:4])
    assert batch.codes.tolist() == [
        [7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
        [14, 15, 16, 17, 18, 0, 0, 0, 0, 0],
    ]
    assert batch.loss_mask.sum(1).tolist() == [10, 2]
    assert batch.loss_mask[1].nonzero()[0].tolist() == [3, 4]
    wider = take_crops(clips(), crops[2:4], 14)
    assert wider.codes.shape == wider.loss_mask.shape == (2, 14)
    np.testing.assert_array_equal(wider.codes[:, :10], batch.codes)
    assert not wider.codes[:, 10:].any()
    assert not wider.loss_mask[:, 10:].any()


def test_a_clip_without_codes_has_no_crop():
    assert code_crops([0, 2], [0, 1], 4, 1) == [Crop(1, 0, 0, 2)]


def test_tails_count_as_the_crops_own():
    crops = code_crops(LENGTHS, [0, 2], 10, 3)
    tails = [np.array([90, 91], np.uint8), np.array([], np.uint8), np.array([92], np.uint8)]
    batch = take_crops(clips(), crops, tails=tails)
    assert batch.codes[0].tolist() == [1, 2, 3, 4, 5, 90, 91, 0, 0, 0]
    assert batch.codes[2].tolist() == [14, 15, 16, 17, 18, 92, 0, 0, 0, 0]
    assert batch.loss_mask.sum(1).tolist() == [7, 10, 3]
    assert batch.loss_mask[2].nonzero()[0].tolist() == [3, 4, 5]
