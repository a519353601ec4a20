"""Which engine files this user built: a plan is code, and unasked only those are loaded.

A file of a bundle cannot say who wrote it: whoever wrote the bundle wrote that file too. So what
was built here is kept outside of bundles, in a folder of the user's own: `trusted-engines/` in
`$VQTRT_STATE`, else in `$XDG_STATE_HOME/vqtrt`, else in `~/.local/state/vqtrt`. It has a file for
each engine and each runtime cache, named by the SHA-256 of its bytes. Copies have the same bytes,
and are trusted as well. The folder counts only if nobody but the user can write to it.
"""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

VARIABLE = "VQTRT_STATE"
_FOLDER = "trusted-engines"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def state_folder() -> Path | None:
    """Where vqtrt keeps what it knows about this user's files; None without a home."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    base = os.environ.get("XDG_STATE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "vqtrt"
    try:
        return Path.home() / ".local" / "state" / "vqtrt"
    except RuntimeError:  # no home
        return None


def remember(sha256: str, path: Path) -> bool:
    """Trust these bytes from now on; whether that could be written. `path` is for people."""
    state = state_folder()
    if state is None:
        return False
    folder = state / _FOLDER
    try:
        state.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with os.fdopen(os.open(folder / sha256, flags, 0o600), "wb") as file:
            file.write(os.fsencode(path.absolute()) + b"\n")
    except OSError:
        return False
    return is_known(sha256)


def forget(sha256: str) -> None:
    """Trust these bytes no more."""
    state = state_folder()
    if state is not None:
        with suppress(OSError):
            (state / _FOLDER / sha256).unlink()


def is_known(sha256: str) -> bool:
    """Whether this user built these bytes."""
    state = state_folder()
    if state is None or not re.fullmatch("[0-9a-f]{64}", sha256):
        return False
    try:
        folder, marker = (state / _FOLDER).lstat(), (state / _FOLDER / sha256).lstat()
    except OSError:
        return False
    own = all(found.st_uid == os.geteuid() for found in (folder, marker))
    kinds = stat.S_ISDIR(folder.st_mode) and stat.S_ISREG(marker.st_mode)
    return own and kinds and not (folder.st_mode | marker.st_mode) & _OTHERS_WRITE
