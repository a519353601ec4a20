"""Tars and Parquet files behind URLs: as the same files on a disk, and servers that fail."""

import json
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_jobs import encode
from range_server import RangeServer, serving
from recordings import noise, put
from remote_files import NAMES, write_files

from vqtrt.data import remote
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.open import open_speech
from vqtrt.data.images.open import open_images
from vqtrt.data.parts import parts_of
from vqtrt.data.remote import open_remote, remote_paths
from vqtrt.data.several import expanded_paths, open_each
from vqtrt.errors import VqtrtError
from vqtrt.formats.shards import done_shards, indexes_of, read_job
from vqtrt.system import interrupts


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 KiB, so that small files have several, and no waiting between attempts."""
    monkeypatch.setattr(remote, "BLOCK", 4096)
    monkeypatch.setattr(remote, "_PAUSE", 0.001)
    monkeypatch.setattr(remote, "_BLOCKS", remote._Blocks())
    open_remote.cache_clear()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[RangeServer]:
    """`FILES` behind URLs."""
    with serving(write_files(tmp_path / "served")) as server:
        yield server


def same(url: str, path: Path) -> None:
    """The same names, labels and pixels from a URL as from a file."""
    far, near = open_images(url), open_images(path)
    assert far.classes == near.classes
    for one, other in zip(far.items(), near.items(), strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(far.read(one), near.read(other))


@pytest.mark.parametrize("name", ["pics.tar", "labels.tar", "pics.parquet", "pics.parquet:image"])
def test_a_url_is_the_file(served, name):
    same(f"{served.url}/{name}", served.folder / name)


@pytest.mark.parametrize("name", ["pics.tar", "labels.tar", "pics.parquet"])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_fails_now_and_then_changes_nothing(served, name, status):
    served.fail_every, served.status = 3, status
    same(f"{served.url}/{name}", served.folder / name)


def test_recordings(tmp_path):
    (tmp_path / "served").mkdir()
    with tarfile.open(tmp_path / "served/talk.tar", "w") as tar:
        for number, name in enumerate(["ann/x.wav", "bob/y.wav", "ann/z.wav"]):
            tar.add(put(tmp_path / f"{number}.wav", noise(900 + number, seed=number)), name)
    rows = [{"bytes": (tmp_path / f"{n}.wav").read_bytes(), "path": f"a/{n}.wav"} for n in range(3)]
    pq.write_table(pa.table({"audio": rows}), tmp_path / "served/talk.parquet")
    how = AudioPreprocessing(sample_rate=8000)
    with serving(tmp_path / "served") as server:
        for name in ("talk.tar", "talk.parquet"):
            far, near = open_speech(f"{server.url}/{name}"), open_speech(server.folder / name)
            assert far.classes == near.classes
            for one, other in zip(far.items(), near.items(), strict=True):
                assert (one.name, one.label) == (other.name, other.label)
                np.testing.assert_array_equal(far.read(one, how), near.read(other, how))


def test_several_files_by_a_range_a_folder_or_a_pattern(served):
    for number in range(3):
        (served.folder / f"x-{number}.tar").write_bytes((served.folder / "pics.tar").read_bytes())
    urls = [f"{served.url}/x-{number}.tar" for number in range(3)]
    assert expanded_paths([f"{served.url}/x-{{0..2}}.tar"]) == urls
    assert remote_paths(f"{served.url}/x-*.tar") == urls
    every = [f"{served.url}/{name}" for name in ("labels.tar", "pics.parquet", "pics.tar")]
    assert expanded_paths([f"{served.url}/"]) == sorted([*every, *urls])
    source = open_each([urls[0], urls[1]], open_images)
    assert [item.name for item in source.items()] == NAMES * 2
    assert [part.name for part in parts_of(source, "")] == urls[:2]


def test_a_folder_without_tars(served, tmp_path):
    (served.folder / "none").mkdir()
    with pytest.raises(VqtrtError, match=r"none/: holds no \.tar or \.parquet"):
        remote_paths(f"{served.url}/none/")


@pytest.mark.parametrize("name", ["pics.tar", "pics.parquet"])
def test_a_server_that_dies_is_an_error_and_the_job_continues(served, tmp_path, name):
    out, url = tmp_path / "codes", f"{served.url}/{name}"
    encode(open_images(served.folder / name), tmp_path / "near", shard_size=4, root="x")
    source = open_images(url, indexes=indexes_of(out))
    encode(source, out, shard_size=4, root="x", plan=True)
    remote._BLOCKS = remote._Blocks()
    served.dies_after = served.asked + 1
    with pytest.raises(VqtrtError, match=rf"{name}: bytes .* could not be read in 5 attempts"):
        # `skip` is for images that are broken, not for servers.
        encode(source, out, root="x", on_error="skip")
    assert len(done_shards(out, read_job(out))) < 6
    served.dies_after = None
    open_remote.cache_clear()
    encode(open_images(url, indexes=indexes_of(out)), out, root="x", on_error="skip")
    for path in (tmp_path / "near").rglob("*.npy"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "near")).read_bytes()


def test_a_shard_reads_its_own_bytes_alone(served, tmp_path):
    """The index of a tar is kept with the shards, so that no other job reads all of it again."""
    out, url = tmp_path / "codes", f"{served.url}/labels.tar"
    encode(open_images(url, indexes=indexes_of(out)), out, shard_size=4, root="x", plan=True)
    size = (served.folder / "labels.tar").stat().st_size
    assert sum(stop - start for _, start, stop in served.gets) == size
    assert [path.suffix for path in (out / "plan").iterdir()] == [".jsonl"]
    for turn in range(6):
        served.gets.clear()
        remote._BLOCKS = remote._Blocks()
        open_remote.cache_clear()
        source = open_images(url, indexes=indexes_of(out))
        members = [item.key for item in source.items()][4 * turn : 4 * turn + 4]
        first, last = members[0].offset // 4096, (members[-1].offset + members[-1].size) // 4096
        encode(source, out, root="x", turn=(turn, 6))
        read = {start // 4096 for _, start, _ in served.gets}
        assert read <= set(range(first, last + 1 + remote._AHEAD + 1))
        assert len(served.gets) == len(read)


def test_an_index_is_made_anew_if_it_is_damaged_or_the_tar_changed(served, tmp_path):
    url, near = f"{served.url}/labels.tar", open_images(served.folder / "labels.tar")
    names = [item.name for item in near.items()]
    assert [i.name for i in open_images(url, indexes=tmp_path / "plan").items()] == names
    (path,) = (tmp_path / "plan").iterdir()
    good = path.read_bytes()
    lines = good.splitlines(keepends=True)
    far = json.loads(lines[1])
    far[1] = 10**9
    for bad in (b"", b"{}\n", good[:-9], lines[0] + json.dumps(far).encode() + b"".join(lines[2:])):
        path.write_bytes(bad)
        open_remote.cache_clear()
        assert [i.name for i in open_images(url, indexes=tmp_path / "plan").items()] == names
        assert path.read_bytes() == good
    (served.folder / "labels.tar").write_bytes((served.folder / "pics.tar").read_bytes())
    open_remote.cache_clear()
    assert [i.name for i in open_images(url, indexes=tmp_path / "plan").items()] == NAMES


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_another_attempt_cannot_mend_is_an_error_at_once(served, status):
    file = open_remote(f"{served.url}/pics.tar?key=secret")
    served.fail_every, served.status = 1, status
    before = served.asked
    with pytest.raises(VqtrtError, match=r"pics\.tar: .*check the URL and your credent") as caught:
        file.read(0, 10)
    assert "secret" not in str(caught.value)
    assert served.asked == before + 1


@pytest.mark.parametrize("url", ["{}/none.tar", "{}/none.parquet"])
def test_a_missing_file(served, url):
    with pytest.raises(VqtrtError, match="no such file; check the URL"):
        open_images(url.format(served.url))


def test_a_server_without_ranges(served):
    served.ranges = False
    with pytest.raises(VqtrtError, match="sends whole files only, no ranges"):
        open_images(f"{served.url}/pics.tar")


def test_answers_that_end_too_early(served):
    served.short = True
    with pytest.raises(VqtrtError, match=r"bytes 0 to 4095 could not be read in 5 attempts \("):
        open_images(f"{served.url}/pics.tar")


def test_a_server_that_does_not_answer_is_left(served, monkeypatch):
    monkeypatch.setattr(remote, "_LIMIT", 0.05)
    file = open_remote(f"{served.url}/pics.tar")
    served.latency = 1.0
    with pytest.raises(VqtrtError, match=r"in 5 attempts \(FSTimeoutError"):
        file.read(0, 10)


def test_a_signal_does_not_wait_for_the_network(served, monkeypatch):
    file = open_remote(f"{served.url}/pics.tar")
    served.latency = 60.0
    monkeypatch.setattr(remote, "_LOOK", 0.01)
    monkeypatch.setattr(interrupts._State, "number", 15)
    errors = []

    def read() -> None:
        with pytest.raises(VqtrtError) as caught:
            file.read(0, 10)
        errors.append(str(caught.value))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert errors == ["interrupted while the network was waited for"]


def test_blocks_are_read_ahead_and_forgotten(served):
    file = open_remote(f"{served.url}/pics.tar")
    data = (served.folder / "pics.tar").read_bytes()
    for start in range(0, len(data), 1000):
        assert file.read(start, 1000) == data[start : start + 1000]
    assert len(remote._BLOCKS._kept) <= remote._KEPT
    assert file.read(len(data) - 5, 100) == data[-5:]
    assert file.read(len(data), 100) == b""
    assert file.read(0, 3 * 4096 + 7) == data[: 3 * 4096 + 7]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://host/x.tar", "Protocol not known: nonsense; check the URL"),
        ("zip://x.tar::https://host/y.tar", "chained URLs are not read"),
        ("https://host/x.png", r"only \.tar and \.parquet are read"),
    ],
)
def test_other_urls(url, message):
    with pytest.raises(VqtrtError, match=message):
        open_images(url)
