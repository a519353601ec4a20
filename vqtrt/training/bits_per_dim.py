"""`vqtrt eval --bits-per-dim`: the bound of log p(x) of a model over a data set.

All figures are upper bounds of −log₂ p(x), in bits for each channel of each pixel (paper, section
4.1), of the bytes that the encoder sees; the mean over the images, with its standard error.

| model | `bits_per_dim` | `bits_per_dim_multi`, S samples |
|---|---|---|
| VQ-VAE | −[log p(x given z) + log p(z)], z the codes; p(z) = 1/K for each (3.1) | the same |
| VAE | −ELBO of one sample, KL in closed form | IWAE (arXiv 1509.00519) |
| VIMCO | −log w of one sample | −log of the mean of S weights w |

The paper does not say whether its 4.67 has the uniform prior or a trained one; a trained one
(`prior`) is given beside it. Others' figures are often of a density: without the log 256 of bytes,
they are not comparable.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vqtrt.data.images.batches import read_batches
from vqtrt.data.images.source import ImageSource
from vqtrt.data.reading import OnError
from vqtrt.errors import VqtrtError
from vqtrt.jobs.loop import Progress, Steps, ignore, nothing_read, run_steps
from vqtrt.models.bounds import Bound
from vqtrt.models.heads import bits_per_dim
from vqtrt.models.image_likelihood import LikelihoodModel, LikelihoodVQVAE
from vqtrt.models.runs import ImageRun
from vqtrt.priors.pixelcnn import PixelCNN
from vqtrt.priors.runs import PriorRun, trained_priors

_BATCH = 50
"""Images at once: their logits of 256 bytes are 150 MiB at 32x32."""


class Scored(NamedTuple):
    """How to score a data set."""

    samples: int = 1
    """S of the bound from several samples."""
    prior: str | None = None
    """A prior of the run that scores the codes of a VQ-VAE."""
    seed: int = 0
    """Of the samples."""


class BoundMeans:
    """Means over the images of a set, in bits per dimension."""

    def __init__(self) -> None:
        self._bits: dict[str, list[Tensor]] = {}

    def add(self, bound: Bound, images: Tensor, prior_nats: Tensor | None = None) -> None:
        """Add a batch; `prior_nats` are −log p (N,) of its codes under a trained prior."""
        nats = {
            "bits_per_dim": bound.single,
            "bits_per_dim_multi": bound.multi,
            "reconstruction_bits": bound.reconstruction,
            "latent_bits": -bound.latents,
        }
        if prior_nats is not None:
            nats["prior_latent_bits"] = -prior_nats
            nats["prior_bits_per_dim"] = bound.reconstruction - prior_nats
        for name, value in nats.items():
            self._bits.setdefault(name, []).append(bits_per_dim(value, images).cpu())

    def result(self) -> dict[str, float]:
        """The mean of each, and the standard error of the bound."""
        bits = {name: torch.cat(values) for name, values in self._bits.items()}
        found = {name: float(values.mean()) for name, values in bits.items()}
        first = bits["bits_per_dim"]
        spread = float(first.std()) / math.sqrt(len(first)) if len(first) > 1 else 0.0
        return found | {"standard_error": spread}


def evaluate_bits(
    run: ImageRun,
    source: ImageSource,
    how: Scored,
    *,
    root: str,
    workers: int,
    on_error: OnError = "stop",
    device: str | None = None,
    progress: Progress = ignore,
) -> dict[str, Any]:
    """The bounds of a run with a likelihood over all images of a source.

    Keys: `bits_per_dim` and its `standard_error` over the images; `reconstruction_bits` and
    `latent_bits`, whose sum it is; `bits_per_dim_multi` and `samples` if there are several;
    `prior_bits_per_dim` and `prior_latent_bits` with a prior; `latents`, `images`, `rejected`.

    Raises `VqtrtError` for a model without a likelihood, or a prior that the run does not have.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = run.load_likelihood().to(place)
    score = _prior_scorer(run, how.prior, source.classes, place)
    generator = torch.Generator(place).manual_seed(how.seed)
    means, images, rejected = BoundMeans(), 0, 0
    total = sum(1 for _ in source.items())

    def steps() -> Steps:
        nonlocal images, rejected
        for batch in read_batches(
            source,
            run.config.data.preprocessing,
            batch_size=_BATCH,
            workers=workers,
            on_error=on_error,
        ):
            rejected += len(batch.rejected)
            if batch.items:
                levels = torch.from_numpy(batch.images).to(place)
                labels = torch.tensor([item.label for item in batch.items], device=place)
                prior_nats = score(model, levels, labels) if score else None
                means.add(model.bounds(levels, how.samples, generator), levels, prior_nats)
                images += len(batch.items)
            yield images + rejected

    run_steps(steps(), total, progress)
    if not images:
        raise nothing_read(root, total, "an image")
    found: dict[str, Any] = dict(means.result())
    if how.samples == 1 or isinstance(model, LikelihoodVQVAE):
        del found["bits_per_dim_multi"]
    else:
        found["samples"] = how.samples
    others = {"latents": run.config.model.likelihood.latents, "images": images}
    return found | others | {"rejected": rejected} | ({"prior": how.prior} if how.prior else {})


_Scorer = Callable[[LikelihoodModel, Tensor, Tensor], Tensor]


def _prior_scorer(
    run: ImageRun, name: str | None, classes: tuple[str, ...], place: torch.device
) -> _Scorer | None:
    """What gives −log p(z) (N,) in nats, float64, of a batch of images under a prior."""
    if name is None:
        return None
    if (latents := run.config.model.likelihood.latents) != "codes":
        raise VqtrtError(f"--prior scores codes, and {run.path} has none (latents: {latents})")
    priors = trained_priors(run.path)
    if name not in priors:
        known = ", ".join(sorted(priors)) or "none yet; `vqtrt train-prior` trains one"
        raise VqtrtError(f"{run.path} has no prior {name!r}; it has {known}")
    prior, found = priors[name].load().to(place), priors[name]
    _require_fit(found, run, classes)
    conditional = bool(found.config.codes.classes)

    @torch.no_grad()
    def score(model: LikelihoodModel, levels: Tensor, labels: Tensor) -> Tensor:
        assert isinstance(model, LikelihoodVQVAE)  # noqa: S101 - the only one with codes
        return code_nats(prior, model.encode(levels), labels if conditional else None)

    return score


def code_nats(prior: PixelCNN, codes: Tensor, labels: Tensor | None) -> Tensor:
    """−log p (N,) in nats, float64, of codes (N, h, w, C) under a prior."""
    log_p: Tensor = prior(codes, labels).double().log_softmax(-1)
    return -log_p.gather(-1, codes[..., None]).sum((1, 2, 3, 4))


def _require_fit(prior: PriorRun, run: ImageRun, classes: tuple[str, ...]) -> None:
    codes, size = prior.config.codes, run.config.data.preprocessing
    stride = run.config.model.stride
    if (codes.height, codes.width) != (size.height // stride, size.width // stride):
        raise VqtrtError(f"{prior.path}: is a prior of grids of {codes.height}x{codes.width} codes")
    if codes.classes and codes.classes != classes:
        raise VqtrtError(
            f"{prior.path}: is conditioned on {len(codes.classes)} classes, which are not the "
            "labels of these data; train it with --set data.conditional=false"
        )
