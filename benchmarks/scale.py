"""The same files as a folder, a tar, a Parquet file and a Hugging Face folder: equal codes, rates.

    python benchmarks/scale.py FOLDER --model MODEL --size 32 > table.md

The script makes the other three forms of the folder and encodes each: codes, labels and names have
to be those of the folder. Then it encodes the folder into shards in several ways (workers, batch
sizes, jobs that share the work): the shards have to have the same bytes each time. Exits with
status 1 if anything differs. Needs the extra `scale`.

A rate is in images per second. `read` is reading and decoding alone, `engine` the engine alone on
images in memory, `both` is `vqtrt encode`; on the CPU both share the cores, so the bound is
1 / (1 / read + 1 / engine). Rounds are interleaved, and the median counts.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vqtrt.config.location import find_model
from vqtrt.data.images.batches import read_batches
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.open import open_images
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import ImageSource
from vqtrt.engines.choose import open_engine
from vqtrt.formats.items import open_codes
from vqtrt.images.encode import encode_source
from vqtrt.images.tokenizer import ImageTokenizer

WAYS: list[tuple[str, dict[str, Any], int, int]] = [
    ("one job", {}, 64, 1),
    ("1 worker", {"workers": 1}, 64, 1),
    ("16 workers", {"workers": 16}, 64, 1),
    ("batches of 1", {}, 1, 1),
    ("batches of 7", {}, 7, 1),
    ("3 jobs", {}, 64, 3),
    ("20 jobs", {}, 64, 20),
]
"""Name, options, batch size, number of jobs that share the shards."""


def make(folder: Path, work: Path) -> dict[str, Path]:
    """The files of a folder in the other forms."""
    source = ImageFolder(folder)
    items = list(source.items())
    with tarfile.open(work / "images.tar", "w") as tar:
        for item in items:
            tar.add(source.path(item), item.name)
    rows = [{"bytes": source.path(item).read_bytes(), "path": item.name} for item in items]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    named = {"label": {"names": list(source.classes), "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": named if source.classes else {}}})}
    labels = pa.array([item.label for item in items], pa.int64())
    table = pa.table({"image": pa.array(rows, kind), "label": labels}).replace_schema_metadata(
        about
    )
    pq.write_table(table, work / "images.parquet", row_group_size=1000)
    saved = work / "saved"
    saved.mkdir()
    with (
        pa.OSFile(str(saved / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=1000)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (saved / "state.json").write_text(json.dumps({"_data_files": files}))
    return {
        "folder": folder,
        "tar": work / "images.tar",
        "Parquet": work / "images.parquet",
        "save_to_disk": saved,
    }


def digest(folder: Path) -> str:
    """SHA-256 of all files of a folder of shards."""
    found = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return found.hexdigest()


def seconds(work: Callable[[], object]) -> float:
    """What something takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def read_all(source: ImageSource, size: Preprocessing, workers: int) -> None:
    """Read and decode all images."""
    for _ in read_batches(source, size, batch_size=64, workers=workers):
        pass


def rates(
    forms: dict[str, Path], tokenizer: ImageTokenizer, size: Preprocessing, work: Path, repeat: int
) -> list[str]:
    """A row of the table for each form."""
    sources = {name: open_images(path) for name, path in forms.items()}
    first = next(read_batches(sources["folder"], size, batch_size=64, workers=2)).images
    count = sum(1 for _ in sources["folder"].items())
    tokenizer.encode(first)
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeat):
        engine = seconds(lambda: [tokenizer.encode(first) for _ in range(16)]) / 16 / len(first)
        times.setdefault(("", "engine"), []).append(engine * count)
        for name, source in sources.items():
            out = work / f"rate-{name}.npy"

            def encode(source: ImageSource = source, out: Path = out) -> object:
                options: dict[str, Any] = {"root": "x", "workers": 2, "preprocessing": size}
                return encode_source(tokenizer, source, out, **options)

            read = seconds(lambda source=source: read_all(source, size, 2))  # type: ignore[misc]
            times.setdefault((name, "read"), []).append(read)
            times.setdefault((name, "both"), []).append(seconds(encode))
    middle = {key: statistics.median(found) for key, found in times.items()}
    lines = ["| form | read | engine | both | both / bound |", "|---|---:|---:|---:|---:|"]
    engine = middle["", "engine"]
    for name in sources:
        read, both = middle[name, "read"], middle[name, "both"]
        numbers = f"{count / read:,.0f} | {count / engine:,.0f} | {count / both:,.0f}"
        lines.append(f"| {name} | {numbers} | {(read + engine) / both:.2f} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--size", default="32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--shard-size", type=int, default=500)
    options = parser.parse_args()
    location = find_model(options.model)
    engine = open_engine(location)
    size = ImageTokenizer(engine).preprocessing.with_size(options.size)
    faults = []
    with tempfile.TemporaryDirectory(prefix="vqtrt-scale-") as scratch:
        work = Path(scratch)
        forms = make(options.folder, work)
        tokenizer = ImageTokenizer(engine, location=location)
        told: dict[str, Any] = {"root": "x", "workers": 2, "preprocessing": size}
        for name, path in forms.items():
            encode_source(tokenizer, open_images(path), work / f"{name}.npy", **told)
        wanted = open_codes(work / "folder.npy")
        for name in list(forms)[1:]:
            found = open_codes(work / f"{name}.npy")
            same = np.array_equal(found[:], wanted[:]), list(found.items()) == list(wanted.items())
            print(f"- {name}: codes equal: {same[0]}; names and labels equal: {same[1]}")
            faults += [] if all(same) else [name]
        digests = set()
        for way, more, batch, jobs in WAYS:
            out = work / f"shards-{way}"
            for turn in reversed(range(jobs)):
                one = ImageTokenizer(engine, batch_size=batch, location=location)
                shards: dict[str, Any] = {"shard_size": options.shard_size, "turn": (turn, jobs)}
                encode_source(one, open_images(options.folder), out, **(told | more), **shards)
            digests.add(digest(out))
            print(f"- shards by {way}: SHA-256 {digest(out)[:12]}")
        faults += [] if len(digests) == 1 else ["shards"]
        print("\n" + "\n".join(rates(forms, tokenizer, size, work, options.repeat)))
    for fault in faults:
        print(f"- differs: {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
