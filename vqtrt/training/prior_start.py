"""What `vqtrt train-prior` is about to do: which settings, which codes, into which folder."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from torch import Tensor

from vqtrt.audio.pipeline import encode_speech
from vqtrt.audio.source import open_recordings
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.audio import SpeechConfig, SpeechPriorConfig
from vqtrt.config.images import PriorConfig, load_any_config, load_prior_config
from vqtrt.config.location import ModelLocation
from vqtrt.data.images.open import open_images
from vqtrt.engines.choose import open_engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, read_clip_codes
from vqtrt.formats.codes import Codes, is_codes, read_codes
from vqtrt.formats.codes_writer import partials
from vqtrt.images.pipeline import Progress, Source, encode_source, list_source
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.models.audio_run import SpeechRun
from vqtrt.priors.runs import PriorFolder
from vqtrt.training.audio_prior import fit_speech_config, train_speech_prior
from vqtrt.training.image_prior import fit_config, train_prior
from vqtrt.training.loop import Watcher, accelerator_for
from vqtrt.training.ranks import Ranks
from vqtrt.training.run import Run

C = TypeVar("C", Codes, ClipCodes)


class Planned(NamedTuple):
    """All that training a prior of images takes."""

    config: PriorConfig
    path: Path
    codes: Codes
    tokenizer: ImageTokenizer
    codebooks: Tensor
    """(C, K, D)."""


class PlannedSpeech(NamedTuple):
    """All that training a prior of speech takes."""

    config: SpeechPriorConfig
    path: Path
    codes: ClipCodes
    codebooks: Tensor
    """(1, K, D)."""


def plan_prior(
    model: ModelLocation,
    recipe: str | None,
    name: str | None,
    overrides: Sequence[str],
    *,
    resume: bool,
    workers: int,
    progress: Progress = lambda done, total: None,
) -> Planned | PlannedSpeech:
    """Settings, folder and codes; data are encoded first, into a file beside the folder.

    Without a recipe, `pixelcnn` for a model of images and `wavenet` for one of speech. Under
    torchrun one process encodes and the others wait for the file, however long that takes. A prior
    that is resumed takes the codes that are there; raises `VqtrtError` if the data or the model
    changed since. Where only its codes were begun, or the recipe is named, it is begun.
    """
    if model.run is None:
        raise VqtrtError(f"{model.path} is a bundle: a prior is trained in a run; name it")
    speech = isinstance(load_any_config(model.run / "config.yaml"), SpeechConfig)
    named, recipe = recipe is not None, recipe or ("wavenet" if speech else "pixelcnn")
    name = name or Path(recipe).stem
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise VqtrtError(f"--name {name!r}: use letters, digits, '.', '_' and '-'")
    path = model.run / "priors" / name
    there = (path / "config.yaml").is_file()
    if resume and not there and not named and not _codes_begun(path):
        raise VqtrtError(f"nothing to resume: {path} holds no prior; train without --resume")
    if not resume and there:
        raise VqtrtError(f"{path} exists already: pass --resume to continue it, or another --name")
    config = load_prior_config(path / "config.yaml" if resume and there else recipe, overrides)
    if isinstance(config, SpeechPriorConfig) != speech:
        of, other = ("speech", "wavenet") if speech else ("images", "pixelcnn")
        raise VqtrtError(
            f"{recipe}: no prior for codes of {of}, of which {model.run} is; take {other}"
        )
    if isinstance(config, SpeechPriorConfig):
        return _plan_speech(config, path, model, model.run, resume, workers, progress)
    return _plan_images(config, path, model, model.run, resume, workers, progress)


def train_planned(
    planned: Planned | PlannedSpeech, watcher: Watcher, *, resume: bool = False
) -> PriorFolder:
    """Train the prior that was planned."""
    if isinstance(planned, PlannedSpeech):
        return train_speech_prior(*planned, watcher, resume=resume)
    return train_prior(*planned, watcher, resume=resume)


def _plan_images(
    config: PriorConfig,
    path: Path,
    model: ModelLocation,
    run: Path,
    resume: bool,
    workers: int,
    progress: Progress,
) -> Planned:
    tokenizer, data = ImageTokenizer(open_engine(model)), config.data.path

    def encode(out: Path, made: bool) -> Codes:
        source = open_images(data, "train", config.data.selection)
        found = _made(out, read_codes, source, tokenizer.engine.weights_sha256) if made else None
        if found is None:
            out.parent.mkdir(parents=True, exist_ok=True)
            encode_source(
                tokenizer,
                source,
                out,
                root=data,
                model=model,
                workers=workers,
                on_error=config.data.on_error,
                resume=resume,
                progress=progress,
            )
        return found or read_codes(out)

    codes = _codes(config, path, resume, read_codes, encode)
    config = fit_config(config, codes, tokenizer.engine.weights_sha256)
    codebooks = Run.open(run).load_model().quantizer.codebook
    return Planned(config, path, codes, tokenizer, codebooks)


def _plan_speech(
    config: SpeechPriorConfig,
    path: Path,
    model: ModelLocation,
    run: Path,
    resume: bool,
    workers: int,
    progress: Progress,
) -> PlannedSpeech:
    tokenizer, opened = AudioTokenizer(open_engine(model)), SpeechRun.open(run)
    if not config.data.path:
        named = config.data.model_copy(update={"path": opened.config.data.path})
        config = config.model_copy(update={"data": named})
    data = config.data.path

    def encode(out: Path, made: bool) -> ClipCodes:
        try:
            source = open_recordings(model, data, selection=config.data.selection)
        except VqtrtError as error:
            # The path is often the run's, which the user never typed.
            raise VqtrtError(f"{error}; pass --data to name what to train on") from error
        sha256 = tokenizer.engine.weights_sha256
        found = _made(out, read_clip_codes, source, sha256) if made else None
        if found is None:
            out.parent.mkdir(parents=True, exist_ok=True)
            encode_speech(
                tokenizer,
                source,
                out,
                root=data,
                model=model,
                workers=workers,
                on_error=config.data.on_error,
                resume=resume,
                progress=progress,
            )
        return found or read_clip_codes(out)

    codes = _codes(config, path, resume, read_clip_codes, encode)
    config = fit_speech_config(config, codes, tokenizer.engine.weights_sha256)
    return PlannedSpeech(config, path, codes, opened.load_model().quantizer.codebook)


def _codes(
    config: PriorConfig | SpeechPriorConfig,
    path: Path,
    resume: bool,
    read: Callable[[Path], C],
    encode: Callable[[Path, bool], C],
) -> C:
    """The codes file that the settings name, or what `encode` makes of the data.

    `encode` gets the file to write, and whether one that is there may be taken.
    """
    if is_codes(Path(config.data.path)):
        return read(Path(config.data.path))
    out, main = _codes_file(path), accelerator_for(config.train).is_main_process
    ranks = Ranks()
    if main:
        codes = encode(out, resume)
    ranks.wait()
    return codes if main else encode(out, True)


def _codes_file(path: Path) -> Path:
    """Where the codes of the prior `path` are; not with_suffix: a name may hold a dot."""
    return path.with_name(f"{path.name}.npy")


def _codes_begun(path: Path) -> bool:
    return any(file.exists() for file in (_codes_file(path), *partials(_codes_file(path))))


def _made(out: Path, read: Callable[[Path], C], source: Source, weights_sha256: str) -> C | None:
    """The codes in `out`; None where there are none.

    Raises `VqtrtError` where they are not those that this tokenizer makes of the source.
    """
    if not out.exists():
        return None
    codes = read(out)
    header = codes.header
    listing = list_source(source)
    if header is None or header.weights_sha256 != weights_sha256:
        what = "the model changed since its codes were made"
    elif header.listing_sha256 != listing.sha256:
        count = len(codes.files) + len(codes.rejected)
        what = (
            f"the data changed since the prior was begun: {count} items then, {listing.items} now"
        )
    else:
        return codes
    raise VqtrtError(
        f"{out}: {what}; what was held out would be trained on, so bring back what changed, or "
        "train another prior with --name"
    )
