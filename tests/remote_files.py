"""The same pictures as a tar of folders, a tar with labels and a Parquet file, to be served."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from doubles import picture

NAMES = [f"{folder}/{n:02}.png" for folder in "ab" for n in range(12)]
FILES = ("labels.tar", "pics.parquet", "pics.tar")


def write_files(folder: Path) -> Path:
    """Write `FILES` into a new folder."""
    folder.mkdir()
    pictures: dict[str, bytes] = {}
    for seed, name in enumerate(NAMES):
        out = io.BytesIO()
        picture(seed).save(out, "PNG")
        pictures[name] = out.getvalue()
    labels = {f"{n:04}.cls": f"{n % 3}".encode() for n in range(len(NAMES))}
    numbered = {f"{n:04}.png": pictures[name] for n, name in enumerate(NAMES)}
    _write_tar(folder / "pics.tar", pictures)
    _write_tar(folder / "labels.tar", dict(sorted((labels | numbered).items())))
    rows = [{"bytes": data, "path": name} for name, data in pictures.items()]
    table = pa.table({"image": rows, "label": [name[0] for name in NAMES]})
    pq.write_table(table, folder / "pics.parquet", row_group_size=5)
    return folder


def _write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
