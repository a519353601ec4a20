"""Does a prior's cached form, on the written files, do what the full pass in torch does?"""

from typing import Any

import numpy as np
import torch

from vqtrt.artefacts import Artefacts
from vqtrt.engines import open_engine
from vqtrt.engines.torch import TorchEngine
from vqtrt.errors import VqtrtError
from vqtrt.sampler import BatchSampler, Draw, noise
from vqtrt.training.prior_run import trained_priors

TOLERANCES = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.4}
"""Largest difference of a logit between cached and full form that is taken for rounding."""


def verify_prior(
    model: Artefacts,
    name: str,
    *,
    engine: str = "auto",
    precision: str = "fp32",
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
    tested = open_engine(model, engine, precision=precision)
    reference = TorchEngine(model.run, device="cpu")
    trained = trained_priors(model.run)
    if name not in trained:
        raise VqtrtError(f"{model.run}: has no prior {name!r} as the bundle has: export it again")
    facts, prior = tested.priors[name], trained[name].load()
    labels = np.arange(batch_size, dtype=np.int32) % (len(facts.classes) or 1)
    conditional = labels if facts.classes else None
    drawn = []
    for opened in (tested, reference):
        size, book = batch_size, facts.codebook_size
        sampler = BatchSampler(opened, name, book, size, facts.width)
        drawn.append(sampler.sample(Draw(), range(size), facts.height, conditional))
    codes = drawn[0].astype(np.int32)
    with torch.inference_mode():
        condition = torch.from_numpy(labels) if facts.classes else None
        expected = prior(torch.from_numpy(codes), condition).numpy()
    difference = float(np.abs(cached_logits(tested, name, codes, conditional) - expected).max())
    agreement = float((drawn[0] == drawn[1]).mean())
    return {
        "logits_max_abs_diff": difference,
        "sample_agreement": agreement,
        "prior": name,
        "engine": tested.name,
        "passed": difference <= TOLERANCES[precision],
    }


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
    step.inputs["temperature"][:] = 1
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
