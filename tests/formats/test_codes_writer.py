import errno
import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from codes_files import ALL, PARTIAL, header, labels, left, names, put, values, write

from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Rejected, codes_dtype, read_codes
from vqtrt.formats.codes_writer import CodesWriter, npy_header


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def test_rows_rejects_and_labels_come_back_in_order(out: Path) -> None:
    codes = values(10)
    with CodesWriter(out, header=header(), resume=True) as writer:
        assert writer.files_done == 0
        put(writer, codes, 0, 4)
        writer.reject("bad\n1.png", "not an image")
        writer.commit()
        put(writer, codes, 4, 4)
        put(writer, codes, 4, 10)
        writer.reject("bad2.png", 'says "no", twice')
        assert (writer.rows, writer.files_done) == (10, 12)
        assert left(out) == PARTIAL
        assert writer.finish() == out
    assert left(out) == ALL
    loaded = np.load(out)
    assert loaded.dtype == np.uint16
    np.testing.assert_array_equal(loaded, codes)
    result = read_codes(out)
    assert isinstance(result.codes, np.memmap)
    np.testing.assert_array_equal(result.codes, codes)
    assert result.header == header()
    assert result.files == tuple(names(0, 10))
    assert result.labels == tuple(labels(0, 10))
    assert result.rejected == (
        Rejected("bad\n1.png", "not an image"),
        Rejected("bad2.png", 'says "no", twice'),
    )
    plain = json.loads(out.with_suffix(".json").read_text())
    assert (plain["format_version"], plain["rows"], plain["kind"]) == (1, 10, "image")


def test_names_that_are_not_utf8_survive(out: Path) -> None:
    name, root = os.fsdecode(b"caf\xe9, [1].png"), os.fsdecode(b"d\xe9")
    head = header(root=root, classes=(root,))
    with CodesWriter(out, header=head, resume=False) as writer:
        writer.write([name], [0], values(1))
        writer.reject(name, "why")
        writer.finish()
    result = read_codes(out)
    assert (result.files, result.rejected) == ((name,), (Rejected(name, "why"),))
    assert result.header == head


def test_no_rows_no_classes_and_more_codebooks(out: Path) -> None:
    write(out, values(0), classes=())
    assert np.load(out).shape == (0, 3, 4)
    assert read_codes(out).labels == ()
    assert "labels" not in json.loads(out.with_suffix(".json").read_text())
    codes = values(5, (3, 4, 2))
    write(out, codes, num_codebooks=2)
    np.testing.assert_array_equal(read_codes(out).codes, codes)


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(1, "u1"), (256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4"), (1 << 31, "u4")],
)
def test_smallest_dtype_holds_the_last_code(out: Path, size: int, dtype: str) -> None:
    codes = np.full((1, 3, 4), size - 1, np.int32)
    write(out, codes, codebook_size=size)
    loaded = np.load(out)
    assert loaded.dtype == codes_dtype(size) == np.dtype(dtype)
    np.testing.assert_array_equal(loaded, codes)


def test_header_has_one_length_and_is_aligned() -> None:
    for shape in [(8, 8), (1, 1), (4096, 4096, 64)]:
        lengths = {len(npy_header(np.dtype("<u2"), shape, n)) for n in (0, 1, 10**9, 1 << 62)}
        assert len(lengths) == 1
        assert lengths.pop() % 64 == 0


@pytest.mark.parametrize("bad", [-1, 512])
def test_codes_outside_the_codebook_are_never_wrapped(out: Path, bad: int) -> None:
    codes = values(2)
    codes[1, 2, 3] = bad
    writer = CodesWriter(out, header=header(), resume=False)
    with pytest.raises(VqtrtError, match=rf"gave code {bad}, .*512 entries"), writer:
        put(writer, codes, 0, 2)
    assert left(out) == []


def test_wrong_calls_are_refused(out: Path) -> None:
    with CodesWriter(out, header=header(), resume=False) as writer:
        for shape in [(3, 4), (1, 4, 3), (1, 3, 4, 1), (2, 3, 4)]:
            with pytest.raises(ValueError, match="codes int32"):
                writer.write(["a"], [0], np.zeros(shape, np.int32))
        with pytest.raises(ValueError, match="codes float32"):
            writer.write(["a"], [0], np.zeros((1, 3, 4), np.float32))
        with pytest.raises(ValueError, match="labels outside"):
            writer.write(["a"], [2], values(1))
    with pytest.raises(ValueError, match="closed"):
        writer.reject("a", "late")


def test_leaving_early_removes_or_keeps(out: Path) -> None:
    def breaks(commit: bool) -> None:
        with CodesWriter(out, header=header(), resume=False) as writer:
            put(writer, values(5), 0, 3)
            if commit:
                writer.commit()
            put(writer, values(5), 3, 5)
            raise VqtrtError("broken")

    with pytest.raises(VqtrtError, match=r"^broken$"):
        breaks(commit=False)
    assert left(out) == []
    with pytest.raises(VqtrtError, match=r"^broken; the first 3 items are kept in .*--resume"):
        breaks(commit=True)
    assert left(out) == PARTIAL
    writer = CodesWriter(out, header=header(), resume=True)
    assert writer.files_done == 3
    assert writer.abort() == out.parent / PARTIAL[0]
    assert writer.abort() is None


@pytest.mark.parametrize("call", ["write", "pwrite", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("committed", [False, True])
def test_failing_disk(
    out: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, committed: bool
) -> None:
    def fails(*args: object) -> int:
        raise OSError(number, os.strerror(number))

    message = "cannot be written" if number == errno.EIO else "No space left on"

    def job() -> None:
        with CodesWriter(out, header=header(), resume=False) as writer:
            put(writer, values(5), 0, 3)
            if committed:
                writer.commit()
            monkeypatch.setattr(os, call, fails)
            put(writer, values(5), 3, 5)
            writer.finish()

    with pytest.raises(VqtrtError, match=message) as caught:
        job()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    # The commit inside finish had succeeded where only the header's patch failed.
    kept = committed or call == "pwrite"
    assert left(out) == (PARTIAL if kept else [])
    with CodesWriter(out, header=header(), resume=True) as writer:
        put(writer, values(5), writer.files_done, 5)
        writer.finish()
    np.testing.assert_array_equal(read_codes(out).codes, values(5))


def test_disk_that_is_full_from_the_start_leaves_nothing(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fails)
    with pytest.raises(VqtrtError, match="No space left on"):
        CodesWriter(out, header=header(), resume=False)
    assert left(out) == []


def test_short_writes_are_continued(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    write(out, values(5))
    np.testing.assert_array_equal(read_codes(out).codes, values(5))
    assert read_codes(out).files == tuple(names(0, 5))


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    def refused(out: Path, message: str) -> None:
        with pytest.raises(VqtrtError, match=message):
            CodesWriter(out, header=header(), resume=False)

    refused(tmp_path, "is a folder")
    refused(tmp_path / "codes.bin", "must end in .npy")
    refused(tmp_path / ".npy", "must end in .npy")
    refused(tmp_path / "no" / "codes.npy", "no: no such folder; create it")
    refused(tmp_path / f"{'x' * 250}.npy", "File name too long")
    (tmp_path / "taken.json").mkdir()
    refused(tmp_path / "taken.npy", "taken.json: is a folder")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in PARTIAL:
        link = tmp_path / name
        link.symlink_to(victim)
        refused(tmp_path / "codes.npy", "cannot be written")
        link.unlink(missing_ok=True)
        assert left(tmp_path / "x") == ["taken.json", "victim"]
    assert victim.read_text() == "mine"
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(tmp_path / "locked" / "codes.npy", "Permission denied")


def test_memory_stays_flat(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vqtrt.formats.journal.BUFFER_BYTES", 1 << 14)
    codes = values(100)
    with CodesWriter(out, header=header(), resume=False) as writer:
        put(writer, codes, 0, 100)
        tracemalloc.start()
        for start in range(0, 20_000, 100):
            writer.write(names(start, start + 100), labels(0, 100), codes)
        writer.finish()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # The 20,000 names alone would take 1.2 MB.
    assert peak < 500_000
    assert len(read_codes(out).files) == 20_100
