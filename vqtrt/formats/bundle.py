"""The bundle: a folder with graphs and a `bundle.json` that says what they are, and their hashes.

A bundle is all that inference needs. Nothing in it is trusted before it is checked: `bundle.json`
carries a hash of itself, and a graph's bytes are hashed before a runtime sees them. The bytes
that were checked are the bytes that are used; the file is not opened a second time. Each number
that memory or time follows from has a bound: whoever writes a `bundle.json` can write any number.
"""

import errno
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.images.preprocessing import MAX_SIDE, Preprocessing
from vqtrt.errors import VqtrtError, unwritable
from vqtrt.system.atomic import followed
from vqtrt.system.files import open_file, read_file
from vqtrt.system.locks import only_writer

FORMAT_VERSION = 1
INFO = "bundle.json"
_MAX_INFO_BYTES = 16 * 2**20
_MAX_GRAPH_BYTES = 2**31  # what a protobuf message can hold

MAX_DELAY = 1 << 13
"""Runs that a cache can take to come back: a dilation of 8,192 in runs of one sample."""
MAX_CODES = 1 << 24
"""Entries of a codebook, as of the settings."""
_MAX_COUNTS = 1 << 26
"""Entries of all codebooks together: evaluation counts each."""
_MAX_CODEBOOKS = 1024
_MAX_SIZE = 1 << 24
"""Of an axis of a table."""
_MAX_VALUES = 1 << 25
"""Values that a graph's tensors hold, with every buffer of its caches, where free sizes are 1."""
_MAX_TENSORS = 4096
_MAX_GRAPHS = 1024
MAX_STRIDE = 1 << 16
_MAX_SAMPLES = 1 << 24
"""Of audio that a chunk has beside its own, on either side."""
_MAX_NAMES = 1 << 20

Text = Annotated[str, Field(max_length=4096)]
"""A name or a path."""
Names = Annotated[tuple[Text, ...], Field(max_length=_MAX_NAMES)]
_FREE = re.compile(r"([1-9][0-9]{0,6}\*)?[a-z][a-z_]{0,31}", re.ASCII)


def _size(size: int | str) -> int | str:
    """Check a size of a table."""
    if isinstance(size, str) and not _FREE.fullmatch(size):
        raise ValueError(f"{size[:40]!r} is no size: expected a number, a name, or such as 4*h")
    if isinstance(size, int) and not 1 <= size <= _MAX_SIZE:
        raise ValueError(f"size {size}: expected 1 to {_MAX_SIZE}")
    return size


Size = Annotated[int | str, AfterValidator(_size)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def axis_size(size: int | str, sizes: Mapping[str, int]) -> int | None:
    """A size of a table as a number: `4*h` with h 8 is 32; None where `sizes` does not say."""
    if isinstance(size, int):
        return size
    if size in sizes:
        return sizes[size]
    factor, _, name = size.partition("*")
    if name not in sizes or not factor.isdecimal():
        return None
    return int(factor) * sizes[name]


class TensorSpec(_Part):
    """An input or output of a graph."""

    name: Text
    dtype: Literal["uint8", "int32", "float32"]
    shape: Annotated[tuple[Size, ...], Field(max_length=8)]
    """Sizes; a string names a size that is free, or how it follows from others (`4*h`)."""
    delay: int = Field(1, ge=1, le=MAX_DELAY)
    """Of a cache: runs after which it comes back."""

    def least_values(self) -> int:
        """How many values it has where each free size is 1."""
        names = {size.rpartition("*")[2]: 1 for size in self.shape if isinstance(size, str)}
        return math.prod(axis_size(size, names) or 1 for size in self.shape)

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with a number for each free size; `VqtrtError` if `sizes` lacks one."""
        shape = [axis_size(size, sizes) for size in self.shape]
        if None in shape:
            given = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise VqtrtError(
                f"{self.name} {self.shape}: the sizes {given} leave some of it open; if the bundle "
                "came from `vqtrt export`, export the run again"
            )
        return tuple(size for size in shape if size is not None)


class GraphSpec(_Part):
    """One ONNX file of a bundle."""

    file: Text
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    made_from: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Stands for all that the file follows from; a later export copies what has the same."""
    inputs: Annotated[tuple[TensorSpec, ...], Field(max_length=_MAX_TENSORS)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(max_length=_MAX_TENSORS)]

    @model_validator(mode="after")
    def _bounded(self) -> "GraphSpec":
        # An engine binds a graph once for each turn of its caches, 2·delay buffers of each.
        turns = 2
        for delay in sorted({tensor.delay for tensor in self.inputs}):
            turns = math.lcm(turns, 2 * delay)
            if turns > 2 * MAX_DELAY:
                raise ValueError(
                    f"delays: all caches have to meet again within {2 * MAX_DELAY} runs, or the "
                    "loop over them would need too much memory"
                )
        values = sum(2 * tensor.delay * tensor.least_values() for tensor in self.inputs)
        values += sum(tensor.least_values() for tensor in self.outputs)
        if values > _MAX_VALUES:
            raise ValueError(f"shapes: its buffers hold {values} values, {_MAX_VALUES} at most")
        return self


class ModelInfo(_Part):
    """What a user of the codes has to know of the model."""

    codebook_size: int = Field(ge=2, le=MAX_CODES)
    num_codebooks: int = Field(ge=1, le=_MAX_CODEBOOKS)
    code_dim: int = Field(ge=1, le=_MAX_SIZE)
    stride: int = Field(ge=1, le=MAX_STRIDE)
    """Pixels a side that one code stands for, or samples of speech."""

    @model_validator(mode="after")
    def _countable(self) -> "ModelInfo":
        check_counts(self.codebook_size, self.num_codebooks)
        return self


class SpeechInfo(_Part):
    """What a user of a model of speech has to know besides."""

    preprocessing: AudioPreprocessing
    decoder: Literal["conv", "wavenet"]
    speakers: Names
    """Names; a speaker's number is its place, and their count stands for none."""
    context: int = Field(ge=0, le=_MAX_SAMPLES)
    """Codes on either side that a chunk of audio is encoded with, to get the codes of the whole."""
    decoder_context: int = Field(ge=0, le=_MAX_SAMPLES)
    """The same for decoding: codes on either side that change a code's samples."""
    hop: int = Field(1, ge=1, le=MAX_STRIDE)
    """WaveNet: samples that one frame of conditioning stands for."""
    unroll: int = Field(1, ge=1, le=64)
    """WaveNet: samples that one run of the step graph draws."""


class PriorInfo(_Part):
    """What a user of a prior has to know."""

    kind: Literal["pixelcnn", "wavenet"] = "pixelcnn"
    codebook_size: int = Field(ge=2, le=MAX_CODES)
    num_codebooks: int = Field(ge=1, le=_MAX_CODEBOOKS)
    height: int = Field(1, ge=1, le=MAX_SIDE)
    """Rows of the grids that it was trained on; 1 for speech."""
    width: int = Field(ge=1, le=_MAX_SAMPLES)
    """Columns of the same; for speech, codes of the crops."""
    receptive_field: int = Field(
        ge=1, le=_MAX_SAMPLES, validation_alias=AliasChoices("receptive_field", "reach")
    )
    """Positions in each direction that one can see: larger grids have blind spots.

    `reach` in the first bundles.
    """
    classes: Names = ()
    """Names of the labels that it is conditioned on; empty for none."""
    weights_sha256: Text
    tokenizer_sha256: Text
    """Of the weights of the tokenizer whose codes it models."""

    @model_validator(mode="after")
    def _countable(self) -> "PriorInfo":
        check_counts(self.codebook_size, self.num_codebooks)
        if self.height * self.width > _MAX_SAMPLES:
            raise ValueError(f"{self.height}x{self.width} codes: {_MAX_SAMPLES} at most")
        return self


class Source(_Part):
    """Where a bundle comes from."""

    run: Text
    """Folder of the run, as it was named at the export."""
    weights_sha256: Text
    recipe: Text


class BundleInfo(_Part):
    """The content of `bundle.json`."""

    format_version: Literal[1] = 1
    kind: Literal["image", "speech"] = "image"
    vqtrt_version: Text
    model: ModelInfo
    preprocessing: Preprocessing | None = None
    """Of images."""
    speech: SpeechInfo | None = None
    graphs: dict[Text, GraphSpec] = Field(max_length=_MAX_GRAPHS)
    priors: dict[Text, PriorInfo] = Field({}, max_length=_MAX_GRAPHS)
    opset: int = Field(ge=1, le=1000)
    source: Source

    @model_validator(mode="after")
    def _whole(self) -> "BundleInfo":
        """What one part says of another."""
        if (self.preprocessing is None, self.speech is None) != (
            self.kind == "speech",
            self.kind == "image",
        ):
            raise ValueError(f"kind: a bundle of {self.kind} has its preprocessing, and no other")
        if self.speech is None:
            return self
        stride, speech = self.model.stride, self.speech
        context = max(speech.context, speech.decoder_context)
        if context * stride > _MAX_SAMPLES:
            raise ValueError(
                f"speech: a context of {context} codes of {stride} samples, "
                f"{_MAX_SAMPLES} samples at most"
            )
        if speech.decoder == "wavenet" and (stride % speech.hop or speech.hop % speech.unroll):
            raise ValueError(
                f"speech: unroll {speech.unroll} has to divide hop {speech.hop}, and that the "
                f"stride {stride}"
            )
        return self


class Bundle:
    """A bundle's folder, its `info`, and the SHA-256 of that info, which stands for the whole."""

    def __init__(self, path: Path, info: BundleInfo, sha256: str | None = None) -> None:
        self.path = path
        self.info = info
        self.sha256 = sha256 or _digest(info.model_dump(mode="json"))

    def __getstate__(self) -> dict[str, Any]:
        # The process that unpickles it may have another working directory.
        return self.__dict__ | {"path": self.path.absolute()}

    @classmethod
    def open(cls, path: Path) -> "Bundle":
        """Read and check `bundle.json`; graphs are checked when they are read."""
        content = _read_info(path / INFO)
        claimed = content.pop("self_sha256", None)
        version = content.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise VqtrtError(
                f"{path / INFO}: format version {version!r}, but this vqtrt reads version "
                f"{FORMAT_VERSION}; upgrade vqtrt, or export the run again"
            )
        try:
            info = BundleInfo.model_validate(content)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise VqtrtError(
                _damaged(path / INFO, f"{where}: {error.errors()[0]['msg']}")
            ) from None
        # Of what the file says, not of what it is read as: a field that a later vqtrt adds must not
        # make older bundles look damaged.
        sha256 = _digest(content)
        if claimed != sha256:
            raise VqtrtError(_damaged(path / INFO, "its content does not match its own SHA-256"))
        return cls(path, info, sha256)

    @staticmethod
    def write_info(folder: Path, info: BundleInfo) -> None:
        """Write `bundle.json` into a folder that holds the graphs already."""
        content = info.model_dump(mode="json")
        content["self_sha256"] = _digest(content)
        (folder / INFO).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def graph_spec(self, name: str) -> GraphSpec:
        """The table entry of a graph."""
        spec = self.info.graphs.get(name)
        if spec is None:
            known = ", ".join(self.info.graphs)
            raise VqtrtError(f"{self.path}: no graph {name!r} in this bundle; it has {known}")
        return spec

    def graph_bytes(self, name: str) -> bytes:
        """The checked bytes of a graph."""
        spec = self.graph_spec(name)
        relative = PurePosixPath(spec.file)
        if relative.is_absolute() or ".." in relative.parts:
            raise VqtrtError(_damaged(self.path / INFO, f"graph file {spec.file!r} is outside"))
        path = self.path / relative
        try:
            content = read_file(path, _MAX_GRAPH_BYTES)
        except FileNotFoundError:
            raise VqtrtError(f"{path} is missing; export the run again: {self._export()}") from None
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise VqtrtError(_damaged(path, "larger than an ONNX file can be")) from None
            raise VqtrtError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError:
            raise VqtrtError(_damaged(self.path / INFO, f"no file: {spec.file!r}")) from None
        if hashlib.sha256(content).hexdigest() != spec.sha256:
            raise VqtrtError(_damaged(path, "its SHA-256 is not the one in bundle.json"))
        return content

    def _export(self) -> str:
        run = self.info.source.run
        return f"vqtrt export {run}" if run else "call vqtrt.export.export_tokenizer again"


def check_counts(codebook_size: int, num_codebooks: int) -> None:
    """Raise `ValueError` if there are more codes than can be counted."""
    if codebook_size * num_codebooks > _MAX_COUNTS:
        raise ValueError(
            f"{num_codebooks} codebooks of {codebook_size} codes: {_MAX_COUNTS} codes at most"
        )


def of_images(preprocessing: Preprocessing | None) -> Preprocessing:
    """A model's preprocessing of images; `VqtrtError` for a model of speech, which has none."""
    if preprocessing is None:
        raise VqtrtError(
            "the model is of audio, and this needs one of images: name another --model"
        )
    return preprocessing


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged ({reason}); export the run again with `vqtrt export`"


def _read_info(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_file(path, _MAX_INFO_BYTES))
    except FileNotFoundError:
        raise VqtrtError(
            f"{path.parent} is no bundle: it has no {INFO}; `vqtrt export` makes one"
        ) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise VqtrtError(_damaged(path, f"larger than {_MAX_INFO_BYTES} bytes")) from None
        raise VqtrtError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        raise VqtrtError(_damaged(path, "not valid JSON")) from None
    if not isinstance(content, dict):
        raise VqtrtError(_damaged(path, "not a JSON object"))
    return content


@contextmanager
def only_export(out: Path) -> Iterator[None]:
    """Be the only process that writes a bundle; `VqtrtError` if another one does."""
    target = followed(out)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(out, error) from error
    # Beside it: the folder itself is replaced.
    with only_writer(target.parent / f".{target.name}.lock", out):
        yield
