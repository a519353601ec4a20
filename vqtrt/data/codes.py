"""The codes artefact: `NAME.npy` with the codes, beside `NAME.json` with where each row came from.

Notable: the array alone is enough (`np.load` reads it, and `read_codes` does without the JSON);
nothing here loads the whole array; and both files may come from a stranger, so every count is
checked against the others before it is used. `codes_writer.py` writes the two files.
"""

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, PositiveInt, ValidationError

from vqtrt.data.arrays import open_npy
from vqtrt.errors import VqtrtError

FORMAT_VERSION = 1
MAX_JSON_BYTES = 4 << 30
CHUNK_BYTES = 16 << 20

# File names may hold bytes that are not UTF-8 (Python's surrogate escapes); pydantic's own `str`
# refuses those.
Name = InstanceOf[str]


class CodesHeader(BaseModel):
    """What all rows of one codes file share; two jobs with equal headers give equal codes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["image"] = "image"
    codebook_size: int = Field(gt=0, le=1 << 32)
    """K: codes are 0 to K - 1."""
    num_codebooks: PositiveInt = 1
    """C: with more than one, the array has a last axis of this length."""
    code_shape: tuple[PositiveInt, PositiveInt]
    """(h, w)."""
    image_size: tuple[PositiveInt, PositiveInt]
    """(H, W) in pixels."""
    classes: tuple[Name, ...] = ()
    root: Name
    """The data's path, as the user gave it."""
    listing_sha256: str
    weights_sha256: str
    """Of the weights that the graphs were exported from: equal weights, equal codes."""
    precision: str = "fp32"
    """Of the graphs that ran: half precision gives a few other codes."""
    model: dict[str, str]
    """Where the model was (`path`), and the `engine` that ran it."""
    preprocessing: dict[str, Any]
    vqtrt_version: str

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row: (h, w), or (h, w, C) for more than one codebook."""
        extra = (self.num_codebooks,) if self.num_codebooks > 1 else ()
        return (*self.code_shape, *extra)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array: see `codes_dtype`."""
        return codes_dtype(self.codebook_size)


@dataclass(frozen=True)
class Rejected:
    """An item that has no row."""

    file: str
    reason: str


@dataclass(frozen=True)
class Codes:
    """Codes on disk; without the JSON, `header` is None and the three tuples are empty."""

    path: Path
    codes: NDArray[Any]
    """Memory-mapped integers, (N, h, w) or (N, h, w, C)."""
    header: CodesHeader | None = None
    files: tuple[str, ...] = ()
    """One name a row."""
    labels: tuple[int, ...] = ()
    """One index into `header.classes` a row, -1 for none; empty where there are no classes."""
    rejected: tuple[Rejected, ...] = ()


def codes_dtype(codebook_size: int) -> np.dtype[Any]:
    """The smallest unsigned dtype that holds 0 to codebook_size - 1, little-endian."""
    if codebook_size <= 1 << 8:
        return np.dtype("|u1")
    return np.dtype("<u2" if codebook_size <= 1 << 16 else "<u4")


def is_codes(path: Path) -> bool:
    """Whether a path names a codes file with its .json, and not images in an array."""
    return path.suffix == ".npy" and path.with_suffix(".json").is_file()


def read_codes(path: Path) -> Codes:
    """Open codes without loading them, with the JSON beside them where there is one.

    Raises `VqtrtError` where the array is not one of codes (integers, none negative, 3 or 4 axes)
    or where the JSON does not belong to it. Values are compared with a codebook by `check_codes`.
    """
    codes = open_npy(path)
    if codes.dtype.kind not in "iu":
        raise VqtrtError(f"{path}: holds {codes.dtype}, but codes are integers; cast them first")
    if codes.ndim not in (3, 4):
        raise VqtrtError(
            f"{path}: has shape {codes.shape}, but codes are (N, h, w), or (N, h, w, C) for C "
            "codebooks; reshape them first"
        )
    if codes.dtype.kind == "i":
        _check_values(codes, None, str(path))
    json_path = path.with_suffix(".json")
    if not json_path.exists():
        return Codes(path, codes)
    data = _load_json(json_path)
    rows, files = data.pop("rows", None), data.pop("files", None)
    labels, rejected = data.pop("labels", None), data.pop("rejected", None)
    header = _header(data, json_path)
    if type(rows) is not int or rows != len(codes):
        raise VqtrtError(
            f"{json_path}: describes {_short(rows)} rows, but {path.name} has {len(codes)}; "
            "bring the two files of one run together"
        )
    if header.row_shape != codes.shape[1:]:
        raise VqtrtError(
            f"{json_path}: describes codes {_form(header.row_shape)}, but {path.name} has "
            f"{codes.shape}; bring the two files of one run together"
        )
    mend = "encode again, or remove the JSON"
    if not _is_list(files, str) or len(files) != rows:
        raise VqtrtError(f"{json_path}: 'files' is not a list of {rows} names; {mend}")
    wanted = rows if header.classes else 0
    labels = [] if labels is None and not header.classes else labels
    if not _is_list(labels, int) or len(labels) != wanted:
        raise VqtrtError(f"{json_path}: 'labels' is not a list of {wanted} integers; {mend}")
    if labels and not (min(labels) >= -1 and max(labels) < len(header.classes)):
        raise VqtrtError(f"{json_path}: a label is not an index into the classes; {mend}")
    if not _is_list(rejected, dict) or not all(
        r.keys() == {"file", "reason"} and _is_list(list(r.values()), str) for r in rejected
    ):
        raise VqtrtError(f"{json_path}: 'rejected' is not a list of file and reason; {mend}")
    return Codes(
        path, codes, header, tuple(files), tuple(labels), tuple(Rejected(**r) for r in rejected)
    )


def check_codes(
    codes: NDArray[Any],
    codebook_size: int,
    code_shape: tuple[int, int] | None,
    num_codebooks: int,
    *,
    name: str = "codes.npy",
) -> None:
    """Raise `VqtrtError` unless integer codes (N, h, w[, C]) fit a model; reads chunk by chunk.

    `code_shape` is (h, w), or None where the model takes any. The first value outside 0 to
    codebook_size - 1 is named with its row and place.
    """
    if codes.dtype.kind not in "iu":
        raise VqtrtError(f"{name}: holds {codes.dtype}, but codes are integers; cast them first")
    extra = (num_codebooks,) if num_codebooks > 1 else ()
    fits = codes.ndim == 3 + len(extra) and codes.shape[3:] == extra and 0 not in codes.shape[1:]
    if not fits or (code_shape is not None and codes.shape[1:3] != tuple(code_shape)):
        raise VqtrtError(
            f"{name}: has shape {codes.shape}, but the model takes "
            f"{_form((*(code_shape or ('h', 'w')), *extra))}; give the bundle that made these codes"
        )
    _check_values(codes, codebook_size, name)


def _check_values(codes: NDArray[Any], codebook_size: int | None, name: str) -> None:
    """Find the first negative value, or the first that is codebook_size or more."""
    limits = np.iinfo(codes.dtype)
    if limits.min == 0 and (codebook_size is None or limits.max < codebook_size):
        return
    top = limits.max if codebook_size is None else codebook_size - 1
    for start, chunk in _chunks(codes):
        if chunk.size and (int(chunk.min()) < 0 or int(chunk.max()) > top):
            bad = (chunk < 0) | (chunk > top)
            row, *place = (int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
            value = int(chunk[(row, *place)])
            reason = (
                "codes are never negative"
                if codebook_size is None
                else f"the codebook has {codebook_size} entries (0 to {top})"
            )
            raise VqtrtError(
                f"{name}: row {start + row} at ({', '.join(map(str, place))}) holds {value}, "
                f"but {reason}"
            )


def _chunks(codes: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Consecutive rows of about `CHUNK_BYTES`, each with the index of its first."""
    row_bytes = max(1, int(np.prod(codes.shape[1:])) * codes.dtype.itemsize)
    step = max(1, CHUNK_BYTES // row_bytes)
    for start in range(0, len(codes), step):
        yield start, codes[start : start + step]


def _load_json(path: Path) -> dict[str, Any]:
    """The JSON's object, without its format version, once that is known to be ours."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):
            raise VqtrtError(f"{path}: not a regular file; remove it or put the codes' JSON there")
        if info.st_size > MAX_JSON_BYTES:
            raise VqtrtError(f"{path}: larger than {MAX_JSON_BYTES} bytes; remove it or split it")
        data = json.loads(path.read_bytes())
    except OSError as err:
        raise VqtrtError(f"{path}: cannot be read ({err.strerror})") from err
    except (ValueError, RecursionError) as err:
        raise VqtrtError(f"{path}: not valid JSON; encode again, or remove it") from err
    version = data.pop("format_version", None) if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise VqtrtError(f"{path}: not the JSON of a codes file; rename it or move it away")
    if version > FORMAT_VERSION:
        raise VqtrtError(
            f"{path}: written by a newer vqtrt (codes format {_short(version)}, known: "
            f"{FORMAT_VERSION}); upgrade vqtrt"
        )
    assert isinstance(data, dict)  # noqa: S101  (for mypy: a version came out of it)
    return data


def _header(data: dict[str, Any], path: Path) -> CodesHeader:
    try:
        return CodesHeader.model_validate(data)
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(_short(part) for part in first["loc"])
        raise VqtrtError(
            f"{path}: '{where}': {first['msg']}; encode again, or remove the JSON"
        ) from err


def _is_list(value: object, kind: type) -> bool:
    """Whether it is a list of exactly this type: True is not an int here."""
    return isinstance(value, list) and all(type(item) is kind for item in value)


def _form(row_shape: tuple[Any, ...]) -> str:
    return f"(N, {', '.join(map(str, row_shape))})"


def _short(value: object) -> str:
    """A stranger's value, short and on one line."""
    text = ascii(value) if not isinstance(value, str) else ascii(value)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."
