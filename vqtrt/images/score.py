"""How well a prior predicts codes: bits a code on a held-out set (`vqtrt eval --prior`)."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.open import open_images
from vqtrt.data.selection import Selection
from vqtrt.engines.base import Engine
from vqtrt.engines.priors import find_prior
from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Codes, check_codes, is_codes, read_codes
from vqtrt.formats.origin import require_origin
from vqtrt.images.encode import encode_source
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.metrics import CodeUsage, nats


def score_codes(
    engine: Engine,
    prior: str,
    codes: Codes,
    *,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Negative log-likelihood of codes under a prior, by the `logits` graph.

    Keys: `bits_per_code`; `unigram_bits`, the entropy of the codes by their frequency alone, in
    bits; `gain_bits`, the second less the first; `prior_bits_per_dim`, bits over the pictures'
    channel values; `rows`. Raises `VqtrtError` if the codes are not those of the prior's
    tokenizer, or lack the labels that it is conditioned on.
    """
    facts = find_prior(engine, prior)
    require_origin(codes.path, codes.header, engine.weights_sha256, "images")
    books = facts.num_codebooks
    check_codes(codes.codes, facts.codebook_size, None, books, name=str(codes.path))
    rows, height, width = codes.codes.shape[:3]
    if not rows:
        raise VqtrtError(f"{codes.path}: holds no rows: there is nothing to score")
    labels = _labels(codes, facts.classes)
    if max(height, width) > facts.reach + 1:
        raise VqtrtError(
            f"{codes.path}: grids of {height}x{width} codes; the prior {prior!r} takes up to "
            f"{facts.reach + 1}x{facts.reach + 1}"
        )
    usage = CodeUsage(facts.codebook_size, books)
    size = min(batch_size, rows)
    graph = engine.bind(f"priors/{prior}/logits", {"batch": size, "height": height, "width": width})
    total = 0.0
    for start in range(0, rows, size):
        batch = np.asarray(codes.codes[start : start + size])
        count = len(batch)
        graph.inputs["codes"][:count] = batch.reshape(count, height, width, books)
        if labels is not None:
            graph.inputs["labels"][:count] = labels[start : start + count]
        graph.run()
        usage.update(batch)
        total += nats(graph.outputs["logits"][:count], graph.inputs["codes"][:count])
        progress(start + count, rows)
    bits = total / math.log(2) / (rows * height * width * books)
    dimensions = engine.facts.stride**2 * 3
    return {
        "bits_per_code": bits,
        "unigram_bits": usage.unigram_bits,
        "gain_bits": usage.unigram_bits - bits,
        "prior_bits_per_dim": bits * books / dimensions,
        "rows": rows,
        "prior": prior,
        "engine": engine.name,
    }


def score_data(
    tokenizer: ImageTokenizer,
    model: ModelLocation,
    data: str,
    prior: str,
    *,
    split: str,
    selection: Selection | None = None,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """`score_codes` of a codes file, or of images, which are encoded for it.

    `split` and `selection` are as `open_images` takes them.
    """
    find_prior(tokenizer.engine, prior)
    path = Path(data)
    with tempfile.TemporaryDirectory(prefix="vqtrt-score-") as scratch:
        if not is_codes(path):
            source = open_images(data, split, selection)
            path = Path(scratch) / "codes.npy"
            encode_source(
                tokenizer, source, path, root=data, model=model, workers=workers, progress=progress
            )
        size = tokenizer.batch_size
        codes = read_codes(path)
        return score_codes(tokenizer.engine, prior, codes, batch_size=size, progress=progress)


def _labels(codes: Codes, classes: tuple[str, ...]) -> NDArray[np.int32] | None:
    if not classes:
        return None
    if codes.header is None or codes.header.classes != classes or min(codes.labels) < 0:
        names = ", ".join(classes[:5])
        raise VqtrtError(
            f"{codes.path}: the prior is conditioned on {len(classes)} classes ({names}, …), which "
            "are not the labels of these codes"
        )
    return np.array(codes.labels, np.int32)
