"""What `vqtrt train-prior` is about to do: which settings, which codes, into which folder."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from vqtrt.artefacts import Artefacts
from vqtrt.config import PriorConfig, load_prior_config
from vqtrt.data.codes import Codes, is_codes, read_codes
from vqtrt.data.open import open_images
from vqtrt.engines import open_engine
from vqtrt.errors import VqtrtError
from vqtrt.pipeline import encode_source
from vqtrt.settings import read_settings
from vqtrt.tokenizer import Tokenizer
from vqtrt.training.prior import fit_config


class Planned(NamedTuple):
    """All that training a prior takes."""

    config: PriorConfig
    path: Path
    codes: Codes
    tokenizer: Tokenizer


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
    """Settings, folder and codes; images are encoded first, into a file beside the folder."""
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
    codes = _codes(config.data.path, encoded, tokenizer, model, workers, progress)
    return Planned(
        fit_config(config, codes, tokenizer.engine.weights_sha256), path, codes, tokenizer
    )


def _codes(
    data: str,
    encoded: Path,
    tokenizer: Tokenizer,
    model: Artefacts,
    workers: int,
    progress: Callable[[int, int], None],
) -> Codes:
    """The codes that are meant: a codes file, or images, which become `encoded`."""
    if is_codes(Path(data)):
        return read_codes(Path(data))
    source = open_images(data, split="train")
    encoded.parent.mkdir(parents=True, exist_ok=True)
    encode_source(
        tokenizer, source, encoded, root=data, model=model, workers=workers, progress=progress
    )
    return read_codes(encoded)
