"""What a file is that vqtrt does not read, in words: by its first bytes, else by its suffix."""

from pathlib import Path
from typing import NamedTuple

from vqtrt.system.files import open_file


class Foreign(NamedTuple):
    """A kind of file, and what to do with one."""

    name: str
    advice: str


_UNPACK = "unpack it, and give the folder of images"
_TAR = Foreign("a tar archive", "give it a name that ends in .tar, or unpack it")
_GZIP = Foreign("a gzip archive", _UNPACK)
_ZIP = Foreign("a zip archive", _UNPACK)
_OTHER_ARCHIVE = Foreign("an archive", _UNPACK)
_EXPORT = "write its images as files, and give their folder"
_PARQUET = Foreign("a Parquet table", "give it a name that ends in .parquet")
_ARROW = Foreign("an Arrow table", _EXPORT)
_HDF5 = Foreign("an HDF5 file", "save its images as a uint8 .npy of shape (N, H, W, 3)")
_MATLAB = Foreign("a MATLAB file", _HDF5.advice)
_PICKLE = Foreign("a Python pickle, which is never loaded", "save its arrays as .npy or .npz")
_TORCH = Foreign("a file of torch, which is never loaded", _PICKLE.advice)
_RECORDS = Foreign("a file of records", _EXPORT)
_CONVERT = "convert it to PNG or JPEG"
_PSD = Foreign("a Photoshop file", _CONVERT)
_HEIF = Foreign("a HEIF image", _CONVERT)
_RAW = Foreign("a camera's raw file", _CONVERT)
_OTHER_IMAGE = Foreign("an image of a format that is not read", _CONVERT)
_VECTOR = Foreign("a drawing, not an image of pixels", _CONVERT)
_PDF = Foreign("a PDF", _CONVERT)
_EXR = Foreign("an image of floating-point pixels", "save it as 8 or 16 bit")
_MEDICAL = Foreign("a medical image", _CONVERT)
_FITS = Foreign("a FITS file", _CONVERT)
_FILM = Foreign("a film", "write its frames as images, and give their folder")
_RECORDING = Foreign("a recording", "give it to a model of speech")
_TEXT = Foreign("a text", "leave it out")

_SIGNATURES: tuple[tuple[int, bytes, Foreign], ...] = (
    (257, b"ustar", _TAR),
    (0, b"\x1f\x8b", _GZIP),
    (0, b"PK\x03\x04", _ZIP),
    (0, b"BZh", _OTHER_ARCHIVE),
    (0, b"\xfd7zXZ\0", _OTHER_ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", _OTHER_ARCHIVE),
    (0, b"Rar!", _OTHER_ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", _OTHER_ARCHIVE),
    (0, b"PAR1", _PARQUET),
    (0, b"ARROW1", _ARROW),
    (0, b"FEA1", _ARROW),
    (0, b"\x89HDF\r\n\x1a\n", _HDF5),
    (0, b"MATLAB", _MATLAB),
    (0, b"\x80\x02", _PICKLE),
    (0, b"\x80\x03", _PICKLE),
    (0, b"\x80\x04", _PICKLE),
    (0, b"\x80\x05", _PICKLE),
    (0, b"8BPS", _PSD),
    (4, b"ftyphei", _HEIF),
    (4, b"ftyphev", _HEIF),
    (4, b"ftypmif1", _HEIF),
    (4, b"ftypmsf1", _HEIF),
    (4, b"ftypcrx", _RAW),
    (0, b"FUJIFILM", _RAW),
    (0, b"P7\n", _OTHER_IMAGE),  # PAM
    (0, b"\xff\x0a", _OTHER_IMAGE),  # JPEG XL, bare and in a container
    (0, b"\0\0\0\x0cJXL ", _OTHER_IMAGE),
    (0, b"DDS ", _OTHER_IMAGE),
    (0, b"icns", _OTHER_IMAGE),
    (0, b"gimp xcf", _OTHER_IMAGE),
    (0, b"%!PS", _VECTOR),
    (0, b"\xc5\xd0\xd3\xc6", _VECTOR),
    (0, b"<svg", _VECTOR),
    (0, b"%PDF", _PDF),
    (0, b"\x76\x2f\x31\x01", _EXR),
    (0, b"#?RADIANCE", _EXR),
    (128, b"DICM", _MEDICAL),
    (0, b"SIMPLE  =", _FITS),
    (4, b"ftypisom", _FILM),
    (4, b"ftypmp4", _FILM),
    (4, b"ftypqt", _FILM),
    (0, b"\x1a\x45\xdf\xa3", _FILM),
    (0, b"fLaC", _RECORDING),
    (0, b"OggS", _RECORDING),
    (0, b"ID3", _RECORDING),
    (8, b"WAVE", _RECORDING),
    (0, b"<!DOCTYPE", _TEXT),
    (0, b"<html", _TEXT),
    (0, b"<?xml", _TEXT),
    (0, b'{"', _TEXT),
)
_SUFFIXES = {
    ".tar": _TAR,
    ".tar.gz": _GZIP,
    ".tgz": _GZIP,
    ".gz": _GZIP,
    ".zip": _ZIP,
    **dict.fromkeys((".7z", ".rar", ".bz2", ".xz", ".zst"), _OTHER_ARCHIVE),
    ".parquet": _PARQUET,
    ".arrow": _ARROW,
    ".feather": _ARROW,
    **dict.fromkeys((".h5", ".hdf5"), _HDF5),
    ".mat": _MATLAB,
    **dict.fromkeys((".pkl", ".pickle"), _PICKLE),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), _TORCH),
    **dict.fromkeys((".tfrecord", ".tfrecords", ".rec", ".lmdb", ".mdb"), _RECORDS),
}


def foreign_bytes(head: bytes) -> Foreign | None:
    """The kind of a file by its first bytes, of which 300 are enough."""
    for offset, signature, kind in _SIGNATURES:
        if head.startswith(signature, offset):
            return kind
    return None


def foreign_file(path: Path) -> Foreign | None:
    """The kind of a file by its first bytes, or by what its name ends with."""
    try:
        with open_file(path) as file:
            found = foreign_bytes(file.read(300))
    except OSError:
        found = None
    name = path.name.lower()
    return found or next((kind for end, kind in _SUFFIXES.items() if name.endswith(end)), None)
