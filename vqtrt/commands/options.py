"""What the commands have in common: their options, and how they open a model."""

import functools
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtrt.engines.options import EngineOptions
from vqtrt.errors import AudioError, ImageError, VqtrtError

if TYPE_CHECKING:
    from vqtrt.config.location import ModelLocation
    from vqtrt.data.audio.open import AudioSource
    from vqtrt.data.images.preprocessing import Preprocessing
    from vqtrt.data.selection import Selection
    from vqtrt.engines.base import Engine as OpenedEngine
    from vqtrt.formats.codes import Header
    from vqtrt.images.tokenizer import ImageTokenizer


class EngineName(StrEnum):
    """What `--engine` takes; the same names as `vqtrt.engines.ENGINES`."""

    AUTO = "auto"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    ONNXRUNTIME_CUDA = "onnxruntime-cuda"
    ONNXRUNTIME = "onnxruntime"
    TORCH = "torch"


class PrecisionName(StrEnum):
    """What `--precision` takes; the same names as `vqtrt.formats.precision.PRECISIONS`."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class OnErrorName(StrEnum):
    """What to do with a file that is no image, or no recording."""

    STOP = "stop"
    SKIP = "skip"


class SplitName(StrEnum):
    """The parts of a data set that has parts: `shapes`, CIFAR and some .npz."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        "-m",
        help="Run or bundle. Without it: $VQTRT_MODEL, else the newest run under ./runs.",
    ),
]
Device = Annotated[int, typer.Option(min=0, help="Index of the GPU; CPU engines ignore it.")]
TrustEngines = Annotated[
    bool,
    typer.Option(
        "--trust-engines",
        help="Load TensorRT engines that this machine did not build; they run as code.",
    ),
]
_ENGINE: dict[str, tuple[Any, Any]] = {
    "engine": (
        Annotated[EngineName, typer.Option(help="What runs the model.")],
        EngineName.AUTO,
    ),
    "precision": (
        Annotated[
            PrecisionName, typer.Option(help="Of the graphs that run; see `export --precision`.")
        ],
        PrecisionName.FP32,
    ),
    "device": (Device, 0),
    "trust_engines": (TrustEngines, False),
}
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one engine call.")]
IMAGES = 64
"""Images in one engine call, where `--batch-size` does not say."""
AnyBatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, help="In one engine call (default: 64 images or 16 recordings)."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Threads for files (default: one per core, at most 16).")
]
OnErrorOption = Annotated[
    OnErrorName,
    typer.Option("--on-error", help="At a file that cannot be read: stop, or skip it."),
]
TrainOnError = Annotated[
    OnErrorName | None,
    typer.Option(
        "--on-error",
        help="At a file that cannot be read: stop, or skip it (default: the recipe's).",
    ),
]
AnySplit = Annotated[
    SplitName | None, typer.Option("--split", help="Images: part of the data, where it has parts.")
]
Size = Annotated[
    str | None,
    typer.Option(help="Images: size HxW (128 for a square) instead of the model's own."),
]
Speaker = Annotated[
    str | None, typer.Option(help="Speech: voice of all clips (default: each its own).")
]
SpeakerPattern = Annotated[
    str | None,
    typer.Option(
        help="Speech: regular expression with a group `speaker`, for names that say who speaks."
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(help="Pattern of files to take, such as '*.jpg'; repeatable (default: all)."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="Pattern of files or folders to leave out; repeatable."),
]
LevelDb = Annotated[
    float | None,
    typer.Option(
        min=-80, max=0, help="Speech: level to bring recordings to, RMS in dB of full scale."
    ),
]
Temperature = Annotated[
    float | None, typer.Option(help="WaveNet decoder: 0 for the most likely samples (default: 1).")
]
Seed = Annotated[
    int | None, typer.Option(help="WaveNet decoder: another seed, other noise (default: 0).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Data = Annotated[
    str,
    typer.Argument(help="Folder of images or recordings, .npy/.npz, CIFAR, or `shapes`."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value, such as train.steps=2000; repeatable."),
]
ResumeJob = Annotated[
    bool, typer.Option("--resume", help="Continue this job, if it was interrupted.")
]
Resume = Annotated[bool, typer.Option(help="Continue from the newest checkpoint.")]


def with_engine(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of an engine in place of its parameter `engine`.

    The command declares `engine: EngineOptions`; on the command line stand `--engine`,
    `--precision`, `--device` and `--trust-engines`.
    """
    signature = inspect.signature(command)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "engine":
            parameters.append(parameter)
            continue
        parameters += [
            inspect.Parameter(name, parameter.kind, default=default, annotation=annotation)
            for name, (annotation, default) in _ENGINE.items()
        ]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        engine, precision = options.pop("engine"), options.pop("precision")
        chosen = EngineOptions(
            engine.value,
            precision.value,
            device=options.pop("device"),
            trust_engines=options.pop("trust_engines"),
        )
        command(engine=chosen, **options)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    return run


def find(named: Path | None) -> "ModelLocation":
    """The model that is meant; says which."""
    from vqtrt.commands import terminal
    from vqtrt.config.location import find_model

    found = find_model(named)
    if main_process():
        terminal.note(f"model: {found.path} ({found.chosen_by})")
    return found


def open_model(
    named: Path | None, engine: EngineOptions, batch_size: int
) -> "tuple[ModelLocation, ImageTokenizer]":
    """The model of images that is meant, opened on an engine; says which."""
    from vqtrt.images.tokenizer import ImageTokenizer

    found, opened = open_named(named, engine)
    return found, ImageTokenizer(opened, batch_size=batch_size)


def open_named(named: Path | None, engine: EngineOptions) -> "tuple[ModelLocation, OpenedEngine]":
    """The model that is meant, of images or of speech, opened on an engine; says which."""
    from vqtrt.commands import terminal
    from vqtrt.engines.choose import open_engine

    found = find(named)
    opened = open_engine(found, engine, note=terminal.note)
    terminal.note(f"engine: {opened.name}")
    return found, opened


def selection(include: list[str] | None, exclude: list[str] | None) -> "Selection":
    """Which files of a folder `--include` and `--exclude` choose."""
    from vqtrt.data.selection import Selection

    return Selection(include or (), exclude or ())


def file_settings(include: list[str] | None, exclude: list[str] | None) -> list[str]:
    """`--include` and `--exclude` as the settings of a training."""
    given = {"include": include, "exclude": exclude}
    return [f"data.{name}={json.dumps(value)}" for name, value in given.items() if value]


def tell_passed_over(kinds: Mapping[str, int], *, speech: bool = False) -> None:
    """Say which files of a folder are no items; for recordings, also what would help."""
    from vqtrt.commands import terminal
    from vqtrt.data.audio.open import conversion_hint
    from vqtrt.data.selection import in_words

    if kinds:
        hint = conversion_hint(kinds) if speech else ""
        mend = f"; {hint}" if hint else ""
        terminal.note(f"passed over {sum(kinds.values())} files: {in_words(kinds)}{mend}")


def tell_speaker(source: "AudioSource") -> None:
    """Say where one speaker stands for all recordings."""
    from vqtrt.commands import terminal
    from vqtrt.data.audio.open import speaker_note

    if text := speaker_note(source):
        terminal.note(text)


def with_kinds(figures: dict[str, Any], source: object, as_json: bool) -> dict[str, Any]:
    """Figures with what was passed over and rejected, by kind; without JSON, in notes."""
    from vqtrt.commands import terminal
    from vqtrt.data.audio.open import AudioFolder
    from vqtrt.data.folder import passed_over
    from vqtrt.data.selection import in_words

    over, kinds = passed_over(source), figures.get("rejected_kinds", {})
    if as_json:
        return figures | {"passed_over": over}
    tell_passed_over(over, speech=isinstance(source, AudioFolder))
    if kinds:
        terminal.note(f"rejected {figures['rejected']}: {in_words(kinds)}")
    return {name: value for name, value in figures.items() if name != "rejected_kinds"}


def worker_count(workers: int | None) -> int:
    """What `--workers` comes to."""
    from vqtrt.data.reading import default_workers

    return workers or default_workers()


def resized(tokenizer: "ImageTokenizer", size: str | None) -> "Preprocessing | None":
    """The model's preprocessing with the size of `--size`; None for its own."""
    return None if size is None else tokenizer.preprocessing.with_size(size)


@contextmanager
def skippable() -> Iterator[None]:
    """Of the commands that read files, only some can pass over one: those say so."""
    try:
        yield
    except (ImageError, AudioError) as error:
        raise type(error)(f"{error}; --on-error skip passes over such files") from error


def refuse(options: Mapping[str, object], of: str, model: str) -> None:
    """Raise `VqtrtError` for the first option that was given, and is for another kind of model."""
    for name, value in options.items():
        if value is not None:
            raise VqtrtError(f"--{name} is for {of}, and the model is of {model}: leave it out")


def warn_of_others(codes: Path, header: "Header | None", engine: "OpenedEngine") -> None:
    """Say where codes were made by another model than is about to decode them."""
    from vqtrt.commands import terminal

    if header and header.weights_sha256 != engine.weights_sha256:
        terminal.note(f"warning: another model made {codes}: {header.model.get('path')}")


class Written:
    """What a job that fills a folder has to say at its end."""

    def __init__(self) -> None:
        self._before = 0

    def resumed(self, count: int) -> None:
        """Take note of the files that an earlier, interrupted job had made."""
        self._before = count

    def tell(self, out: Path, count: int, what: str, wrote: str) -> None:
        """Say that `out` has all files; `wrote` tells of them if there was anything to do."""
        from vqtrt.commands import terminal

        if 0 < count == self._before:
            terminal.note(f"{out} is complete already: {count} {what}; nothing was left to do")
            return
        if self._before:
            terminal.note(f"resumed after {self._before} files")
        terminal.note(wrote)


def require_passed(figures: dict[str, Any]) -> None:
    """Fail where a verification did."""
    if not figures["passed"]:
        raise VqtrtError(
            "verification failed: codes, pictures or a prior's logits differ beyond what the "
            "precision's rounding explains, or codes change with the batch; do not use these files"
        )


def main_process() -> bool:
    """Whether this is the process that speaks, under torchrun too."""
    return os.environ.get("RANK", "0") == "0"
