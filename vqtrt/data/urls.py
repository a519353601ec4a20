"""What a URL of data names: `s3://bucket/x.tar`, `https://host/x.parquet:image`. No network here.

Notable: a query and a password in a URL are used, but neither shown nor written into codes.
"""

import re
from pathlib import PurePosixPath

from vqtrt.errors import VqtrtError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB = ("http", "https")
SUFFIXES = (".tar", ".parquet")
"""Files that are read over a network."""
_COLUMN = re.compile(r"(.*\.parquet):([^/:?]+)$", re.IGNORECASE)


def is_url(path: object) -> bool:
    """Whether a path is a URL; one letter before the colon would be a drive."""
    return bool(_URL.match(str(path)))


def public_url(text: str) -> str:
    """A URL without what may be secret: a query, a fragment, a user and a password.

    Any other path as it is.
    """
    if not is_url(text):
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{_without_query(scheme, path)}"


def path_in_url(url: str) -> PurePosixPath:
    """What follows the `://` of a URL, without what may be secret."""
    return PurePosixPath(public_url(url).partition("://")[2])


def _without_query(scheme: str, path: str) -> str:
    # Elsewhere `?` and `#` are characters of a name, or a pattern.
    return re.split("[?#]", path)[0] if scheme.lower() in _WEB else path


def split_column(url: str) -> tuple[str, str | None]:
    """A URL without the name of a column, and the name: `s3://…/x.parquet:image`.

    Raises `VqtrtError` unless it is one of a tar or a Parquet file.
    """
    found = _COLUMN.match(url)
    where, column = found.groups() if found else (url, None)
    if path_in_url(where).suffix.lower() not in SUFFIXES:
        raise VqtrtError(
            f"{public_url(url)}: only .tar and .parquet are read over a network; pack the files "
            "into tars, or copy them to a disk"
        )
    return where, column


def is_remote_tar(url: str) -> bool:
    """Whether a URL names a tar."""
    return path_in_url(url).suffix.lower() == ".tar"


def require_local(path: str, what: str) -> None:
    """Raise `VqtrtError` for a URL, where `what` needs files at hand."""
    if is_url(path):
        raise VqtrtError(f"{public_url(path)}: {what}; copy it to a disk, and name the copy")
