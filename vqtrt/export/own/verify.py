"""Does a bundle of one's own modules do what these modules do? Measured on the written files.

The codes are compared with those of the modules in torch: of a quantizer module its own `indices`
in eval mode, of a codebook argmin |z − e| in float64. A code that differs has a margin: by how much
the worse of the two misses what is right, in float64, as a share of the terms that float32 rounds.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.source import Images
from vqtrt.engines.choose import open_engine
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.export.code_agreement import MARGIN
from vqtrt.export.own.adapt import Quantizer
from vqtrt.export.own.parts import Parts
from vqtrt.export.verify import BATCH_SIZES
from vqtrt.formats.bundle import Bundle
from vqtrt.images.tokenizer import ImageTokenizer

_BATCH = 64
_ONNXRUNTIME = EngineOptions("onnxruntime")
_ROWS = 256
"""Vectors whose distances to all entries (float64) are held at once."""


def verify_tokenizer(
    bundle: Bundle,
    images: Images,
    *,
    encoder: nn.Module,
    decoder: nn.Module,
    quantizer: Quantizer,
    scale: float = 1 / 255,
    offset: float = -0.5,
    options: EngineOptions = _ONNXRUNTIME,
    tolerance: float = MARGIN,
) -> dict[str, Any]:
    """Compare a bundle on an engine with the modules it came from, on uint8 images (N, H, W, 3).

    The arguments are those of `export_tokenizer`. The figures are those of `vqtrt verify`;
    `tolerance` is the margin up to which a code may differ.
    """
    parts = Parts.of(encoder, decoder, quantizer, scale, offset)
    return verify_parts(bundle, images, parts, options=options, tolerance=tolerance)


def verify_parts(
    bundle: Bundle,
    images: Images,
    parts: Parts,
    *,
    options: EngineOptions = _ONNXRUNTIME,
    tolerance: float = MARGIN,
) -> dict[str, Any]:
    """`verify_tokenizer` of modules that are checked and copied already."""
    if not len(images):
        raise VqtrtError("verify needs at least one image")
    tested = ImageTokenizer(open_engine(ModelLocation(None, bundle.path, "named"), options))
    form = copy.deepcopy(parts.form).double()
    codes = mismatches = beyond = difference = 0
    max_margin = 0.0
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        # First: it says what is wrong with images of another dtype or shape.
        tested_codes = torch.from_numpy(tested.encode(batch).astype(np.int64))
        with torch.no_grad():
            z = parts.encoder.vectors(torch.from_numpy(batch))
            expected, vectors = parts.answer(z)
            pictures = parts.decoder.images(vectors).numpy()
        margins = _margins(form, z, expected, tested_codes.reshape(expected.shape))
        codes += expected.numel()
        mismatches += len(margins)
        beyond += int((margins > tolerance).sum())
        max_margin = max(max_margin, *margins.tolist(), 0.0)
        # Of C = 1 codebooks a tokenizer knows no axis.
        given = expected if form.num_codebooks > 1 else expected[..., 0]
        apart = tested.decode(given.numpy()).astype(np.int16) - pictures.astype(np.int16)
        difference = max(difference, int(np.abs(apart).max()))
    batches = _batch_margins(tested, parts, form, images[:_BATCH])
    batch_codes = (len(BATCH_SIZES) - 1) * codes * min(_BATCH, len(images)) // len(images)
    beyond_batches = int((batches > tolerance).sum())
    return {
        "code_agreement": 1 - mismatches / codes,
        "code_agreement_beyond_margin": 1 - beyond / codes,
        "mismatches": mismatches,
        "max_mismatch_margin": max_margin,
        "decoder_max_abs_diff": difference,
        "batch_invariance": 1 - len(batches) / batch_codes,
        "batch_invariance_beyond_margin": 1 - beyond_batches / batch_codes,
        "max_batch_margin": max([0.0, *batches.tolist()]),
        "images": len(images),
        "codes": codes,
        "passed": beyond == beyond_batches == 0 and difference <= 1,
        "engine": tested.engine.name,
    }


@torch.no_grad()
def _margins(form: Any, z: Tensor, expected: Tensor, got: Tensor) -> Tensor:
    """Of each code (N, h, w, C) that differs: the larger margin of the two."""
    c = expected.shape[-1]
    ours, theirs = got.reshape(-1, c), expected.reshape(-1, c)
    differs = ours != theirs
    rows = differs.any(1)
    flat = z.double().permute(0, 2, 3, 1).flatten(0, 2)[rows]
    margins = [torch.empty(0, c, dtype=torch.float64)]
    ours, theirs = ours[rows], theirs[rows]
    for start in range(0, len(flat), _ROWS):
        some = slice(start, start + _ROWS)
        both = [form.margins(flat[some], codes[some]) for codes in (ours, theirs)]
        margins.append(torch.maximum(*both))
    return torch.cat(margins)[differs[rows]]


def _batch_margins(tokenizer: ImageTokenizer, parts: Parts, form: Any, images: Images) -> Tensor:
    """Of each code that another batch size gives than batch size 1: the larger margin of the two.

    Those of a few codes: an engine that chooses kernels by the batch rounds otherwise in each.
    """
    run = tokenizer.graph("encoder")
    with torch.no_grad():
        z = parts.encoder.vectors(torch.from_numpy(images))
    first: Tensor | None = None
    margins = []
    for size in BATCH_SIZES:
        starts = range(0, len(images), size)
        made = np.concatenate([run(images[start : start + size]) for start in starts])
        codes = torch.from_numpy(made.astype(np.int64)).reshape(*made.shape[:3], -1)
        if first is None:
            first = codes
        else:
            margins.append(_margins(form, z, first, codes))
    return torch.cat(margins)
