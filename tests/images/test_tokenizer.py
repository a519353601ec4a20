import numpy as np
import pytest
from doubles import EngineDouble, FakeEngine
from speech_doubles import FakeSpeechEngine

import vqtrt
from vqtrt.api import load
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.shapes import Shapes
from vqtrt.errors import VqtrtError
from vqtrt.images.tokenizer import ImageTokenizer


@pytest.fixture(params=["onnxruntime", "torch"])
def engine(request):
    return request.param


@pytest.fixture
def tokenizer(tiny_run, engine):
    return load(tiny_run, engine=engine)


def pictures(count, height=16, width=16):
    from vqtrt.data.images.preprocessing import Preprocessing

    source, size = Shapes(count, 7), Preprocessing(height=height, width=width)
    return np.stack([source.read(item, size) for item in source.items()])


def test_load_is_handed_out_by_the_package():
    assert vqtrt.load is load


def test_facts(tokenizer, engine):
    assert tokenizer.engine.name == engine
    assert (tokenizer.codebook_size, tokenizer.num_codebooks) == (16, 1)
    assert tokenizer.info.stride == 4
    assert (tokenizer.preprocessing.height, tokenizer.preprocessing.width) == (16, 16)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (8, 12), (4, 40)])
def test_there_and_back(tokenizer, height, width):
    images = pictures(5, height, width)
    codes = tokenizer.encode(images)
    assert (codes.dtype, codes.shape) == (np.uint8, (5, height // 4, width // 4))
    assert codes.shape[1:] == tokenizer.code_shape(height, width)
    assert codes.max() < 16
    decoded = tokenizer.decode(codes)
    assert (decoded.dtype, decoded.shape) == (np.uint8, images.shape)


def test_two_codebooks(tiny_run2, engine):
    tokenizer = load(tiny_run2, engine=engine)
    images = pictures(3)
    codes = tokenizer.encode(images)
    assert codes.shape == (3, 4, 4, 2)
    assert tokenizer.code_shape(8, 12) == (2, 3, 2)
    assert tokenizer.decode(codes).shape == images.shape
    np.testing.assert_array_equal(tokenizer.encode(images[0]), codes[0])
    np.testing.assert_array_equal(tokenizer.decode(codes[0]), tokenizer.decode(codes)[0])
    assert not np.array_equal(codes[..., 0], codes[..., 1])


def test_the_same_codes_on_every_engine(tiny_run):
    images = pictures(30)
    codes = [load(tiny_run, engine=name).encode(images) for name in ("onnxruntime", "torch")]
    np.testing.assert_array_equal(codes[0], codes[1])
    assert len(np.unique(codes[0])) > 5


@pytest.mark.parametrize("batch_size", [1, 2, 7, 64])
def test_codes_do_not_depend_on_the_batch(tiny_run, engine, batch_size):
    images = pictures(15)
    whole = load(tiny_run, engine=engine, batch_size=100)
    parts = load(tiny_run, engine=engine, batch_size=batch_size)
    codes = whole.encode(images)
    np.testing.assert_array_equal(parts.encode(images), codes)
    np.testing.assert_array_equal(parts.encode(images[::-1])[::-1], codes)
    difference = parts.decode(codes).astype(int) - whole.decode(codes)
    assert np.abs(difference).max() <= 1


def test_one_image_without_a_batch(tokenizer):
    images = pictures(2)
    codes = tokenizer.encode(images[1])
    assert codes.shape == (4, 4)
    np.testing.assert_array_equal(codes, tokenizer.encode(images)[1])
    decoded = tokenizer.decode(codes)
    assert decoded.shape == (16, 16, 3)
    np.testing.assert_array_equal(decoded, tokenizer.decode(codes[None])[0])


def test_empty_batches(tokenizer):
    codes = tokenizer.encode(np.zeros((0, 16, 16, 3), np.uint8))
    assert (codes.dtype, codes.shape) == (np.uint8, (0, 4, 4))
    assert tokenizer.decode(codes).shape == (0, 16, 16, 3)


def test_arrays_of_any_layout(tokenizer):
    images = pictures(4)
    codes = tokenizer.encode(images)
    fortran = np.asfortranarray(images)
    np.testing.assert_array_equal(tokenizer.encode(fortran), codes)
    np.testing.assert_array_equal(tokenizer.encode(images[::2]), codes[::2])
    np.testing.assert_array_equal(tokenizer.encode(images.tolist() and list(images)), codes)
    images.flags.writeable = False
    np.testing.assert_array_equal(tokenizer.encode(images), codes)


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint16, np.uint64])
def test_codes_of_any_integer_dtype(tokenizer, dtype):
    codes = tokenizer.encode(pictures(2))
    np.testing.assert_array_equal(tokenizer.decode(codes.astype(dtype)), tokenizer.decode(codes))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 16, 16, 3), np.float32),
        np.zeros((1, 16, 16, 4), np.uint8),
        np.zeros((1, 3, 16, 16), np.uint8),
        np.zeros((16, 16), np.uint8),
        np.zeros((1, 1, 16, 16, 3), np.uint8),
    ],
)
def test_what_is_no_image(tokenizer, images):
    with pytest.raises(VqtrtError, match=r"must be uint8 of shape \(N, H, W, 3\), not"):
        tokenizer.encode(images)


@pytest.mark.parametrize(("height", "width"), [(10, 16), (16, 18), (2, 16), (0, 16)])
def test_sizes_that_cannot_be_divided(tokenizer, height, width):
    with pytest.raises(VqtrtError, match=f"{height}x{width} pixels.*multiples of 4"):
        tokenizer.encode(np.zeros((1, height, width, 3), np.uint8))


@pytest.mark.parametrize(
    "codes",
    [
        np.full((1, 4, 4), 16),
        np.full((1, 4, 4), -1),
        np.full((1, 4, 4), 2**40),
        np.zeros((1, 4, 4)),
        np.zeros((1, 4, 4, 2), int),
        np.zeros(4, int),
    ],
)
def test_codes_that_are_none(tokenizer, codes):
    with pytest.raises(VqtrtError):
        tokenizer.decode(codes)


def test_batch_size_must_be_positive(tiny_run):
    with pytest.raises(VqtrtError, match="batch size 0"):
        load(tiny_run, batch_size=0)


def test_graphs_are_opened_when_needed_and_once():
    opened = []

    class Counting(EngineDouble):
        preprocessing = Preprocessing()

        def open(self, graph):
            opened.append(graph)
            return lambda array: array

    tokenizer = ImageTokenizer(Counting())
    assert opened == []
    assert tokenizer.graph("encoder") is tokenizer.graph("encoder")
    assert opened == ["encoder"]


def test_load_finds_the_newest(tiny_run, monkeypatch):
    monkeypatch.setenv("VQTRT_MODEL", str(tiny_run))
    assert load().codebook_size == 16


def test_a_model_of_speech_is_refused():
    with pytest.raises(VqtrtError, match="the model is of audio"):
        ImageTokenizer(FakeSpeechEngine())


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (np.zeros((2, 3, 32, 32), np.float32), r"np\.moveaxis\(images, 1, -1\)"),
        (np.zeros((3, 32, 32), np.uint8), r"np\.moveaxis\(images, 0, -1\)"),
        (np.zeros((2, 32, 32, 3)), r"\(images \* 255\)\.round\(\)\.astype\(np\.uint8\)"),
        (np.zeros((2, 32, 32, 4), np.uint8), r'convert\("RGB"\)'),
        (np.zeros((32, 32), np.uint8), r"uint8 \(32, 32\)$"),
    ],
)
def test_an_error_says_how_an_array_becomes_images(images: np.ndarray, hint: str) -> None:
    with pytest.raises(VqtrtError, match=rf"must be uint8 of shape \(N, H, W, 3\), not .*{hint}"):
        ImageTokenizer(FakeEngine()).encode(images)
