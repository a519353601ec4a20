import numpy as np
import pytest
from PIL import Image

from vqtrt.config.location import find_model
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import read_codes
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sample import Request, Samples, sample_codes
from vqtrt.images.sample_files import read_prefix, write_codes, write_grid, write_pictures
from vqtrt.images.tokenizer import ImageTokenizer

REQUEST = Request("pixelcnn", 5, SamplingParams(seed=3), shape=(3, 4))


@pytest.fixture(scope="module")
def model(tiny_prior):
    return find_model(tiny_prior)


@pytest.fixture(scope="module")
def tokenizer(model):
    return ImageTokenizer(open_engine(model), batch_size=2)


@pytest.fixture(scope="module")
def samples(tokenizer):
    return sample_codes(tokenizer.engine, REQUEST)


def test_a_codes_file(tmp_path, model, tokenizer, samples):
    write_codes(tokenizer, REQUEST, samples, tmp_path / "s.npy", model)
    written = read_codes(tmp_path / "s.npy")
    np.testing.assert_array_equal(written.codes, samples.codes)
    assert written.labels == tuple(samples.labels)
    assert written.files == tuple(f"sample-{i:06d}" for i in range(5))
    header = written.header
    assert header.classes == tokenizer.engine.priors["pixelcnn"].classes
    assert (header.code_shape, header.image_size) == ((3, 4), (12, 16))
    assert header.root == "prior pixelcnn, seed 3"
    assert header.weights_sha256 == tokenizer.engine.weights_sha256
    np.testing.assert_array_equal(read_prefix(tmp_path / "s.npy", tokenizer), samples.codes)


def test_codes_of_a_prior_without_labels(tmp_path, tiny_prior2):
    model = find_model(tiny_prior2)
    tokenizer = ImageTokenizer(open_engine(model, EngineOptions("torch")))
    samples = sample_codes(tokenizer.engine, REQUEST)
    write_codes(tokenizer, REQUEST, samples, tmp_path / "s.npy", model)
    written = read_codes(tmp_path / "s.npy")
    np.testing.assert_array_equal(written.codes, samples.codes)
    assert written.codes.shape == (5, 3, 4, 2)
    assert written.labels == written.header.classes == ()


def test_pictures(tmp_path, tokenizer, samples):
    write_pictures(tokenizer, samples, tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"sample-{i:06d}.png" for i in range(5)]
    for name, image in zip(names, tokenizer.decode(samples.codes), strict=True):
        with Image.open(tmp_path / "out" / name) as opened:
            np.testing.assert_array_equal(np.asarray(opened), image)


@pytest.mark.parametrize("labels", [None, [1] * 7, [0, 1, 2, 0, 1, 2, 0]])
def test_grid(tmp_path, tokenizer, labels):
    given = None if labels is None else np.array(labels, np.int32)
    codes = np.random.default_rng(0).integers(0, 16, (7, 4, 4)).astype(np.uint8)
    write_grid(tokenizer, Samples(codes, given), tmp_path / "g.png", scale=1)
    with Image.open(tmp_path / "g.png") as opened:
        grid = np.asarray(opened)
    assert grid.shape == (3 * 18 + 2, 3 * 18 + 2, 3)
    images = tokenizer.decode(codes)
    first = images[0]
    np.testing.assert_array_equal(grid[2:18, 2:18], first)
    below = images[1] if labels and len(set(labels)) > 1 else images[3]
    np.testing.assert_array_equal(grid[20:36, 2:18], below)


def test_a_prefix_of_another_tokenizer(tokenizer, tiny_prior2):
    with pytest.raises(VqtrtError, match="another tokenizer"):
        read_prefix(tiny_prior2 / "priors" / "pixelcnn.npy", tokenizer)
