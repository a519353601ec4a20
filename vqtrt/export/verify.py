"""Does a model on an engine do what torch does? Measured on real images, on the written files.

The codes are the contract: the share of codes that are those of torch in float64, and for each
code that differs its margin (`code_agreement.py`). In half precision the pictures of the whole
round trip have to be as good as those of fp32.
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.source import Images
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.export.code_agreement import CodeAgreement
from vqtrt.formats.bundle import Bundle, file_sha256
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.models.heads import normalize

HALF_PSNR_DB = 0.1
"""The largest change of the round trip's PSNR in half precision."""
BATCH_SIZES = (1, 2, 7, 64)
_BATCH = 64


def verify(
    model: ModelLocation,
    batches: Iterable[Images],
    *,
    options: EngineOptions = AUTO,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Compare an engine with torch in float64 on batches of uint8 images (n, H, W, 3).

    Keys: `code_agreement` (share of equal codes), `code_agreement_beyond_margin` (a differing code
    counts only where its margin exceeds that of the precision), `mismatches`,
    `max_mismatch_margin` (0 if there is none), `decoder_max_abs_diff` (gray levels, on torch's
    codes), `psnr_change_db` (of images encoded and decoded: the engine's PSNR less torch's),
    `batch_invariance` (share of codes at batch sizes 2, 7 and 64 that are those at batch size 1),
    `batch_invariance_beyond_margin` and `max_batch_margin` (the same measures as of mismatches: an
    engine that chooses kernels by the batch rounds otherwise in each, which decides ties),
    `images`, `codes`, `engine`, `precision`, `passed`.
    Raises `VqtrtError` if the run's weights are not those of the bundle.
    """
    if model.run is None:
        raise VqtrtError(
            f"{model.path}: verify compares with the weights that were exported: pass the run "
            "(a bundle in RUN/bundle finds its run by itself)"
        )
    if options.engine != "torch":
        check_weights(model, model.open_bundle())
    reference = TorchEngine(model.run, device="cpu")
    opened = open_engine(model, options)
    tested = ImageTokenizer(opened, batch_size=max(BATCH_SIZES))
    expected = ImageTokenizer(reference)
    comparison = _Comparison(reference, options.precision)
    for images in batches:
        codes = comparison.expected(images)
        got = tested.encode(images)
        comparison.add_codes(images, codes, got)
        pictures = expected.decode(codes)
        tested_pictures = tested.decode(codes)
        comparison.add_pictures(pictures, tested_pictures)
        if (rows := (got != codes).reshape(len(codes), -1).any(1)).any():
            tested_pictures[rows] = tested.decode(got[rows])
        comparison.add_round_trips(images, pictures, tested_pictures)
        comparison.add_batches(tested, images)
        progress(comparison.images)
    if not comparison.images:
        raise VqtrtError("verify needs at least one image")
    return comparison.result() | {"engine": tested.engine.name}


def check_weights(model: ModelLocation, bundle: Bundle) -> None:
    """Raise `VqtrtError` if the run's weights are not those of its bundle."""
    assert model.run is not None  # noqa: S101 - the caller asked for it
    weights = model.run / "model.safetensors"
    if not weights.is_file() or file_sha256(weights) != bundle.info.source.weights_sha256:
        raise VqtrtError(
            f"{bundle.path} was exported from other weights than {weights} holds now: "
            f"type `vqtrt export {model.run}`"
        )


class _Comparison:
    """Counts of what agreed and what did not."""

    def __init__(self, reference: TorchEngine, precision: str = "fp32") -> None:
        self.precision = precision
        self.rounding_encoder = reference.model.encoder
        self.encoder = copy.deepcopy(self.rounding_encoder).double()
        codebooks = reference.model.quantizer.entries().double()
        self.agreement = CodeAgreement(codebooks, precision)
        self.batches = CodeAgreement(codebooks, precision)
        self.stride = reference.info.stride
        self.images = 0
        self.max_difference = 0
        self.squares = [0, 0]  # of torch's round trips and of the engine's, in gray levels

    def vectors(self, images: Images, dtype: torch.dtype = torch.float64) -> Tensor:
        """What is quantized, in float64, or as torch rounds it in float32: (n·h·w, C, D)."""
        c, _, d = self.agreement.codebooks.shape
        encoder = self.encoder if dtype == torch.float64 else self.rounding_encoder
        with torch.inference_mode():
            z: Tensor = encoder(normalize(torch.from_numpy(images)).to(dtype))
            return z.permute(0, 2, 3, 1).reshape(-1, c, d)

    def expected(self, images: Images) -> NDArray[np.int64]:
        """The codes by definition, argmin |z − e|: (n, h, w), or (n, h, w, C)."""
        parts = []
        for start in range(0, len(images), _BATCH):
            z = self.vectors(images[start : start + _BATCH])
            parts.append(self.agreement.expected(z))
        height, width = images.shape[1] // self.stride, images.shape[2] // self.stride
        codes = torch.cat(parts).reshape(len(images), height, width, -1)
        return (codes[..., 0] if codes.shape[-1] == 1 else codes).numpy()

    def add_codes(self, images: Images, expected: NDArray[Any], tested: NDArray[Any]) -> None:
        self.images += len(images)
        self.judge(self.agreement, images, expected, tested)

    def judge(
        self, agreement: CodeAgreement, images: Images, one: NDArray[Any], other: NDArray[Any]
    ) -> None:
        """Count codes of images, and measure those that differ."""
        agreement.add(one.size)
        for row in np.flatnonzero((one != other).reshape(len(images), -1).any(1)):
            image = images[row][None]
            rounded = self.vectors(image, torch.float32)
            agreement.add_mismatches(self.vectors(image), one[row], other[row], rounded)

    def add_pictures(self, expected: Images, tested: Images) -> None:
        difference = np.abs(expected.astype(np.int16) - tested.astype(np.int16))
        self.max_difference = max(self.max_difference, int(difference.max(initial=0)))

    def add_round_trips(self, images: Images, *round_trips: Images) -> None:
        for index, pictures in enumerate(round_trips):
            difference = images.astype(np.int64) - pictures
            self.squares[index] += int((difference * difference).sum())

    def add_batches(self, tokenizer: ImageTokenizer, images: Images) -> None:
        run = tokenizer.graph("encoder")
        first: NDArray[Any] | None = None
        for size in BATCH_SIZES:
            starts = range(0, len(images), size)
            codes = np.concatenate([run(images[start : start + size]) for start in starts])
            if first is None:
                first = codes
                continue
            self.judge(self.batches, images, first, codes)

    def result(self) -> dict[str, Any]:
        torch_squares, squares = (max(1, total) for total in self.squares)
        change = 10 * math.log10(torch_squares / squares)
        half = self.precision != "fp32"
        same = abs(change) <= HALF_PSNR_DB if half else self.max_difference <= 1
        return self.agreement.figures() | {
            "decoder_max_abs_diff": self.max_difference,
            "psnr_change_db": change,
            **self.batches.invariance("batch"),
            "images": self.images,
            "precision": self.precision,
            "passed": same and self.agreement.good and self.batches.good,
        }
