"""How well a prior predicts codes of audio, in bits per code (`vqtrt eval --prior`)."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqtrt.audio.code_crops import code_crops, take_crops
from vqtrt.audio.sampler import find_clip_prior
from vqtrt.engines.base import Engine
from vqtrt.engines.lengths import grid_length, length_batches
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, check_clip_codes
from vqtrt.formats.origin import require_origin
from vqtrt.jobs.loop import Progress, Steps, ignore, run_steps
from vqtrt.jobs.score import gains
from vqtrt.metrics import CodeUsage, nats

_CROP = 1024
"""Codes of a long clip at once, besides those before them."""
_MOST = 1 << 15
"""Codes in one run, of whose logits a codebook's size are made for each."""


def score_codes(
    engine: Engine,
    prior: str,
    codes: ClipCodes,
    *,
    batch_size: int = 16,
    progress: Progress = ignore,
) -> dict[str, Any]:
    """Negative log-likelihood of clips under a prior, by the `logits` graph.

    Keys: `bits_per_code`; `unigram_bits`, the entropy of the codes by their frequency alone, in
    bits; `gain_bits`, the second less the first; `bits_per_second` of audio; `clips`. Raises
    `VqtrtError` if the codes are not those of the prior's tokenizer, or lack the speakers that
    it is conditioned on.
    """
    info, speech = find_clip_prior(engine, prior)
    require_origin(codes.path, codes.header, engine.weights_sha256, "recordings")
    check_clip_codes(codes, info.codebook_size)
    speakers = _speakers(codes, info.classes)
    lengths = codes.lengths()
    # A receptive field to the left, and each code is scored as in the whole clip.
    crops = code_crops(
        lengths, range(len(codes)), max(_CROP, info.receptive_field), info.receptive_field
    )
    if not crops:
        raise VqtrtError(f"{codes.path}: holds no codes: there is nothing to score")
    usage = CodeUsage(info.codebook_size)
    usage.update(codes.codes)
    graph = engine.open(f"priors/{prior}/logits")
    total = 0.0

    def steps() -> Steps:
        nonlocal total
        done = 0
        for indices in length_batches([crop.length for crop in crops], batch_size, most=_MOST):
            batch = [crops[i] for i in indices]
            length = grid_length(batch[0].length)
            taken = take_crops(codes, batch, length)
            inputs = [taken.codes]
            if speakers is not None:
                inputs.append(speakers[[crop.clip for crop in batch]])
            if engine.shape_specialized:
                rows = max(len(batch), min(batch_size, _MOST // length))
                inputs = [np.resize(array, (rows, *array.shape[1:])) for array in inputs]
            logits = graph(*inputs)[: len(batch)]
            total += nats(logits[taken.loss_mask], taken.codes[taken.loss_mask])
            done += len(batch)
            yield done

    run_steps(steps(), len(crops), progress)
    bits = total / math.log(2) / sum(lengths)
    rate = speech.preprocessing.sample_rate / engine.info.stride
    return {
        **gains(bits, usage.unigram_bits),
        "bits_per_second": bits * rate,
        "clips": len(codes),
        "prior": prior,
        "engine": engine.name,
    }


def _speakers(codes: ClipCodes, classes: tuple[str, ...]) -> NDArray[np.int32] | None:
    """Each clip's speaker as a number of the prior, by name."""
    if not classes:
        return None
    own = codes.header.classes if codes.header else ()
    names = [own[label] if label >= 0 else None for label in codes.labels or [-1] * len(codes)]
    for index, name in enumerate(names):
        if name not in classes:
            raise VqtrtError(
                f"{codes.path}: {codes.name(index)} is of no speaker that the prior knows; it "
                f"knows {', '.join(classes)}"
            )
    return np.array([classes.index(name) for name in names if name is not None], np.int32)


def longest_run(reach: int) -> int:
    """Codes that the `logits` graph of a prior is run on at most."""
    return grid_length(max(_CROP, reach) + reach)
