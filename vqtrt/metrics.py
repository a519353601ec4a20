"""How good reconstructions are and how much of a codebook is used; numpy only, batch after batch.

Notable: sums of pixels are exact integers, so MSE, NMSE and PSNR do not depend on the batches; and
SSIM is that of Wang et al. 2004, equal to scikit-image's `structural_similarity(a, b,
data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1)`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Wang et al. 2004, section III-B.
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = (0.01 * 255) ** 2
SSIM_C2 = (0.03 * 255) ** 2

# Pixels at once: five float64 maps of them stay in a few tens of MB.
CHUNK_PIXELS = 1 << 19
# Outputs of one matrix product: wide enough for BLAS, narrow enough that few weights are zero.
TILE = 64


class ImageMetrics:
    """Errors of reconstructions over a set of images; sizes may differ between batches."""

    def __init__(self) -> None:
        self._images = 0
        self._values = 0
        self._sum = 0
        self._sum_of_squares = 0
        self._squared_error = 0
        self._ssim = 0.0
        self._too_small = False

    def update(self, originals: NDArray[np.uint8], reconstructions: NDArray[np.uint8]) -> None:
        """Add a batch: two uint8 arrays (N, H, W, 3). Raises `ValueError` for anything else."""
        for images in (originals, reconstructions):
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape != originals.shape:
                raise ValueError(
                    f"two uint8 arrays of one shape (N, H, W, 3) are needed, not "
                    f"{originals.dtype} {originals.shape} and "
                    f"{reconstructions.dtype} {reconstructions.shape}"
                )
        step = max(1, CHUNK_PIXELS // max(1, math.prod(originals.shape[1:3])))
        for start in range(0, len(originals), step):
            self._add(originals[start : start + step], reconstructions[start : start + step])

    def result(self) -> dict[str, float | None]:
        """`mse`, `nmse`, `psnr` and `ssim` so far, ready for JSON: None where undefined.

        - `mse`: mean squared error of pixels scaled to [0, 1].
        - `nmse`: MSE over the variance of all pixel values about their one mean; None where all
          are equal.
        - `psnr`: dB, from the set's MSE with peak 1; None where there is no error.
        - `ssim`: mean over images; None where an image is smaller than the window of 11 pixels.
        """
        if not self._values:
            return {"mse": None, "nmse": None, "psnr": None, "ssim": None}
        mse = self._squared_error / (self._values * 255**2)
        # n² times the variance: an exact integer.
        spread = self._values * self._sum_of_squares - self._sum**2
        return {
            "mse": mse,
            "nmse": self._squared_error * self._values / spread if spread else None,
            "psnr": -10 * math.log10(mse) if mse else None,
            "ssim": None if self._too_small else self._ssim / self._images,
        }

    def _add(self, originals: NDArray[np.uint8], reconstructions: NDArray[np.uint8]) -> None:
        a = originals.astype(np.int32)
        error = a - reconstructions
        self._images += len(a)
        self._values += a.size
        self._sum += int(a.sum(dtype=np.int64))
        self._sum_of_squares += int(np.square(a).sum(dtype=np.int64))
        self._squared_error += int(np.square(error).sum(dtype=np.int64))
        if min(a.shape[1:3]) < SSIM_WINDOW:
            self._too_small = True
        if not self._too_small:
            self._ssim += float(ssim(originals, reconstructions).sum())


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
    """SSIM of each pair of uint8 images (N, H, W, C), at least 11 × 11: float64 (N,).

    The mean over channels and over the places where the whole 11 × 11 window lies in the image.
    """
    x, y = (np.moveaxis(images, -1, 1).astype(np.float64, order="C") for images in (a, b))
    mean_x, mean_y = _blur(x), _blur(y)
    product = mean_x * mean_y
    squares = mean_x * mean_x + mean_y * mean_y
    covariance = _blur(x * y) - product
    # One blur for both variances: only their sum is needed.
    variances = _blur(x * x + y * y) - squares
    value = (2 * product + SSIM_C1) * (2 * covariance + SSIM_C2)
    value /= (squares + SSIM_C1) * (variances + SSIM_C2)
    return np.asarray(value.mean(axis=(1, 2, 3)), dtype=np.float64)


def _blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian window over the last two axes, (..., H, W) to (..., H - 10, W - 10)."""
    margin = SSIM_WINDOW - 1
    height, width = x.shape[-2] - margin, x.shape[-1] - margin
    rows = np.empty((*x.shape[:-1], width))
    for start in range(0, width, TILE):
        size = min(TILE, width - start)
        flat = x[..., start : start + size + margin].reshape(-1, size + margin)
        rows[..., start : start + size] = (flat @ _band(size).T).reshape(*x.shape[:-1], size)
    out = np.empty((*x.shape[:-2], height, width))
    for start in range(0, height, TILE):
        size = min(TILE, height - start)
        np.matmul(
            _band(size),
            rows[..., start : start + size + margin, :],
            out=out[..., start : start + size, :],
        )
    return out


def _band(size: int) -> NDArray[np.float64]:
    """The window as a matrix (size, size + 10), each row one place further: a product filters."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    window = np.exp(-0.5 * (offsets / SSIM_SIGMA) ** 2)
    band = np.zeros((size, size + SSIM_WINDOW - 1))
    np.lib.stride_tricks.sliding_window_view(band, SSIM_WINDOW, axis=1, writeable=True)[
        np.arange(size), np.arange(size)
    ] = window / window.sum()
    return band


class CodeUsage:
    """How evenly codes are used, over a whole set: one histogram a codebook."""

    def __init__(self, codebook_size: int, num_codebooks: int = 1) -> None:
        self.codebook_size, self.num_codebooks = codebook_size, num_codebooks
        self._counts = np.zeros((num_codebooks, codebook_size), np.int64)

    def update(self, codes: NDArray[Any]) -> None:
        """Add integer codes (N, ...), or (N, ..., C) for C > 1 codebooks.

        Raises `ValueError` for other shapes and for codes outside 0 to codebook_size - 1.
        """
        if codes.dtype.kind not in "iu" or (
            self.num_codebooks > 1 and codes.shape[-1:] != (self.num_codebooks,)
        ):
            raise ValueError(
                f"integer codes of {self.num_codebooks} codebooks are needed, not "
                f"{codes.dtype} {codes.shape}"
            )
        if not codes.size:
            return
        if int(codes.min()) < 0 or int(codes.max()) >= self.codebook_size:
            raise ValueError(f"codes outside 0 to {self.codebook_size - 1}")
        columns = codes.reshape(-1, self.num_codebooks)
        for counts, column in zip(self._counts, columns.T, strict=True):
            counts += np.bincount(column.astype(np.int64), minlength=self.codebook_size)

    @property
    def perplexity(self) -> float:
        """exp of the histogram's entropy in nats, 1 to codebook_size; mean over codebooks."""
        return float(np.exp(self._entropies()).mean())

    @property
    def unigram_bits(self) -> float:
        """The histogram's entropy in bits a code; mean over codebooks."""
        return float(self._entropies().mean() / math.log(2))

    @property
    def codes_used(self) -> int:
        """Entries seen at least once, summed over codebooks."""
        return int(np.count_nonzero(self._counts))

    @property
    def usage(self) -> float:
        """The share of all entries that were seen, 0 to 1."""
        return self.codes_used / self._counts.size

    def result(self) -> dict[str, float | int | None]:
        """The four properties by name, ready for JSON; the entropies are None without codes."""
        some = bool(self._counts.any())
        return {
            "perplexity": self.perplexity if some else None,
            "usage": self.usage,
            "codes_used": self.codes_used,
            "unigram_bits": self.unigram_bits if some else None,
        }

    def _entropies(self) -> NDArray[np.float64]:
        """Nats, one a codebook."""
        if not self._counts.any():
            raise ValueError("no codes yet")
        p = self._counts / self._counts.sum(axis=1, keepdims=True)
        # The limit of p log p at 0 is 0.
        return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=1), dtype=np.float64)


def nats(logits: NDArray[np.float32], codes: NDArray[np.int32]) -> float:
    """Negative log-likelihood of codes (…) under logits (…, K), summed, in float64."""
    values = logits.astype(np.float64)
    values -= values.max(-1, keepdims=True)
    normaliser = np.log(np.exp(values).sum(-1))
    chosen = np.take_along_axis(values, codes[..., None].astype(np.int64), -1)[..., 0]
    return float((normaliser - chosen).sum())
