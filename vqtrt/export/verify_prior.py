"""Does a prior's cached form, on the written files, do what the full pass in torch does?"""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vqtrt.audio.sampler import ClipSampler
from vqtrt.config.location import ModelLocation
from vqtrt.engines.base import Engine
from vqtrt.engines.choose import open_engine
from vqtrt.engines.noise import noise
from vqtrt.engines.options import AUTO, EngineOptions
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import PriorInfo
from vqtrt.formats.sampling import SamplingParams
from vqtrt.images.sampler import BatchSampler
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.runs import trained_priors, trained_speech_priors
from vqtrt.priors.wavenet import WaveNetPrior

TOLERANCES = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.4}
"""Largest difference of a logit between cached and full form that is taken for rounding."""
_BEYOND = 64
"""Codes of a clip that is drawn, more than the prior sees: all caches come back."""


def verify_prior(
    model: ModelLocation,
    name: str,
    *,
    options: EngineOptions = AUTO,
    batch_size: int = 4,
) -> dict[str, Any]:
    """Sample a batch on an engine, and compare it with torch.

    Keys: `logits_max_abs_diff`, cached logits of the engine against a full forward pass of torch in
    fp32, at every position of the samples; `sample_agreement`, the share of codes that torch's
    cached form draws alike for the same seed (a draw can differ where the noise falls within
    rounding of a boundary, and then all that follows it does); `prior`, `engine`, `passed`.
    """
    if model.run is None:
        raise VqtrtError(f"{model.path}: verify compares with the prior's weights: pass the run")
    tested = open_engine(model, options)
    reference = TorchEngine(model.run, device="cpu")
    speech = tested.priors[name].kind == "wavenet"
    trained = trained_speech_priors(model.run) if speech else trained_priors(model.run)
    if name not in trained:
        raise VqtrtError(f"{model.run}: has no prior {name!r} as the bundle has: export it again")
    prior = trained[name].load()
    if isinstance(prior, WaveNetPrior):
        difference, agreement = _of_speech(tested, reference, name, prior, batch_size)
    else:
        difference, agreement = _of_images(tested, reference, name, prior, batch_size)
    return {
        "logits_max_abs_diff": difference,
        "sample_agreement": agreement,
        "prior": name,
        "engine": tested.name,
        "passed": difference <= TOLERANCES[options.precision],
    }


def _of_images(
    tested: Engine, reference: Engine, name: str, prior: PixelCNN, size: int
) -> tuple[float, float]:
    """The largest difference of a logit, and the share of codes that are drawn alike."""
    info, labels = tested.priors[name], _in_turn(tested.priors[name], size)

    def draw(engine: Engine) -> NDArray[np.int32]:
        sampler = BatchSampler(engine, name, info.codebook_size, size, info.width)
        drawn = sampler.sample(SamplingParams(), range(size), info.height, labels=labels)
        return drawn.astype(np.int32)

    codes, others = draw(tested), draw(reference)
    found = cached_logits(tested, name, codes, labels)
    return _difference(prior, codes, labels, found), float((codes == others).mean())


def _of_speech(
    tested: Engine, reference: Engine, name: str, prior: WaveNetPrior, size: int
) -> tuple[float, float]:
    """The same of clips, over more codes than the prior sees."""
    info, speakers = tested.priors[name], _in_turn(tested.priors[name], size)

    def draw(engine: Engine) -> NDArray[np.int32]:
        bind = partial(engine.bind_steps, threads=1)
        sampler, length = (
            ClipSampler(bind, name, info.codebook_size, size),
            info.receptive_field + _BEYOND,
        )
        return sampler.sample(SamplingParams(), range(size), length, speakers).astype(np.int32)

    codes, others = draw(tested), draw(reference)
    found = cached_clip_logits(tested, name, codes, speakers)
    return _difference(prior, codes, speakers, found), float((codes == others).mean())


def _in_turn(info: PriorInfo, size: int) -> NDArray[np.int32] | None:
    """Labels or speakers of samples, all in turn; None for a prior without."""
    return np.arange(size, dtype=np.int32) % len(info.classes) if info.classes else None


def _difference(
    prior: PixelCNN | WaveNetPrior,
    codes: NDArray[np.int32],
    labels: NDArray[np.int32] | None,
    found: NDArray[np.float32],
) -> float:
    """The largest difference of `found` from the logits of torch's full forward pass."""
    condition = None if labels is None else torch.from_numpy(labels)
    with torch.inference_mode():
        expected = prior(torch.from_numpy(codes), condition).numpy()
    return float(np.abs(found - expected).max())


def cached_logits(engine: Any, name: str, codes: Any, labels: Any) -> Any:
    """Logits (N, h, w, C, K) by the row and step graphs, of the codes (N, h, w, C) of seed 0.

    They are drawn again, with the same noise: the codes of one position depend on each other.
    """
    n, height, width, books = codes.shape
    size = engine.priors[name].codebook_size
    sizes = {"batch": n, "width": width}
    row = engine.bind(f"priors/{name}/row", sizes)
    shared = {"bias": row.outputs["bias"]}
    step = engine.bind(f"priors/{name}/step", sizes, shared=shared)
    SamplingParams().write(step.inputs, size)
    uniform = noise(0, range(n), height * width * books).reshape(codes.shape)
    if labels is not None:
        row.inputs["labels"][:] = labels
    logits = np.empty((n, height, width, books, size), np.float32)
    for r in range(height):
        row.inputs["above"][:] = codes[:, r - 1] if r else size
        row.run()
        step.reset()
        for c in range(width):
            step.inputs["column"][0] = c
            step.inputs["code"][:] = codes[:, r, c - 1] if c else size
            step.inputs["noise"][:] = uniform[:, r, c]
            step.run()
            logits[:, r, c] = step.outputs["logits"]
    return logits


def cached_clip_logits(engine: Any, name: str, codes: Any, speakers: Any) -> Any:
    """Logits (N, t, K) of the codes (N, t) of clips, by the step graph."""
    size = engine.priors[name].codebook_size
    step = engine.bind(f"priors/{name}/step", {"batch": len(codes)})
    SamplingParams().write(step.inputs, size)
    step.inputs["noise"][:] = 0.5
    if speakers is not None:
        step.inputs["speakers"][:] = speakers
    step.reset()
    logits = np.empty((*codes.shape, size), np.float32)
    for t in range(codes.shape[1]):
        step.inputs["previous"][:] = codes[:, t - 1] if t else size
        step.run()
        logits[:, t] = step.outputs["logits"]
    return logits
