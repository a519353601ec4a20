import math

import numpy as np
import pytest

from vqtrt.data.audio.mulaw import LEVELS, mulaw_decode, mulaw_encode


def definition(x: float) -> int:
    bent = math.copysign(math.log(1 + 255 * abs(x)) / math.log(256), x)
    return math.floor((bent + 1) / 2 * 255 + 0.5)


def test_levels_follow_the_law():
    audio = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    levels = mulaw_encode(audio)
    assert levels.dtype == np.uint8
    expected = np.array([definition(float(x)) for x in audio])
    # float32 may fall to the other side of a boundary, next to it only.
    assert (levels == expected).mean() > 0.999
    assert np.abs(levels - expected).max() <= 1


@pytest.mark.parametrize(
    ("sample", "level"),
    [(-1, 0), (1, 255), (0, 128), (-5, 0), (5, 255), (0.1, 203), (-0.1, 52), (1e-9, 128)],
)
def test_known_levels(sample, level):
    assert mulaw_encode(np.array([sample]))[0] == level


def test_every_level_is_its_own_value():
    levels = np.arange(LEVELS)
    audio = mulaw_decode(levels)
    assert audio.dtype == np.float32
    np.testing.assert_array_equal(mulaw_encode(audio), levels)
    assert (audio[0], audio[-1]) == (-1, 1)
    assert (np.diff(audio) > 0).all()
    np.testing.assert_array_equal(audio, -audio[::-1])
    # No level is zero: it lies between the two in the middle.
    assert audio[127] < 0 < audio[128]


def test_decoding_inverts_the_law():
    for level in (0, 1, 100, 127, 128, 200, 255):
        bent = level / 255 * 2 - 1
        expected = math.copysign((256 ** abs(bent) - 1) / 255, bent)
        assert mulaw_decode(level) == pytest.approx(expected, abs=1e-7)


def test_levels_lie_closer_where_it_is_quiet():
    audio = np.random.default_rng(1).uniform(-1, 1, (3, 1000)).astype(np.float32)
    errors = np.abs(mulaw_decode(mulaw_encode(audio)) - audio)
    assert errors.shape == (3, 1000)
    assert errors.max() < 0.022
    quiet = np.abs(audio) < 0.01
    assert errors[quiet].max() < 0.0004
