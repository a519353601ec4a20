"""A tar in WebDataset's layout: `000000017.codes.npy`, `.cls` and `.json` for each item."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vqtrt.formats.codes import Header
from vqtrt.formats.shard_codes import Coded


def write_webdataset(path: Path, header: Header, items: Iterator[Coded]) -> None:
    """Write the items by their numbers: their names may hold dots, which end WebDataset's keys.

    The .json has the name as `id` and, of audio, `samples`; a .cls is there if there is a label.
    """
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))

        for number, item in enumerate(items):
            array = io.BytesIO()
            np.save(array, np.ascontiguousarray(item.codes))
            add(f"{number:09}.codes.npy", array.getvalue())
            if item.label >= 0:
                add(f"{number:09}.cls", str(item.label).encode())
            known = {"id": item.name} | ({} if item.samples is None else {"samples": item.samples})
            add(f"{number:09}.json", json.dumps(known).encode())
