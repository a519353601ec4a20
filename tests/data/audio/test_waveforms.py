import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqtrt.data.audio import waveforms
from vqtrt.data.audio.waveforms import clips_picture
from vqtrt.errors import VqtrtError

RATE = 8000
BLUE = np.array([31, 119, 180])  # matplotlib's first color, of the waveforms


def tone(seconds: float, loudness: float = 0.5, hertz: float = 440) -> np.ndarray:
    t = np.arange(round(seconds * RATE)) / RATE
    return (loudness * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def draw(path: Path, *rows) -> np.ndarray:
    clips_picture(path, rows, RATE)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def blue(picture: np.ndarray) -> np.ndarray:
    """Where waveforms are, (H, W)."""
    return np.asarray((np.abs(picture.astype(int) - BLUE) < 30).all(axis=-1))


def spans(mask: np.ndarray) -> list[tuple[int, int]]:
    """Beginnings and ends of the stretches of a mask (n,), which gaps of 20 part."""
    places = np.flatnonzero(mask)
    cuts = np.flatnonzero(np.diff(places) > 20)
    begins, ends = [0, *(cuts + 1)], [*cuts, len(places) - 1]
    return [(int(places[b]), int(places[e])) for b, e in zip(begins, ends, strict=True)]


def test_a_row_has_one_scale_of_time_and_amplitude(tmp_path):
    clips = [("original", tone(1)), ("half as long", tone(0.5)), ("half as loud", tone(1, 0.25))]
    waves = blue(draw(tmp_path / "a.png", ("a", clips)))
    long, short, quiet = spans(np.any(waves, axis=0))
    width = long[1] - long[0]
    assert short[1] - short[0] == pytest.approx(width / 2, abs=6)
    assert quiet[1] - quiet[0] == pytest.approx(width, abs=6)
    heights = [
        np.ptp(np.flatnonzero(waves[:, begin:end].any(axis=1))) for begin, end in (long, quiet)
    ]
    assert heights[1] == pytest.approx(heights[0] / 2, abs=4)


def test_rows_lie_below_one_another(tmp_path):
    rows = [(str(i), [("a", tone(0.3)), ("b", tone(0.2))]) for i in range(3)]
    picture = draw(tmp_path / "a.png", *rows)
    waves = blue(picture)
    assert len(spans(np.any(waves, axis=1))) == 3
    assert len(spans(np.any(waves, axis=0))) == 2
    assert picture.shape[0] == pytest.approx(3 * draw(tmp_path / "b.png", rows[0]).shape[0], abs=5)


def test_a_row_has_one_scale_of_loudness(tmp_path):
    rng = np.random.default_rng(0)
    loud = rng.normal(0, 0.3, 8000).astype(np.float32)

    def warm(picture: np.ndarray, part: int) -> float:
        """How light the spectrogram is, in one of two columns."""
        height, width = picture.shape[:2]
        columns = (
            slice(width // 8, width * 3 // 8) if part == 0 else slice(width * 5 // 8, -width // 8)
        )
        return float(picture[int(height * 0.6) : int(height * 0.75), columns].mean())

    same = draw(tmp_path / "a.png", ("", [("a", loud), ("b", loud)]))
    other = draw(tmp_path / "b.png", ("", [("a", loud), ("b", loud / 100)]))
    assert warm(same, 0) == pytest.approx(warm(same, 1), rel=0.1)
    assert warm(other, 0) == pytest.approx(warm(same, 0), rel=0.1)
    assert warm(other, 1) < 0.7 * warm(same, 1)


def test_a_long_one_is_drawn_with_its_peaks(tmp_path):
    long = np.random.default_rng(0).uniform(-0.1, 0.1, 60 * RATE).astype(np.float32)
    long[30 * RATE] = 1
    picture = draw(tmp_path / "a.png", ("", [("a", long)])).astype(int)
    noisy = blue(picture)
    # The one sample, thin as it is, stands over the middle of the noise.
    top = np.flatnonzero(noisy.any(axis=1))[0]
    bluish = (picture[..., 2] - picture[..., 0] > 20)[: top - 10]
    across = np.flatnonzero(bluish.any(axis=0))
    assert 1 <= len(across) <= 4
    assert across.mean() == pytest.approx(np.flatnonzero(noisy.any(axis=0)).mean(), abs=3)


@pytest.mark.parametrize(
    "clips",
    [
        [("nothing", np.zeros(0, np.float32))],
        [("one sample", np.ones(1, np.float32)), ("nothing", np.zeros(0, np.float32))],
        [("silence", np.zeros(3000, np.float32))],
        [("short", tone(0.01)), ("long", tone(60))],
    ],
    ids=lambda clips: clips[0][0],
)
def test_odd_recordings(tmp_path, clips):
    assert draw(tmp_path / "a.png", ("odd", clips)).std() > 1


def test_rows_of_different_numbers(tmp_path):
    waves = blue(
        draw(
            tmp_path / "a.png",
            ("one", [("a", tone(0.2))]),
            ("three", [("a", tone(0.2)), ("b", tone(0.2)), ("c", tone(0.2))]),
        )
    )
    first, second = spans(np.any(waves, axis=1))
    assert len(spans(np.any(waves[first[0] : first[1]], axis=0))) == 1
    assert len(spans(np.any(waves[second[0] : second[1]], axis=0))) == 3


def test_names_are_drawn_as_they_are(tmp_path):
    name = "$x_1$ \\frac 中文 \n\x1b[31m" + "long" * 100
    picture = draw(tmp_path / "a.png", (name, [(name, tone(0.1)), (name, tone(0.1))]))
    # Nothing runs over the edges.
    assert (picture[:, :3] == 255).all()
    assert (picture[:, -3:] == 255).all()


def test_many_rows_stay_within_what_can_be_viewed(tmp_path, monkeypatch):
    monkeypatch.setattr(waveforms, "_MOST_DOTS", 600)
    picture = draw(tmp_path / "a.png", *[("", [("", tone(0.01))])] * 4)
    assert 590 <= max(picture.shape) <= 610


def test_other_rates(tmp_path):
    for rate in (1000, 48000, 192000):
        clips_picture(tmp_path / f"{rate}.png", [("a", [("a", tone(0.5))])], rate)
        assert (tmp_path / f"{rate}.png").stat().st_size > 1000


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="needs a row"):
        clips_picture(tmp_path / "a.png", [], RATE)
    with pytest.raises(ValueError, match="each row a recording"):
        clips_picture(tmp_path / "a.png", [("a", [])], RATE)
    with pytest.raises(VqtrtError, match="no such folder"):
        clips_picture(tmp_path / "none/a.png", [("a", [("a", tone(0.1))])], RATE)
    assert list(tmp_path.iterdir()) == []


def test_no_windows_are_wanted(tmp_path):
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from vqtrt.data.audio.waveforms import clips_picture\n"
        "clips_picture(Path(sys.argv[1]), [('a', [('a', np.zeros(9, np.float32))])], 8000)\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.png"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
