"""Arrays in `.npy` files of strangers.

Notable: files are read by the code below and not by `numpy.load`, so that nothing is unpickled and
no header is trusted before it is checked, and a large array stays on disk (memory-mapped).
"""

import ast
import math
import re
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqtrt.errors import VqtrtError
from vqtrt.system.files import open_file
from vqtrt.system.names import printable

MAX_HEADER = 64 * 1024
"""Longest header that is read, in bytes."""
_PLAIN_DTYPE = re.compile(r"[<>|=]?(\?|b1|[iu][1248]|f[248]|c(8|16))")


class Header(NamedTuple):
    """What precedes the data of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    nbytes: int


def open_npy(path: Path, mmap: bool = True) -> NDArray[Any]:
    """Read a `.npy` of booleans or numbers, by default as a read-only memory map.

    Never unpickles. Raises `VqtrtError` for anything that is not a well-formed `.npy` (versions
    1.0 to 3.0) whose data is all there. A mapped file must not be shortened while in use.
    """
    name = printable(path)
    try:
        with open_file(path) as stream:
            header = read_header(stream, name)
            offset = stream.tell()
            present = stream.seek(0, 2) - offset
            if present < header.nbytes:
                raise VqtrtError(
                    f"{name}: cut short: shape {header.shape} of {header.dtype} takes "
                    f"{header.nbytes} bytes, {present} are there; write it again"
                )
            order = "F" if header.fortran else "C"
            if mmap and header.nbytes:
                return np.memmap(stream, header.dtype, "r", offset, header.shape, order)  # type: ignore[call-overload, no-any-return]
            stream.seek(offset)
            return read_data(stream, header, name)
    except OSError as error:
        raise VqtrtError(f"{name}: cannot be read ({error.strerror or error})") from error


def read_header(stream: IO[bytes], name: str) -> Header:
    """Parse and check all that precedes the data; the stream is left where the data begins."""
    start = stream.read(8)
    if len(start) < 8 or start[:6] != b"\x93NUMPY":
        raise VqtrtError(f"{name}: not a .npy file; write it with numpy.save")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise VqtrtError(f"{name}: .npy version {version[0]}.{version[1]} is unknown; save it anew")
    field = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(field, "little")
    if not 0 < length <= MAX_HEADER:
        raise VqtrtError(f"{name}: a header of {length} bytes, over {MAX_HEADER}; save it anew")
    text = stream.read(length)
    try:
        if len(text) < length:
            raise ValueError("cut short")
        # The limit is on what a plain array needs: literal_eval is slow on nested nonsense.
        info = ast.literal_eval(text.decode("utf-8" if version == (3, 0) else "latin-1").strip())
        descr, shape, fortran = info["descr"], info["shape"], info["fortran_order"]
        if not isinstance(fortran, bool) or not isinstance(shape, tuple) or len(shape) > 32:
            raise ValueError("shape or order of the wrong type")
        if not all(type(n) is int and 0 <= n < 2**48 for n in shape):
            raise ValueError(f"shape {shape}")
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise VqtrtError(
            f"{name}: damaged .npy header ({printable(error)}); save it anew"
        ) from error
    if not isinstance(descr, str) or not _PLAIN_DTYPE.fullmatch(descr):
        raise VqtrtError(f"{name}: dtype {printable(descr)[:40]!r} is not read; save plain numbers")
    dtype = np.dtype(descr)
    return Header(dtype, shape, fortran, math.prod(shape) * dtype.itemsize)


def read_data(stream: IO[bytes], header: Header, name: str) -> NDArray[Any]:
    """The array whose header was read; `VqtrtError` if the stream ends too soon."""
    flat = np.empty(math.prod(header.shape), header.dtype)
    view, filled = memoryview(flat.view(np.uint8)), 0  # type: ignore[arg-type]
    while filled < header.nbytes:
        chunk = stream.read(min(1 << 20, header.nbytes - filled))
        if not chunk:
            raise VqtrtError(f"{name}: ends after {filled} of {header.nbytes} bytes; write it anew")
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
