import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vqtrt.audio.probe import Utterance, probe
from vqtrt.audio.probe_picture import order, probe_picture
from vqtrt.errors import VqtrtError

PHONES = ("@", "$x$", "a", "sil", "tʃ")


def found(codebook_size=16, phones=PHONES, noise=0.0):
    rng = np.random.default_rng(0)
    out = []
    for n in range(40):
        # The later a phone in the list, the more frequent it is.
        labels = np.sort(rng.integers(0, len(phones) ** 2, 60)) ** 0.5
        labels = labels.astype(int)
        codes = (codebook_size - 1 - 2 * labels) % codebook_size
        codes = np.where(rng.random(60) < noise, rng.integers(0, codebook_size, 60), codes)
        out.append(Utterance(str(n), 0, codes, tuple(phones[i] for i in labels)))
    return probe(out, codebook_size)


def test_phones_by_frequency_and_codes_by_phone():
    result = found()
    phones, codes = order(result)
    assert [result.phones[i] for i in phones] == list(reversed(PHONES))
    assert codes.tolist() == [7, 9, 11, 13, 15]


def test_codes_of_a_phone_by_how_likely_it_is():
    result = found(noise=0.3)
    phones, codes = order(result)
    assert sorted(codes) == np.flatnonzero(result.counts.any(axis=1)).tolist()
    chances = result.probabilities()[np.ix_(codes, phones)]
    best = chances.argmax(axis=1)
    assert (np.diff(best) >= 0).all()
    for phone in set(best):
        assert (np.diff(chances[best == phone].max(axis=1)) <= 0).all()


def test_the_picture_shows_a_staircase(tmp_path):
    path = tmp_path / "phones.png"
    probe_picture(path, found())
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    yellow = (np.abs(pixels - [253, 231, 37]).sum(axis=2) < 40) & (
        np.arange(pixels.shape[1]) < 0.9 * pixels.shape[1]
    )
    rows, columns = np.nonzero(yellow)
    # As many squares as phones, each of them right of and below the one before.
    assert len(rows) > 1000
    assert np.corrcoef(rows, columns)[0, 1] > 0.9
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("codes", "phones"), [(2, 1), (100, 70)])
def test_few_and_many(tmp_path, codes, phones):
    path = tmp_path / "phones.png"
    names = tuple(f"phone{i}" for i in range(phones))
    probe_picture(path, found(codes, names, noise=0.5))
    with Image.open(path) as image:
        width, height = image.size
    assert 300 < height < 4000
    assert 700 < width < 4000


def test_where_it_cannot_be_written(tmp_path):
    with pytest.raises(VqtrtError, match="no such folder"):
        probe_picture(tmp_path / "nowhere" / "phones.png", found())


def test_matplotlib_is_loaded_for_a_picture_alone():
    code = "import sys, vqtrt.audio.probe_picture; print('matplotlib' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
