"""The bundle: a folder with graphs and a `bundle.json` that says what they are, and their hashes.

A bundle is all that inference needs. Nothing in it is trusted before it is checked: `bundle.json`
carries a hash of itself, and a graph's bytes are hashed before a runtime sees them. The bytes
that were checked are the bytes that are used; the file is not opened a second time.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vqtrt.data.audio import AudioPreprocessing
from vqtrt.data.preprocessing import Preprocessing
from vqtrt.errors import VqtrtError

FORMAT_VERSION = 1
INFO = "bundle.json"
_MAX_INFO_BYTES = 16 * 2**20
_MAX_GRAPH_BYTES = 2**31  # what a protobuf message can hold


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

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[int | str, ...]
    """Sizes; a string names a size that is free, or how it follows from others (`4*h`)."""
    delay: int = Field(1, ge=1)
    """Of a cache: runs after which it comes back."""

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with a number for each free size."""
        shape = [axis_size(size, sizes) for size in self.shape]
        if None in shape:
            raise KeyError(f"{self.name} {self.shape}: sizes {dict(sizes)} leave some of it open")
        return tuple(size for size in shape if size is not None)


class GraphSpec(_Part):
    """One ONNX file of a bundle."""

    file: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    made_from: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """Stands for all that the file follows from; a later export copies what has the same."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ModelFacts(_Part):
    """What a user of the codes has to know of the model."""

    codebook_size: int = Field(ge=2)
    num_codebooks: int = Field(ge=1)
    code_dim: int = Field(ge=1)
    stride: int = Field(ge=1)
    """Pixels a side that one code stands for, or samples of speech."""


class SpeechFacts(_Part):
    """What a user of a model of speech has to know besides."""

    preprocessing: AudioPreprocessing
    decoder: Literal["conv", "wavenet"]
    speakers: tuple[str, ...]
    """Names; a speaker's number is its place, and their count stands for none."""
    context: int = Field(ge=0)
    """Codes on either side that a chunk of audio is encoded with, to get the codes of the whole."""
    decoder_context: int = Field(ge=0)
    """The same for decoding: codes on either side that change a code's samples."""
    hop: int = Field(1, ge=1)
    """WaveNet: samples that one frame of conditioning stands for."""
    unroll: int = Field(1, ge=1)
    """WaveNet: samples that one run of the step graph draws."""


class PriorFacts(_Part):
    """What a user of a prior has to know."""

    kind: Literal["pixelcnn", "wavenet"] = "pixelcnn"
    codebook_size: int = Field(ge=2)
    num_codebooks: int = Field(ge=1)
    height: int = Field(1, ge=1)
    """Rows of the grids that it was trained on; 1 for speech."""
    width: int = Field(ge=1)
    """Columns of the same; for speech, codes of the crops."""
    reach: int = Field(ge=1)
    """Positions in each direction that one can see: larger grids have blind spots."""
    classes: tuple[str, ...] = ()
    """Names of the labels that it is conditioned on; empty for none."""
    weights_sha256: str
    tokenizer_sha256: str
    """Of the weights of the tokenizer whose codes it models."""


class Source(_Part):
    """Where a bundle comes from."""

    run: str
    """Folder of the run, as it was named at the export."""
    weights_sha256: str
    recipe: str


class BundleInfo(_Part):
    """The content of `bundle.json`."""

    format_version: Literal[1] = 1
    kind: Literal["image", "speech"] = "image"
    vqtrt_version: str
    model: ModelFacts
    preprocessing: Preprocessing | None = None
    """Of images."""
    speech: SpeechFacts | None = None
    graphs: dict[str, GraphSpec]
    priors: dict[str, PriorFacts] = {}
    opset: int
    source: Source


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
            if path.exists() and not path.is_file():
                raise VqtrtError(_damaged(path, "not a file"))
            if path.stat().st_size > _MAX_GRAPH_BYTES:
                raise VqtrtError(_damaged(path, "larger than an ONNX file can be"))
            content = path.read_bytes()
        except FileNotFoundError:
            raise VqtrtError(f"{path} is missing; export the run again: {self._export()}") from None
        except OSError as error:
            raise VqtrtError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError:
            raise VqtrtError(_damaged(self.path / INFO, f"no file: {spec.file!r}")) from None
        if hashlib.sha256(content).hexdigest() != spec.sha256:
            raise VqtrtError(_damaged(path, "its SHA-256 is not the one in bundle.json"))
        return content

    def _export(self) -> str:
        run = self.info.source.run
        return f"vqtrt export {run}" if run else "call vqtrt.export.export_tokenizer again"


def of_images(preprocessing: Preprocessing | None) -> Preprocessing:
    """A model's preprocessing of images; `VqtrtError` for a model of speech, which has none."""
    if preprocessing is None:
        raise VqtrtError("this model is of speech, and this is for images: name another --model")
    return preprocessing


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(path: Path, reason: str) -> str:
    return f"{path} is damaged ({reason}); export the run again with `vqtrt export`"


def _read_info(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_INFO_BYTES:
            raise VqtrtError(_damaged(path, f"larger than {_MAX_INFO_BYTES} bytes"))
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise VqtrtError(
            f"{path.parent} is no bundle: it has no {INFO}; `vqtrt export` makes one"
        ) from None
    except OSError as error:
        raise VqtrtError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError):
        raise VqtrtError(_damaged(path, "not valid JSON")) from None
    if not isinstance(content, dict):
        raise VqtrtError(_damaged(path, "not a JSON object"))
    return content
