import json
import math
from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vqtrt.metrics import CodeUsage, ImageMetrics, ssim


def noise(n: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def waves(n: int, height: int, width: int) -> np.ndarray:
    y, x, c, i = np.ogrid[:height, :width, :3, :n]
    value = 127.5 + 100 * np.sin(x / (3 + i) + c) * np.cos(y / (5 + c)) + 20 * (x > width // 2)
    return np.ascontiguousarray(np.moveaxis(value.clip(0, 255).astype(np.uint8), -1, 0))


def worse(images: np.ndarray, sigma: float = 15, seed: int = 1) -> np.ndarray:
    change = np.random.default_rng(seed).normal(0, sigma, images.shape)
    return (images + change).clip(0, 255).astype(np.uint8)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> list[float]:
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return [
        structural_similarity(x, y, data_range=255, channel_axis=-1, **settings)
        for x, y in zip(a, b, strict=True)
    ]


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    flat = np.full((1, 16, 16, 3), 200, np.uint8)
    return [
        (noise(3, 32, 32), noise(3, 32, 32, seed=1)),
        (waves(3, 32, 32), worse(waves(3, 32, 32))),
        (waves(1, 11, 11), worse(waves(1, 11, 11))),
        (waves(2, 11, 90), worse(waves(2, 11, 90), 60)),
        (waves(1, 150, 75), worse(waves(1, 150, 75), 3)),
        (flat, flat - 50),
        (np.zeros_like(flat), np.full_like(flat, 255)),
        (waves(1, 32, 32), 255 - waves(1, 32, 32)),
    ]


@pytest.mark.parametrize("case", range(8))
def test_ssim_is_that_of_skimage(case: int) -> None:
    a, b = pairs()[case]
    np.testing.assert_allclose(ssim(a, b), reference_ssim(a, b), rtol=0, atol=1e-10)
    np.testing.assert_allclose(ssim(a, a), 1, atol=1e-12)


def test_result_equals_float64_numpy_and_skimage() -> None:
    a = waves(40, 24, 20)
    b = worse(a)
    metrics = ImageMetrics()
    metrics.update(a, b)
    result = metrics.result()
    x, y = a / 255, b / 255
    assert result["mse"] == pytest.approx(((x - y) ** 2).mean(), rel=1e-12)
    assert result["nmse"] == pytest.approx(((x - y) ** 2).mean() / x.var(), rel=1e-12)
    assert result["psnr"] == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), rel=1e-12)
    assert result["ssim"] == pytest.approx(np.mean(reference_ssim(a, b)), abs=1e-12)


def test_constant_prediction_of_the_mean_has_nmse_one() -> None:
    a = np.zeros((2, 12, 12, 3), np.uint8)
    a[1] = 200
    metrics = ImageMetrics()
    metrics.update(a, np.full_like(a, 100))
    assert metrics.result()["nmse"] == 1.0


def test_uneven_batches_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    a = waves(23, 17, 15)
    b = worse(a)
    whole, parts, chunked = ImageMetrics(), ImageMetrics(), ImageMetrics()
    whole.update(a, b)
    for start, stop in [(0, 1), (1, 1), (1, 9), (9, 10), (10, 23)]:
        parts.update(a[start:stop], b[start:stop])
    monkeypatch.setattr("vqtrt.metrics.CHUNK_PIXELS", 700)
    chunked.update(a, b)
    for other in (parts.result(), chunked.result()):
        for key in ("mse", "nmse", "psnr"):
            assert other[key] == whole.result()[key]
        assert other["ssim"] == pytest.approx(whole.result()["ssim"], abs=1e-13)


def test_sums_do_not_wrap() -> None:
    a, b = np.full((1, 256, 256, 3), 255, np.uint8), np.zeros((1, 256, 256, 3), np.uint8)
    metrics = ImageMetrics()
    metrics.update(a, b)
    metrics.update(b, a)
    result = metrics.result()
    assert (result["mse"], result["nmse"], result["psnr"]) == (1.0, 4.0, 0.0)


def test_undefined_values_are_none_and_json_safe() -> None:
    empty = ImageMetrics()
    assert set(empty.result().values()) == {None}
    empty.update(noise(0, 32, 32), noise(0, 32, 32))
    assert set(empty.result().values()) == {None}

    perfect = ImageMetrics()
    a = waves(2, 16, 16)
    perfect.update(a, a)
    result = perfect.result()
    assert (result["mse"], result["nmse"], result["psnr"]) == (0, 0, None)
    assert result["ssim"] == pytest.approx(1)
    json.dumps(result, allow_nan=False)

    flat = ImageMetrics()
    flat.update(np.full((1, 16, 16, 3), 9, np.uint8), noise(1, 16, 16))
    assert flat.result()["nmse"] is None
    assert flat.result()["mse"] is not None

    small = ImageMetrics()
    small.update(a, worse(a))
    small.update(noise(1, 10, 40), noise(1, 10, 40, seed=1))
    small.update(a, worse(a))
    assert small.result()["ssim"] is None
    assert small.result()["psnr"] is not None


def test_wrong_arrays_are_refused() -> None:
    a = noise(2, 12, 12)
    others: list[Any] = [a[:1], a[0], a.astype(np.float32)]
    for other in others:
        with pytest.raises(ValueError, match="two uint8 arrays"):
            ImageMetrics().update(a, other)
    with pytest.raises(ValueError, match="two uint8 arrays"):
        ImageMetrics().update(a[0], a[0])


def test_perplexity_of_known_histograms() -> None:
    usage = CodeUsage(8)
    usage.update(np.arange(4, dtype=np.uint8).reshape(1, 2, 2))
    assert usage.perplexity == pytest.approx(4)
    assert usage.unigram_bits == pytest.approx(2)
    assert (usage.codes_used, usage.usage) == (4, 0.5)
    one = CodeUsage(512)
    one.update(np.full((3, 2, 2), 511, np.int32))
    assert one.perplexity == 1
    assert one.unigram_bits == 0
    assert (one.codes_used, one.usage) == (1, 1 / 512)


def test_codebooks_have_their_own_histograms_and_batches_add_up() -> None:
    codes = np.random.default_rng(0).integers(0, 20, (50, 3, 4, 2)).astype(np.uint16)
    codes[..., 1] //= 5
    whole, parts = CodeUsage(32, 2), CodeUsage(32, 2)
    whole.update(codes)
    for start, stop in [(0, 3), (3, 3), (3, 50)]:
        parts.update(codes[start:stop])
    assert whole.result() == parts.result()
    entropies = []
    for c in range(2):
        _, counts = np.unique(codes[..., c], return_counts=True)
        p = counts / counts.sum()
        entropies.append(-(p * np.log(p)).sum())
    assert whole.perplexity == pytest.approx(np.exp(entropies).mean())
    assert whole.unigram_bits == pytest.approx(np.mean(entropies) / math.log(2))
    assert (whole.codes_used, whole.usage) == (24, 24 / 64)


def test_wrong_codes_are_refused_and_none_is_no_entropy() -> None:
    usage = CodeUsage(4, 2)
    assert usage.result()["perplexity"] is None
    with pytest.raises(ValueError, match="no codes"):
        _ = usage.perplexity
    usage.update(np.zeros((0, 2, 2, 2), np.uint8))
    assert usage.codes_used == 0
    for wrong in (np.zeros((1, 2, 3), np.uint8), np.zeros((1, 2), np.float32)):
        with pytest.raises(ValueError, match="integer codes of 2 codebooks"):
            usage.update(wrong)
    for value in (-1, 4):
        with pytest.raises(ValueError, match="codes outside 0 to 3"):
            usage.update(np.full((1, 2), value))
