import math

import numpy as np
import pytest
from doubles import FakeEngine, FakeSource
from PIL import Image

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.images.evaluate import evaluate
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.metrics import ssim

SIZE = Preprocessing(height=16, width=16)


def figures(source, *, batch_size: int = 4, engine=None, **options):
    tokenizer = ImageTokenizer(engine or FakeEngine(), batch_size=batch_size)
    return evaluate(tokenizer, source, root="data", **{"workers": 2} | options)


def images(source, size: Preprocessing = SIZE) -> np.ndarray:
    return np.stack([source.read(i, size) for i in source.items() if i.key not in source.bad])


@pytest.mark.parametrize("bad", [[], [0, 5, 6]])
@pytest.mark.parametrize("size", [SIZE, Preprocessing(height=20, width=12)])
def test_equals_a_direct_computation(bad, size):
    source = FakeSource(10, bad)
    found = figures(source, on_error="skip", preprocessing=size)
    x = images(source, size)
    codes = FakeEngine().encoder(x)
    y = FakeEngine().decoder(codes)
    mse = float(np.mean((x / 255.0 - y / 255.0) ** 2))
    assert found["mse"] == pytest.approx(mse, rel=1e-12)
    assert found["nmse"] == pytest.approx(mse / np.var(x / 255.0), rel=1e-12)
    assert found["psnr"] == pytest.approx(-10 * math.log10(mse), rel=1e-12)
    assert found["ssim"] == pytest.approx(float(np.mean(ssim(x, y))), rel=1e-9)
    p = np.bincount(codes.ravel(), minlength=200) / codes.size
    entropy = -sum(q * math.log(q) for q in p if q)
    assert found["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-12)
    assert found["unigram_bits"] == pytest.approx(entropy / math.log(2), rel=1e-12)
    assert found["codes_used"] == np.count_nonzero(p)
    assert found["usage"] == np.count_nonzero(p) / 200
    assert (found["images"], found["rejected"]) == (10 - len(bad), len(bad))
    assert found["perplexity"] > 20


def test_keys_and_batches():
    few, many = (figures(FakeSource(10), batch_size=size) for size in (1, 64))
    assert list(few)[:4] == ["mse", "nmse", "psnr", "ssim"]
    assert {"perplexity", "usage", "codes_used", "unigram_bits", "images", "rejected"} < set(few)
    assert few.pop("rejected_kinds") == many.pop("rejected_kinds") == {}
    assert few == pytest.approx(many, rel=1e-12)


def test_codebooks_are_averaged():
    # The second codebook's codes are the first's plus one: as diverse, another set of entries.
    one = figures(FakeSource(10))
    two = figures(FakeSource(10), engine=FakeEngine(num_codebooks=2))
    for key in ("perplexity", "usage", "mse"):
        assert two[key] == pytest.approx(one[key])


def test_stops_at_what_is_no_image():
    with pytest.raises(ImageError, match=r"000005\.png"):
        figures(FakeSource(10, [5]))


def test_nothing_that_can_be_read():
    with pytest.raises(VqtrtError, match="data: none of its 3 files"):
        figures(FakeSource(3, range(3)), on_error="skip")


def test_grid_shows_the_first_images_over_their_reconstructions(tmp_path):
    source, grid = FakeSource(5), tmp_path / "grid.png"
    assert figures(source, grid=grid) == figures(source)
    with Image.open(grid) as image:
        shown = np.asarray(image)
    first = images(source)[0]
    # Pixels are doubled, behind a border of two.
    np.testing.assert_array_equal(shown[2:34:2, 2:34:2], first)
    decoded = FakeEngine().decoder(FakeEngine().encoder(first[None]))[0]
    np.testing.assert_array_equal(shown[36:68:2, 2:34:2], decoded)


def test_a_grid_that_cannot_be_written_is_known_before_any_work(tmp_path):
    read = []
    source = FakeSource(5, before=read.append)
    with pytest.raises(VqtrtError, match=r"nope: no such folder; create it first"):
        figures(source, grid=tmp_path / "nope/grid.png")
    with pytest.raises(VqtrtError, match=r"is a folder; give a file name, such as .*/grid\.png"):
        figures(source, grid=tmp_path)
    assert read == []


def test_progress():
    calls = []
    figures(FakeSource(10, [1]), on_error="skip", progress=lambda *call: calls.append(call))
    assert calls == [(0, 10), (4, 10), (8, 10), (10, 10)]
