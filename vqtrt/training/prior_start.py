"""What `vqtrt train-prior` is about to do: which settings, which codes, into which folder."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from vqtrt.audio import encode as audio_encode
from vqtrt.audio.source import open_recordings
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.audio import SpeechConfig, SpeechPriorConfig
from vqtrt.config.images import PriorConfig, load_any_config, load_prior_config
from vqtrt.config.location import ModelLocation
from vqtrt.data.audio.folder import AudioSource
from vqtrt.data.images.open import open_images
from vqtrt.data.images.source import ImageSource
from vqtrt.data.source import Source
from vqtrt.engines.choose import open_engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.audio_codes import ClipCodes, read_clip_codes
from vqtrt.formats.codes import Codes, is_codes, read_codes, require_one_view
from vqtrt.formats.codes_writer import partials
from vqtrt.formats.origin import of_another
from vqtrt.images import encode as image_encode
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.encode import list_source
from vqtrt.jobs.loop import Progress
from vqtrt.models.runs import AudioRun, ImageRun
from vqtrt.priors.runs import PriorFolder
from vqtrt.training.audio_prior import fit_speech_config, train_speech_prior
from vqtrt.training.image_prior import fit_config, train_prior
from vqtrt.training.loop import Watcher, accelerator_for
from vqtrt.training.ranks import Ranks

C = TypeVar("C", Codes, ClipCodes)
S = TypeVar("S", bound=Source)


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
    changed since. If only its codes were begun, or the recipe is named, training begins.
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
    begin = _Begin(path, model, model.run, resume, workers, progress)
    if isinstance(config, SpeechPriorConfig):
        return _plan_speech(config, begin)
    return _plan_images(config, begin)


def train_planned(
    planned: Planned | PlannedSpeech, watcher: Watcher, *, resume: bool = False
) -> PriorFolder[Any]:
    """Train the prior that was planned."""
    if isinstance(planned, PlannedSpeech):
        return train_speech_prior(*planned, watcher, resume=resume)
    return train_prior(*planned, watcher, resume=resume)


class _Begin(NamedTuple):
    """What the plans of both modalities are made of."""

    path: Path
    model: ModelLocation
    run: Path
    resume: bool
    workers: int
    progress: Progress


def _plan_images(config: PriorConfig, begin: _Begin) -> Planned:
    tokenizer, data = ImageTokenizer(open_engine(begin.model)), config.data

    def encode(source: ImageSource, out: Path, **options: Any) -> None:
        image_encode.encode_source(tokenizer, source, out, **options)

    sha256 = tokenizer.engine.weights_sha256
    codes = _codes(
        config,
        begin,
        read_codes,
        lambda: open_images(data.path, "train", data.selection),
        encode,
        sha256,
    )
    require_one_view(codes)
    codebooks = ImageRun.open(begin.run).load_model().quantizer.entries()
    return Planned(fit_config(config, codes, sha256), begin.path, codes, tokenizer, codebooks)


def _plan_speech(config: SpeechPriorConfig, begin: _Begin) -> PlannedSpeech:
    tokenizer, run = AudioTokenizer(open_engine(begin.model)), AudioRun.open(begin.run)
    if not config.data.path:
        named = config.data.model_copy(update={"path": run.config.data.path})
        config = config.model_copy(update={"data": named})
    data = config.data

    def recordings() -> AudioSource:
        try:
            return open_recordings(begin.model, data.path, selection=data.selection)
        except VqtrtError as error:
            # The path is often the run's, which the user never typed.
            raise VqtrtError(f"{error}; pass --data to name what to train on") from error

    def encode(source: AudioSource, out: Path, **options: Any) -> None:
        audio_encode.encode_source(tokenizer, source, out, **options)

    sha256 = tokenizer.engine.weights_sha256
    codes = _codes(config, begin, read_clip_codes, recordings, encode, sha256)
    codebooks = run.load_model().quantizer.entries()
    return PlannedSpeech(fit_speech_config(config, codes, sha256), begin.path, codes, codebooks)


def _codes(
    config: PriorConfig | SpeechPriorConfig,
    begin: _Begin,
    read: Callable[[Path], C],
    open_source: Callable[[], S],
    encode: Callable[..., None],
    weights_sha256: str,
) -> C:
    """The codes file that the settings name, or the codes of the data, encoded here if need be."""
    if is_codes(Path(config.data.path)):
        return read(Path(config.data.path))
    out, main = _codes_file(begin.path), accelerator_for(config.train).is_main_process

    def made(again: bool) -> C:
        """The codes of the data; with `again`, those that are there already may be taken."""
        source = open_source()
        found = _made(out, read, source, weights_sha256) if again else None
        if found is not None:
            return found
        out.parent.mkdir(parents=True, exist_ok=True)
        encode(
            source,
            out,
            root=config.data.path,
            model=begin.model,
            workers=begin.workers,
            on_error=config.data.on_error,
            resume=begin.resume,
            progress=begin.progress,
        )
        return read(out)

    ranks = Ranks()
    if main:
        codes = made(begin.resume)
    ranks.wait()
    return codes if main else made(True)


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
    if header is None or of_another(header, weights_sha256):
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
