"""From what a user writes for recordings to the source that reads them."""

from pathlib import Path

from vqtrt.data.audio.folder import VCTK, AudioFolder, AudioSource
from vqtrt.data.audio.table import AudioTable
from vqtrt.data.audio.tar import AudioTar
from vqtrt.data.remote import open_remote
from vqtrt.data.selection import Selection
from vqtrt.data.table import is_table
from vqtrt.data.urls import is_remote_tar, is_url, split_column
from vqtrt.errors import VqtrtError
from vqtrt.system.names import printable


def open_speech(
    path: str | Path,
    speaker_pattern: str | None = None,
    selection: Selection | None = None,
    indexes: Path | None = None,
) -> AudioSource:
    """Open a folder or a tar of recordings, the VCTK corpus, or a single recording.

    A tar or a Parquet file may be a URL; `indexes` is a folder to keep the index of such a tar in.
    With `speaker_pattern` every folder is a plain one (see `AudioFolder`), also VCTK. `selection`
    says which files of a folder or a tar count.

    Raises `VqtrtError` for what is missing or holds no recordings.
    """
    if is_url(path):
        url, column = split_column(str(path))
        if is_remote_tar(url):
            return AudioTar(open_remote(url, indexes), speaker_pattern, selection)
        return AudioTable(open_remote(url), speaker_pattern, column)
    where = Path(path)
    try:
        if speaker_pattern is None and any((where / name).is_dir() for name in VCTK.FOLDERS):
            return VCTK(where, selection)
        if is_table(where):
            return AudioTable(where, speaker_pattern)
        if where.suffix.lower() == ".tar" and where.is_file():
            return AudioTar(where, speaker_pattern, selection)
        return AudioFolder(where, speaker_pattern, selection)
    except (OSError, ValueError) as error:  # too long, a NUL byte, a parent that is closed
        raise VqtrtError(
            f"{printable(path)}: cannot be opened ({error}); check the path"
        ) from error


def speaker_note(source: AudioSource) -> str | None:
    """What to tell where one speaker stands for all recordings of a source; None elsewhere."""
    if len(source.classes) != 1 or any(item.label != 0 for item in source.items()):
        return None
    return (
        f"one speaker, {source.classes[0]}, stands for all recordings; if their names say who "
        "speaks, give --speaker-pattern"
    )
