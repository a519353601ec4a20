"""The options of the commands, and how a command opens its model.

Options that go together are a dataclass: a command declares one parameter of that class, and
`expanded` puts its fields on the command line. `EngineOptions` is one of them.
"""

import functools
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqtrt.commands import terminal
from vqtrt.engines.options import ENGINES, PRECISIONS, EngineOptions
from vqtrt.errors import VqtrtError

if TYPE_CHECKING:
    from vqtrt.config.location import ModelLocation
    from vqtrt.data.selection import Selection
    from vqtrt.engines.base import Engine

EngineName = StrEnum("EngineName", {name: name for name in ENGINES})  # type: ignore[misc]
PrecisionName = StrEnum("PrecisionName", {name: name for name in PRECISIONS})  # type: ignore[misc]
_CHOICES = {ENGINES: EngineName, PRECISIONS: PrecisionName}


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
        help="Run or bundle (default: $VQTRT_MODEL, else the newest run under ./runs).",
    ),
]
ModelOrRandom = Annotated[
    Path | None, typer.Option("--model", "-m", help="Run or bundle; without it, random weights.")
]
IMAGES = 64
"""Default batch size of images."""
RECORDINGS = 16
"""Default batch size of recordings."""
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size", "-b", min=1, help="Items per engine call (default: 64 images or 16 clips)."
    ),
]
ClipBatch = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, help="Recordings per engine call.")
]
SampleBatch = Annotated[
    int, typer.Option("--batch-size", "-b", min=1, help="Samples that are drawn at once.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Threads that read files (default: one per core, at most 16)."),
]
OnError = Annotated[
    OnErrorName, typer.Option("--on-error", help="If a file cannot be read: stop, or skip it.")
]
TrainOnError = Annotated[
    OnErrorName | None,
    typer.Option(
        "--on-error",
        help="If a file cannot be read: stop, or skip it (default: the recipe's).",
    ),
]
Split = Annotated[
    SplitName | None, typer.Option("--split", help="Images: part of a data set that has parts.")
]
Size = Annotated[
    str | None,
    typer.Option(help="Images: size HxW, or 128 for a square (default: the model's)."),
]
Speaker = Annotated[
    str | None, typer.Option(help="Audio: speaker of all clips (default: each its own).")
]
SpeakerPattern = Annotated[
    str | None,
    typer.Option(
        help="Audio: regular expression with a group `speaker` that finds the speaker in a file's "
        "name."
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
        min=-80, max=0, help="Audio: RMS level to bring recordings to, in dB of full scale."
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(help="WaveNet decoder: temperature; 0 for the most likely samples (default: 1)."),
]
Seed = Annotated[
    int | None, typer.Option(help="WaveNet decoder: seed of the sampling noise (default: 0).")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else.")
]
Data = Annotated[
    str,
    typer.Argument(help="Folder of images or recordings, one file, .npy/.npz, CIFAR, or `shapes`."),
]
Recordings = Annotated[
    str, typer.Argument(help="Folder of recordings, the VCTK corpus, or one recording.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting as KEY=VALUE, such as train.steps=2000; repeatable."),
]
Repeat = Annotated[int, typer.Option(min=1, help="Rounds of measurement; the median counts.")]
ShardSize = Annotated[
    int | None, typer.Option(min=1, help="Items per shard, if --out is a folder (default: 10000).")
]


class ViewsName(StrEnum):
    """Several views of each image."""

    FLIP = "flip"
    TEN_CROP = "ten-crop"


ViewsOption = Annotated[
    ViewsName | None,
    typer.Option("--views", help="Images: encode several views of each, as an axis of the row."),
]


class FormatName(StrEnum):
    """What the rows of shards are written as."""

    NPY = "npy"
    PARQUET = "parquet"


Format = Annotated[
    FormatName | None, typer.Option("--format", help="Shards' rows: npy or parquet (default: npy).")
]
ResumeJob = Annotated[
    bool, typer.Option("--resume", help="Continue this job if it was interrupted.")
]
Resume = Annotated[bool, typer.Option(help="Continue from the newest checkpoint.")]


@dataclass(frozen=True)
class ModelOptions(EngineOptions):
    """Which model, and how its engine is opened."""

    model: Model = None

    def open(self) -> "tuple[ModelLocation, Engine]":
        """The model that is meant, opened on an engine; says which."""
        from vqtrt.engines.choose import open_engine

        found = find(self.model)
        opened = open_engine(found, self, note=terminal.note)
        terminal.note(f"engine: {opened.name}")
        return found, opened


@dataclass(frozen=True)
class SoundOptions:
    """How a WaveNet decoder draws its samples."""

    temperature: Temperature = None
    seed: Seed = None

    def given(self) -> dict[str, float | None]:
        """What was given on the command line, by name."""
        return {"temperature": self.temperature, "seed": self.seed}


@dataclass(frozen=True)
class JobOptions:
    """What jobs that write files take."""

    resume: ResumeJob = False
    as_json: Json = False


@dataclass(frozen=True)
class FileOptions:
    """Which files of a data set are read, and how."""

    workers: Workers = None
    on_error: OnError = OnErrorName.STOP
    include: Include = None
    exclude: Exclude = None

    @property
    def num_workers(self) -> int:
        """What `--workers` comes to."""
        return worker_count(self.workers)

    @property
    def reading(self) -> dict[str, Any]:
        """What a job is told of how to read."""
        return {"workers": self.num_workers, "on_error": self.on_error.value}

    @property
    def selection(self) -> "Selection":
        """Which files of a folder `--include` and `--exclude` choose."""
        from vqtrt.data.selection import Selection

        return Selection(self.include or (), self.exclude or ())


@dataclass(frozen=True)
class DataOptions(FileOptions):
    """The same, and what is asked of images or of recordings alone."""

    size: Size = None
    split: Split = None
    level_db: LevelDb = None
    speaker_pattern: SpeakerPattern = None

    def require_fit(self, engine: "Engine", speaker: str | None = None) -> None:
        """Raise `VqtrtError` for an option of the modality that the model is not of."""
        audio = {"level-db": self.level_db, "speaker-pattern": self.speaker_pattern}
        images = {"size": self.size, "split": self.split}
        refuse_other(engine, images=images, audio={"speaker": speaker, **audio})


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Put the fields of a command's dataclass parameters on the command line, in their place."""
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    signature = inspect.signature(command)
    for parameter in signature.parameters.values():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter)
            continue
        groups[parameter.name] = parameter.annotation
        # Which model comes before how its engine is opened, which the class inherits.
        own = sorted(fields(parameter.annotation), key=lambda field: field.name != "model")
        parameters += [
            parameter.replace(name=name, annotation=annotation, default=default)
            for name, annotation, default in map(_option, own)
        ]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        for name, group in groups.items():
            given = {each.name: options.pop(each.name) for each in fields(group)}
            options[name] = group(**{key: _plain(group, value) for key, value in given.items()})
        command(**options)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    return run


def _option(field: Any) -> tuple[str, Any, Any]:
    """Name, annotation and default of the option that a field becomes."""
    if not field.metadata:
        return field.name, field.type, field.default
    kind, default = field.type, field.default
    names = [f"--{field.name.replace('_', '-')}"] if kind is bool else []
    if choices := field.metadata.get("choices"):
        kind = _CHOICES[choices]
        default = kind(default)
    shown = typer.Option(*names, help=field.metadata["help"], min=field.metadata.get("min"))
    return field.name, Annotated[kind, shown], default


def _plain(group: type, value: Any) -> Any:
    """A choice as its text for options that are not of the command line's own."""
    return value.value if issubclass(group, EngineOptions) and isinstance(value, StrEnum) else value


def find(named: Path | None) -> "ModelLocation":
    """The model that is meant; says which."""
    from vqtrt.config.location import find_model

    found = find_model(named)
    if main_process():
        terminal.note(f"model: {found.path} ({found.chosen_by})")
    return found


def require_training() -> None:
    """Raise `VqtrtError` before anything is announced if torch and what it needs is missing."""
    from vqtrt.engines.choose import installed

    for package in ("torch", "accelerate", "safetensors", "onnx", "onnxscript"):
        if not installed(package):
            raise VqtrtError(terminal.missing(package))


@dataclass(frozen=True)
class TrainOptions:
    """What a training, of a tokenizer or a prior, is told of its data and settings."""

    include: Include = None
    exclude: Exclude = None
    on_error: TrainOnError = None
    settings: Settings = None
    resume: Resume = False

    def overrides(self, **data: str | None) -> list[str]:
        """All of it, and more settings of `data`, as `--set` would give it."""
        texts = {**data, "on_error": self.on_error}
        lists = {"include": self.include, "exclude": self.exclude}
        return [
            *(self.settings or []),
            *(f"data.{name}={value}" for name, value in texts.items() if value),
            *(f"data.{name}={json.dumps(value)}" for name, value in lists.items() if value),
        ]


def worker_count(workers: int | None) -> int:
    """What `--workers` comes to."""
    from vqtrt.data.reading import default_workers

    return workers or default_workers()


def refuse(options: Mapping[str, object], of: str, model: str) -> None:
    """Raise `VqtrtError` for the first option that was given, and is for another kind of model."""
    for name, value in options.items():
        if value is not None:
            raise VqtrtError(f"--{name} is for {of}, and the model is of {model}: leave it out")


def given(**options: object) -> dict[str, Any]:
    """The options that were given on the command line: those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def refuse_other(
    engine: "Engine", *, images: Mapping[str, object], audio: Mapping[str, object]
) -> None:
    """Refuse options of images if the model is of audio, and options of audio if not."""
    if engine.speech is None:
        refuse(audio, "audio", "images")
    else:
        refuse(images, "images", "audio")


def main_process() -> bool:
    """Whether this is the process that speaks, under torchrun too."""
    return os.environ.get("RANK", "0") == "0"
