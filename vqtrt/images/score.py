"""How well a prior predicts codes: bits a code on a held-out set (`vqtrt eval --prior`)."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.engines.base import Engine
from vqtrt.engines.priors import find_prior
from vqtrt.errors import VqtrtError
from vqtrt.formats.code_values import check_codes
from vqtrt.formats.codes import Codes, require_one_view
from vqtrt.formats.origin import require_origin
from vqtrt.jobs.loop import Progress, Steps, ignore, run_steps
from vqtrt.jobs.score import gains
from vqtrt.metrics import CodeUsage, nats


def score_codes(
    engine: Engine,
    prior: str,
    codes: Codes,
    *,
    batch_size: int = 16,
    progress: Progress = ignore,
) -> dict[str, Any]:
    """Negative log-likelihood of codes under a prior, by the `logits` graph.

    Keys: `bits_per_code`; `unigram_bits`, the entropy of the codes by their frequency alone, in
    bits; `gain_bits`, the second less the first; `prior_bits_per_dim`, bits over the pictures'
    channel values; `rows`. Raises `VqtrtError` if the codes are not those of the prior's
    tokenizer, or lack the labels that it is conditioned on.
    """
    info = find_prior(engine, prior)
    require_origin(codes.path, codes.header, engine.weights_sha256, "images")
    books = info.num_codebooks
    require_one_view(codes)
    check_codes(codes.codes, info.codebook_size, None, books, name=str(codes.path))
    rows, height, width = codes.codes.shape[:3]
    if not rows:
        raise VqtrtError(f"{codes.path}: holds no rows: there is nothing to score")
    labels = _labels(codes, info.classes)
    if max(height, width) > info.receptive_field + 1:
        raise VqtrtError(
            f"{codes.path}: grids of {height}x{width} codes; the prior {prior!r} takes up to "
            f"{info.receptive_field + 1}x{info.receptive_field + 1}"
        )
    usage = CodeUsage(info.codebook_size, books)
    size = min(batch_size, rows)
    graph = engine.bind(f"priors/{prior}/logits", {"batch": size, "height": height, "width": width})
    total = 0.0

    def steps() -> Steps:
        nonlocal total
        for start in range(0, rows, size):
            batch = np.asarray(codes.codes[start : start + size])
            count = len(batch)
            graph.inputs["codes"][:count] = batch.reshape(count, height, width, books)
            if labels is not None:
                graph.inputs["labels"][:count] = labels[start : start + count]
            graph.run()
            usage.update(batch)
            total += nats(graph.outputs["logits"][:count], graph.inputs["codes"][:count])
            yield start + count

    run_steps(steps(), rows, progress)
    bits = total / math.log(2) / (rows * height * width * books)
    dimensions = engine.info.stride**2 * 3
    return {
        **gains(bits, usage.unigram_bits),
        "prior_bits_per_dim": bits * books / dimensions,
        "rows": rows,
        "prior": prior,
        "engine": engine.name,
    }


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
