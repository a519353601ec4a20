"""Tars and Parquet files over a network: equal codes, from servers that are slow, fail or die.

    python benchmarks/scale_remote.py FOLDER --model MODEL --size 32 > table.md

The script packs a folder of images into tars and a Parquet file, and encodes them from the disk,
from a web server on this machine that waits before each answer, from one that fails every tenth
request, from one that dies in the middle (the same command then goes on), and from S3, for which
moto stands in. Codes, labels and names must be equal to those from the disk. Exits with status 1 if
anything differs. Needs the extras `scale` and `dev`.
"""

import argparse
import logging
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from range_server import serving

from vqtrt.config.location import find_model
from vqtrt.data import remote
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.open import open_images
from vqtrt.data.several import expanded_paths, open_each
from vqtrt.engines.choose import open_engine
from vqtrt.errors import VqtrtError
from vqtrt.formats.items import open_codes
from vqtrt.formats.shards import indexes_of
from vqtrt.images.encode import encode_source
from vqtrt.images.tokenizer import ImageTokenizer

LATENCY = 0.03
"""Seconds before each answer."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pack(folder: Path, into: Path, tars: int) -> None:
    """The images of a folder as tars `x-0.tar` … and as `x.parquet`."""
    source = ImageFolder(folder)
    items = list(source.items())
    for number in range(tars):
        with tarfile.open(into / f"x-{number}.tar", "w") as tar:
            for item in items[number::tars]:
                tar.add(source.path(item), item.name)
    rows = ({"bytes": source.path(i).read_bytes(), "path": i.name} for i in items)
    with pq.ParquetWriter(into / "x.parquet", pa.schema([("image", _IMAGE)])) as writer:
        while batch := [row for _, row in zip(range(1000), rows, strict=False)]:
            writer.write_table(pa.table({"image": pa.array(batch, _IMAGE)}))


class Jobs:
    """Encodes what URLs name, as `vqtrt encode URL… --out FOLDER` does."""

    def __init__(self, model: Path, size: str, shard_size: int, work: Path) -> None:
        self.located = find_model(model)
        self.tokenizer = ImageTokenizer(open_engine(self.located))
        self.size, self.shard_size, self.work = size, shard_size, work

    def encode(self, name: str, paths: Sequence[str]) -> float:
        """Seconds that a job takes, or goes on for."""
        out, start = self.work / name, time.perf_counter()
        remote.open_remote.cache_clear()
        remote._BLOCKS = remote._Blocks()
        source = open_each(
            expanded_paths(paths), lambda path: open_images(path, indexes=indexes_of(out))
        )
        encode_source(
            self.tokenizer,
            source,
            out,
            root="data",
            model=self.located,
            preprocessing=self.tokenizer.preprocessing.with_size(self.size),
            workers=2,
            shard_size=self.shard_size,
        )
        return time.perf_counter() - start

    def same(self, one: str, other: str) -> bool:
        """Whether codes, names and labels are equal."""
        a, b = open_codes(self.work / one), open_codes(self.work / other)
        return np.array_equal(a[:], b[:]) and list(a.items()) == list(b.items())


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """A bucket of moto with the files of a folder."""
    import s3fs
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    s3fs.S3FileSystem.clear_instance_cache()  # which knows another server
    system, name = s3fs.S3FileSystem(), f"data{port}"
    system.mkdir(name)
    for path in folder.iterdir():
        system.put_file(str(path), f"{name}/{path.name}")
    try:
        yield f"s3://{name}"
    finally:
        server.stop()


def compare(jobs: Jobs, kind: str, names: str, s3: str) -> int:
    """Print a line for each server; how many of them gave other codes."""
    bad, folder = 0, jobs.work / "served"

    def tell(server: str, name: str, seconds: float, requests: int | str) -> None:
        nonlocal bad
        equal = jobs.same(f"{kind}-{name}", f"{kind}-disk")
        bad += not equal
        rate = len(open_codes(jobs.work / f"{kind}-{name}")) / seconds
        row = (kind, server, f"{seconds:.1f}", f"{rate:,.0f}", requests, equal)
        print("| " + " | ".join(map(str, row)) + " |", flush=True)

    tell("none, the disk", "disk", jobs.encode(f"{kind}-disk", [str(folder / names)]), 0)
    with serving(folder) as server:
        far = [f"{server.url}/{names}"]
        server.latency = LATENCY
        seconds = jobs.encode(f"{kind}-slow", far)
        asked = server.asked
        tell(f"{LATENCY * 1000:.0f} ms of latency", "slow", seconds, asked)
        server.fail_every, server.asked = 10, 0
        seconds = jobs.encode(f"{kind}-failing", far)
        tell("every tenth request fails", "failing", seconds, server.asked)
        server.fail_every, server.asked, server.dies_after = 0, 0, asked * 3 // 4
        start = time.perf_counter()
        try:
            jobs.encode(f"{kind}-dying", far)
            bad += 1
        except VqtrtError as error:
            print(f"error: {error}", *getattr(error, "__notes__", []), file=sys.stderr)
        server.dies_after = None
        jobs.encode(f"{kind}-dying", far)
        tell("dies, and comes back", "dying", time.perf_counter() - start, server.asked)
    tell("S3 (moto)", "s3", jobs.encode(f"{kind}-s3", [f"{s3}/{names}"]), "")
    return bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--size", default="32")
    parser.add_argument("--tars", type=int, default=4)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--block", type=int, default=remote.BLOCK, help="bytes of a request")
    options = parser.parse_args()
    remote.BLOCK = options.block
    bad = 0
    print("| data | server | seconds | images per second | requests | codes as from the disk |")
    print("|---|---|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        (work / "served").mkdir()
        pack(options.folder, work / "served", options.tars)
        jobs = Jobs(options.model, options.size, options.shard_size, work)
        with bucket(work / "served") as s3:
            for kind, names in (("tars", "x-*.tar"), ("Parquet", "x.parquet")):
                bad += compare(jobs, kind, names, s3)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
