"""The codes artefact: `NAME.npy` with the codes, beside `NAME.json` with where each row came from.

Notable: the array alone is enough (`np.load` reads it, and `read_codes` does without the JSON);
nothing here loads the whole array; and both files may come from a stranger, so every count is
checked against the others before it is used. `codes_writer.py` writes the two files. This module
has the codes of images, and what those of speech (`clip_codes.py`) share with them.
"""

import errno
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from vqtrt.data.npy import open_npy
from vqtrt.data.views import COUNTS, Views
from vqtrt.errors import VqtrtError
from vqtrt.formats.code_values import check_values, form
from vqtrt.system.files import read_file
from vqtrt.system.names import brief

FORMAT_VERSION = 1
MAX_JSON_BYTES = 4 << 30
"""Longest JSON that is read; less for few rows: see `json_limit`."""
MAX_NAME_BYTES = 4096
"""Longest name of an item: no system opens a longer path."""
_DEEPEST = 6
"""Lists and objects of a codes file's JSON within each other, with some to spare."""

# File names may hold bytes that are not UTF-8 (Python's surrogate escapes); pydantic's own `str`
# refuses those.
Name = InstanceOf[str]


Kind = Literal["image", "speech"]

Numbers = tuple[int, ...]
"""What the journal says of an item beside its name; the first is its label."""


class Header(BaseModel):
    """What all items of one codes file share; two jobs with equal headers give equal codes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    codebook_size: int = Field(gt=0, le=1 << 32)
    """K: codes are 0 to K - 1."""
    num_codebooks: PositiveInt = 1
    """C: with more than one, the array has a last axis of this length."""
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
    @abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row of the array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the array: see `codes_dtype`."""
        return codes_dtype(self.codebook_size)

    @abstractmethod
    def rows_of(self, numbers: Numbers) -> int | None:
        """Rows of an item of which the journal says this; None if it can say no such thing."""

    @abstractmethod
    def columns(self, items: Callable[[], Iterator[Numbers]]) -> dict[str, Iterator[int]]:
        """The lists of integers in the JSON, by name; `items` goes through all items once more."""


class CodesHeader(Header):
    """The header of images, each of which is one row."""

    kind: Literal["image"] = "image"
    code_shape: tuple[PositiveInt, PositiveInt]
    """(h, w)."""
    image_size: tuple[PositiveInt, PositiveInt]
    """(H, W) in pixels."""
    views: Views | None = None
    """Views of each image (`data/images/views.py`), an axis of its row; None for the image."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row: (h, w), with C codebooks (h, w, C), with views before: (V, h, w)."""
        extra = (self.num_codebooks,) if self.num_codebooks > 1 else ()
        views = (COUNTS[self.views],) if self.views else ()
        return (*views, *self.code_shape, *extra)

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Files without views are what they were before there were any."""
        known: dict[str, Any] = handler(self)
        return known if self.views else {k: v for k, v in known.items() if k != "views"}

    def rows_of(self, numbers: Numbers) -> int | None:
        """One, of (label,)."""
        return 1 if len(numbers) == 1 else None

    def columns(self, items: Callable[[], Iterator[Numbers]]) -> dict[str, Iterator[int]]:
        """The labels, where there are classes."""
        return {"labels": (label for (label,) in items())} if self.classes else {}


H = TypeVar("H", bound=Header)


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
    """One index into `header.classes` a row, -1 for none; empty if there are no classes."""
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
    """Open codes of images without loading them, with the JSON beside them where there is one.

    Raises `VqtrtError` if the array is not one of codes (integers, none negative, 3 or 4 axes)
    or where the JSON does not belong to it. Values are compared with a codebook by `check_codes`.
    """
    array, info = load_pair(path)
    return images_codes(path, array, info)


def images_codes(path: Path, array: NDArray[Any], info: dict[str, Any] | None) -> Codes:
    """As `read_codes`, of what `load_pair` gave."""
    json_path = path.with_suffix(".json")
    if info is not None:
        require_kind(info, "image", json_path)
    if array.ndim not in (3, 4) and not (array.ndim == 5 and info and info.get("views")):
        raise VqtrtError(
            f"{path}: has shape {array.shape}, but codes are (N, h, w), or (N, h, w, C) for C "
            "codebooks; reshape them first"
        )
    if array.dtype.kind == "i":
        check_values(array, None, str(path))
    if info is None:
        return Codes(path, array)
    rows, lists = info.pop("rows", None), take_lists(info, "files", "labels", "rejected")
    header = parse_header(CodesHeader, info, json_path)
    if type(rows) is not int or rows != len(array):
        raise VqtrtError(
            f"{json_path}: describes {brief(rows)} rows, but {path.name} has {len(array)}; "
            "bring the two files of one run together"
        )
    if header.row_shape != array.shape[1:]:
        raise VqtrtError(
            f"{json_path}: describes codes {form(header.row_shape)}, but {path.name} has "
            f"{array.shape}; bring the two files of one run together"
        )
    return Codes(path, array, header, *check_lists(lists, rows, header, json_path))


def require_one_view(codes: Codes) -> None:
    """Raise `VqtrtError` for codes that have several views of each image."""
    if codes.header is not None and codes.header.views:
        raise VqtrtError(
            f"{codes.path}: has {COUNTS[codes.header.views]} views of each image "
            f"({codes.header.views}), for trainers of other libraries; give codes without views"
        )


def load_pair(path: Path) -> tuple[NDArray[Any], dict[str, Any] | None]:
    """An array of integers, memory-mapped, and the JSON beside it, known to be ours; None without.

    Raises `VqtrtError` if one of them is something else.
    """
    array = open_npy(path)
    if array.dtype.kind not in "iu":
        raise VqtrtError(f"{path}: holds {array.dtype}, but codes are integers; cast them first")
    json_path = path.with_suffix(".json")
    if not json_path.exists():
        return array, None
    return array, _load_json(json_path, json_limit(len(array) if array.ndim else 0))


def json_limit(rows: int) -> int:
    """Bytes that the JSON of an array with so many rows may have.

    32 MiB are for the header and for items without a row, 32 KiB for each row: the longest name
    whose every byte is escaped, and its numbers.
    """
    return min(MAX_JSON_BYTES, (32 << 20) + rows * (32 << 10))


def _load_json(path: Path, most: int) -> dict[str, Any]:
    """The JSON's object, without its format version, once that is known to be ours."""
    try:
        data = json.loads(read_file(path, most))
    except OSError as err:
        if err.errno == errno.EFBIG:
            raise VqtrtError(
                f"{path}: larger than {most} bytes, the most for the rows of {path.stem}.npy; "
                "remove it, or encode again"
            ) from err
        raise VqtrtError(
            f"{path}: cannot be read ({err.strerror}); remove it, or put the codes' JSON there"
        ) from err
    except (ValueError, RecursionError) as err:
        raise VqtrtError(f"{path}: not valid JSON; encode again, or remove it") from err
    if _nested(data, _DEEPEST):
        raise VqtrtError(f"{path}: nested deeper than a codes file is; encode again, or remove it")
    take_version(data, path)
    assert isinstance(data, dict)  # noqa: S101  (for mypy: a version came out of it)
    return data


def take_version(data: Any, path: Path) -> None:
    """Take the version out of a JSON's object; `VqtrtError` if it is none that is known."""
    version = data.pop("format_version", None) if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise VqtrtError(f"{path}: not the JSON of a codes file; rename it or move it away")
    if version > FORMAT_VERSION:
        raise VqtrtError(
            f"{path}: written by a newer vqtrt (codes format {brief(version)}, known: "
            f"{FORMAT_VERSION}); upgrade vqtrt"
        )


def _nested(data: Any, most: int) -> bool:
    """Whether lists and objects are nested deeper than `most`."""
    pending = [(data, 1)]
    while pending:
        value, depth = pending.pop()
        if not isinstance(value, list | dict):
            continue
        if depth > most:
            return True
        inner = value.values() if isinstance(value, dict) else value
        pending += [(item, depth + 1) for item in inner if isinstance(item, list | dict)]
    return False


def require_kind(info: dict[str, Any], wanted: Kind, json_path: Path) -> None:
    """Raise `VqtrtError` for codes of the other kind; of an unknown kind, `parse_header` does."""
    kinds = {"image": "images", "speech": "speech"}
    found = info.get("kind", "image")
    if found != wanted and isinstance(found, str) and found in kinds:
        raise VqtrtError(
            f"{json_path}: 'kind' says that these are codes of {kinds[found]}, where codes of "
            f"{kinds[wanted]} are wanted; give those"
        )


def parse_header(model: type[H], info: dict[str, Any], json_path: Path) -> H:
    """The header, of what is left in the JSON; `VqtrtError` for a field that does not fit."""
    try:
        return model.model_validate(info)
    except ValidationError as err:
        first = err.errors(include_url=False, include_input=False)[0]
        where = ".".join(brief(part) for part in first["loc"])
        raise VqtrtError(
            f"{json_path}: '{where}': {first['msg']}; encode again, or remove the JSON"
        ) from err


def take_lists(info: dict[str, Any], *names: str) -> dict[str, Any]:
    """Take the lists out of the JSON's object, unchecked; what is left is the header."""
    return {name: info.pop(name, None) for name in names}


def check_lists(
    lists: dict[str, Any], count: int, header: Header, json_path: Path
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[Rejected, ...]]:
    """`files` and `labels` of `count` items, and `rejected`; `VqtrtError` if one is not so."""
    files, labels, rejected = lists["files"], lists["labels"], lists["rejected"]
    mend = "encode again, or remove the JSON"
    if not is_list(files, str) or len(files) != count:
        raise VqtrtError(f"{json_path}: 'files' is not a list of {count} names; {mend}")
    if (
        row := next((row for row, name in enumerate(files) if is_too_long(name)), None)
    ) is not None:
        raise VqtrtError(
            f"{json_path}: the name of row {row} ({brief(files[row])}) is longer than "
            f"{MAX_NAME_BYTES} bytes; {mend}"
        )
    wanted = count if header.classes else 0
    labels = [] if labels is None and not header.classes else labels
    if not is_list(labels, int) or len(labels) != wanted:
        raise VqtrtError(f"{json_path}: 'labels' is not a list of {wanted} integers; {mend}")
    if labels and not (min(labels) >= -1 and max(labels) < len(header.classes)):
        raise VqtrtError(f"{json_path}: a label is not an index into the classes; {mend}")
    if not is_list(rejected, dict) or not all(
        r.keys() == {"file", "reason"} and is_list(list(r.values()), str) for r in rejected
    ):
        raise VqtrtError(f"{json_path}: 'rejected' is not a list of file and reason; {mend}")
    return tuple(files), tuple(labels), tuple(Rejected(**r) for r in rejected)


def is_too_long(name: str) -> bool:
    """Whether a name is longer than any that a file has."""
    if len(name) <= MAX_NAME_BYTES // 4:
        return False
    return len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES


def is_list(value: object, kind: type) -> bool:
    """Whether it is a list of exactly this type: True is not an int here."""
    return isinstance(value, list) and all(type(item) is kind for item in value)
