"""What `vqtrt train-prior` is about to do: which settings, which codes, into which folder."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from vqtrt.artefacts import Artefacts
from vqtrt.config import PriorConfig, load_prior_config
from vqtrt.data.codes import Codes, is_codes, read_codes
from vqtrt.data.open import open_images
from vqtrt.engines import open_engine
from vqtrt.errors import VqtrtError
from vqtrt.pipeline import encode_source, list_source
from vqtrt.settings import read_settings
from vqtrt.tokenizer import Tokenizer
from vqtrt.training.loop import accelerator_for
from vqtrt.training.prior import fit_config
from vqtrt.training.run import Run


class Planned(NamedTuple):
    """All that training a prior takes."""

    config: PriorConfig
    path: Path
    codes: Codes
    tokenizer: Tokenizer
    codebooks: Tensor
    """(C, K, D)."""


def plan_prior(
    model: Artefacts,
    recipe: str,
    name: str | None,
    overrides: Sequence[str],
    *,
    resume: bool,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Planned:
    """Settings, folder and codes; images are encoded first, into a file beside the folder.

    Under torchrun one process encodes and the others wait for the file. A prior that is resumed
    takes the codes that are there, if they are still those of the images.
    """
    if model.run is None:
        raise VqtrtError(f"{model.path} is a bundle: a prior is trained in a run; name it")
    name = name or Path(recipe).stem
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise VqtrtError(f"--name {name!r}: use letters, digits, '.', '_' and '-'")
    path = model.run / "priors" / name
    if resume and not (path / "config.yaml").is_file():
        raise VqtrtError(f"nothing to resume: {path} holds no prior; train without --resume")
    if not resume and (path / "config.yaml").exists():
        raise VqtrtError(f"{path} exists already: pass --resume to continue it, or another --name")
    if resume:
        config = read_settings(PriorConfig, path / "config.yaml", overrides)
    else:
        config = load_prior_config(recipe, overrides)
    tokenizer = Tokenizer(open_engine(model))
    # Not with_suffix: a name may hold a dot.
    encoded = path.with_name(f"{path.name}.npy")
    if is_codes(Path(config.data.path)):
        codes = read_codes(Path(config.data.path))
    else:
        accelerator = accelerator_for(config.train)
        with accelerator.main_process_first():
            made = resume or not accelerator.is_main_process
            codes = _encoded(config.data.path, encoded, tokenizer, model, made, workers, progress)
    config = fit_config(config, codes, tokenizer.engine.weights_sha256)
    codebooks = Run.open(model.run).load_model().quantizer.codebook
    return Planned(config, path, codes, tokenizer, codebooks)


def _encoded(
    data: str,
    encoded: Path,
    tokenizer: Tokenizer,
    model: Artefacts,
    made: bool,
    workers: int,
    progress: Callable[[int, int], None],
) -> Codes:
    """The codes of images, in the file `encoded`; what is there is taken if it may be `made`."""
    source = open_images(data, split="train")
    if made and encoded.exists():
        codes = read_codes(encoded)
        header = codes.header
        if header is not None and (header.listing_sha256, header.weights_sha256) == (
            list_source(source).sha256,
            tokenizer.engine.weights_sha256,
        ):
            return codes
    encoded.parent.mkdir(parents=True, exist_ok=True)
    encode_source(
        tokenizer, source, encoded, root=data, model=model, workers=workers, progress=progress
    )
    return read_codes(encoded)
