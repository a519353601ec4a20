import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vqtrt.errors import VqtrtError
from vqtrt.formats import codes as reader
from vqtrt.formats.codes import CodesHeader, Rejected, check_codes, codes_dtype, read_codes
from vqtrt.formats.codes_writer import CodesWriter, npy_header


def header(**changes: Any) -> CodesHeader:
    fields: dict[str, Any] = {
        "codebook_size": 512,
        "code_shape": (3, 4),
        "image_size": (12, 16),
        "classes": ("cat", "dog"),
        "root": "data",
        "listing_sha256": "a" * 64,
        "weights_sha256": "b" * 64,
        "model": {"run": "r1"},
        "preprocessing": {"resize": 12, "crop": [12, 16]},
        "vqtrt_version": "0.1.0",
    }
    return CodesHeader(**{**fields, **changes})


def values(n: int, shape: tuple[int, ...] = (3, 4), size: int = 512, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, (n, *shape), dtype=np.int32)


def names(start: int, stop: int) -> list[str]:
    return [f"dir/{i:05}.png" for i in range(start, stop)]


def labels(start: int, stop: int) -> list[int]:
    return [i % 3 - 1 for i in range(start, stop)]


def put(writer: CodesWriter, codes: np.ndarray, start: int, stop: int) -> None:
    writer.write(names(start, stop), labels(start, stop), codes[start:stop])


def write(out: Path, codes: np.ndarray, **changes: Any) -> Path:
    with CodesWriter(out, header=header(**changes), resume=False) as writer:
        put(writer, codes, 0, len(codes))
        return writer.finish()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


ALL = ["codes.json", "codes.npy"]
PARTIAL = ["codes.npy.partial", "codes.npy.partial.jsonl"]


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


def killed_and_resumed(out: Path, tail: bytes = b"", data_tail: bytes = b"") -> CodesWriter:
    """A writer killed after committing 6 items of 5 rows and starting on more, then resumed."""
    codes = values(10)
    dead = CodesWriter(out, header=header(), resume=False)
    put(dead, codes, 0, 2)
    dead.commit()
    put(dead, codes, 2, 5)
    dead.reject("bad.png", "why")
    dead.commit()
    copy = out.parent / "copy"
    copy.mkdir()
    for name in PARTIAL:
        shutil.copy(out.parent / name, copy)
    dead.abort()
    for name, more in zip(PARTIAL, (data_tail, tail), strict=True):
        with (copy / name).open("ab") as file:
            file.write(more)
    return CodesWriter(copy / "codes.npy", header=header(), resume=True)


@pytest.mark.parametrize(
    ("tail", "data_tail"),
    [
        (b"", b""),
        (b'["dir/00005.png", 1]\n["dir/000', values(1)[0, :2].astype(np.uint16).tobytes()),
        (b'["dir/00005.png", 1]\n{"commit": 6, "files": 7}\n', b"x"),  # more rows than data
        (b'["dir/00005.png", 1]\n{"commit": 9, "files": 7}\n', b"x" * 999),  # does not add up
        (b"\0" * 50 + b"\n" + b'{"commit": 5, "files": 6}\n', b"x" * 999),
        (b'{"commit": 5, "files": 6', b""),
        (b"[" * 100_000 + b"\n", b""),
        (b'{"reject": "a"}\n[1, 2]\n{"commit": 5, "files": 7}\n', b""),
    ],
)
def test_resume_starts_at_the_last_whole_commit(out: Path, tail: bytes, data_tail: bytes) -> None:
    with killed_and_resumed(out, tail, data_tail) as writer:
        assert (writer.rows, writer.files_done) == (5, 6)
        put(writer, values(10), 5, 10)
        writer.finish()
    assert left(writer.out) == ALL
    result = read_codes(writer.out)
    np.testing.assert_array_equal(result.codes, values(10))
    assert result.files == tuple(names(0, 10))
    assert result.rejected == (Rejected("bad.png", "why"),)
    whole = write(out, values(10))
    assert whole.read_bytes() == writer.out.read_bytes()


def test_killed_between_the_two_renames_finishes_again(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(out, values(3, seed=9))
    real = Path.replace

    def dies(self: Path, target: Path) -> Path:
        if target == out:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", dies)

    def job() -> None:
        with CodesWriter(out, header=header(), resume=False) as writer:
            put(writer, values(5), 0, 5)
            writer.finish()

    with pytest.raises(KeyboardInterrupt) as caught:
        job()
    assert "first 5 items are kept" in caught.value.__notes__[0]
    # The older array is not left beside the newer JSON.
    assert left(out) == ["codes.json", *PARTIAL]
    monkeypatch.undo()
    with CodesWriter(out, header=header(), resume=True) as writer:
        assert writer.files_done == 5
        writer.finish()
    assert left(out) == ALL
    np.testing.assert_array_equal(read_codes(out).codes, values(5))


def test_without_resume_the_partial_is_overwritten(out: Path) -> None:
    with CodesWriter(out, header=header(), resume=False) as writer:
        put(writer, values(5), 0, 5)
        writer.commit()
    assert left(out) == PARTIAL
    with CodesWriter(out, header=header(), resume=False) as writer:
        assert writer.files_done == 0
        put(writer, values(2), 0, 2)
        writer.finish()
    np.testing.assert_array_equal(read_codes(out).codes, values(2))


@pytest.mark.parametrize("lost", PARTIAL)
def test_half_a_partial_starts_from_the_beginning(out: Path, lost: str) -> None:
    with CodesWriter(out, header=header(), resume=False) as writer:
        put(writer, values(5), 0, 5)
        writer.commit()
    (out.parent / lost).unlink()
    with CodesWriter(out, header=header(), resume=True) as writer:
        assert (writer.rows, writer.files_done) == (0, 0)
        writer.finish()
    assert len(read_codes(out).codes) == 0


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights_sha256", "c" * 64, "the model changed since it was begun"),
        ("listing_sha256", "c" * 64, "the data's list of files changed since it was begun"),
        ("preprocessing", {"resize": 13}, r"begun with another preprocessing \("),
        ("code_shape", (4, 4), r"begun with another code_shape \("),
        ("codebook_size", 513, r"begun with another codebook_size \("),
        ("classes", (), r"begun with another classes \("),
    ],
)
def test_resume_with_another_header_names_what_differs(
    out: Path, field: str, value: Any, message: str
) -> None:
    with CodesWriter(out, header=header(), resume=False) as writer:
        put(writer, values(5), 0, 5)
        writer.commit()
    before = {name: (out.parent / name).read_bytes() for name in PARTIAL}
    with pytest.raises(VqtrtError, match=f"{message}.*; mend that, or start anew without --res"):
        CodesWriter(out, header=header(**{field: value}), resume=True)
    assert {name: (out.parent / name).read_bytes() for name in PARTIAL} == before
    # And the lock is free again.
    with CodesWriter(out, header=header(), resume=True) as writer:
        assert writer.files_done == 5


@pytest.mark.parametrize("resume", [False, True])
def test_second_writer_is_refused_and_does_no_harm(out: Path, resume: bool) -> None:
    with CodesWriter(out, header=header(), resume=False) as first:
        put(first, values(5), 0, 3)
        first.commit()
        with pytest.raises(VqtrtError, match="another process is writing"):
            CodesWriter(out, header=header(), resume=resume)
        put(first, values(5), 3, 5)
        first.finish()
    np.testing.assert_array_equal(read_codes(out).codes, values(5))


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


def test_array_without_json(out: Path) -> None:
    np.save(out, values(3).astype(np.int64))
    result = read_codes(out)
    assert (result.header, result.files, result.labels, result.rejected) == (None, (), (), ())
    np.testing.assert_array_equal(result.codes, values(3))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 2, 2), np.float32), "float32, but codes are integers"),
        (np.zeros((1, 2, 2), bool), "codes are integers"),
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\), but codes are \(N, h, w\)"),
        (np.zeros((1, 2, 2, 2, 2), np.uint8), "but codes are"),
        (np.array([[[0, 1], [2, -7]]]), r"row 0 at \(1, 1\) holds -7, but codes are never neg"),
    ],
)
def test_arrays_that_are_no_codes(out: Path, array: np.ndarray, message: str) -> None:
    np.save(out, array)
    with pytest.raises(VqtrtError, match=message):
        read_codes(out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "written by a newer vqtrt"),
        ({"format_version": True}, "not the JSON of a codes file"),
        ({"format_version": "1"}, "not the JSON of a codes file"),
        ({"rows": 4}, "describes 4 rows, but codes.npy has 3"),
        ({"rows": 3.0}, "describes 3.0 rows"),
        ({"rows": "x" * 500 + "\n"}, r"describes x{57}\.\.\. rows"),
        ({"code_shape": [4, 4]}, r"describes codes \(N, 4, 4\)"),
        ({"num_codebooks": 2}, r"describes codes \(N, 3, 4, 2\)"),
        ({"codebook_size": 0}, "'codebook_size'"),
        ({"codebook_size": 10**30}, "'codebook_size'"),
        ({"kind": "speech"}, "'kind'"),
        ({"extra": 1}, "'extra'"),
        ({"model": {"run": [1]}}, "'model.run'"),
        ({"files": ["a", "b"]}, "'files' is not a list of 3 names"),
        ({"files": ["a", "b", 3]}, "'files' is not"),
        ({"files": None}, "'files' is not"),
        ({"labels": [0, 1]}, "'labels' is not a list of 3"),
        ({"labels": [0, 1, True]}, "'labels' is not"),
        ({"labels": [0, 1, 2]}, "not an index into the classes"),
        ({"labels": [0, 1, -2]}, "not an index into the classes"),
        ({"classes": []}, "'labels' is not a list of 0"),
        ({"rejected": None}, "'rejected' is not"),
        ({"rejected": [{"file": "a"}]}, "'rejected' is not"),
        ({"rejected": [{"file": "a", "reason": 1}]}, "'rejected' is not"),
    ],
)
def test_json_that_does_not_belong_to_the_array(
    out: Path, change: dict[str, Any], message: str
) -> None:
    write(out, values(3))
    path = out.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(VqtrtError, match=message) as caught:
        read_codes(out)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe\xff", "not valid JSON"),
        (b'{"format_version": 1', "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"format_version": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"[1]", "not the JSON of a codes file"),
        (b"{}", "not the JSON of a codes file"),
        (b'{"format_version": 1}', "'codebook_size'"),
    ],
)
def test_files_that_are_not_our_json(out: Path, data: bytes, message: str) -> None:
    np.save(out, values(3))
    out.with_suffix(".json").write_bytes(data)
    with pytest.raises(VqtrtError, match=message):
        read_codes(out)


def test_json_is_bounded_and_a_regular_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(out, values(3))
    monkeypatch.setattr(reader, "MAX_JSON_BYTES", 100)
    with pytest.raises(VqtrtError, match="larger than 100 bytes"):
        read_codes(out)
    path = out.with_suffix(".json")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(VqtrtError, match="not a regular file"):
        read_codes(out)


def test_json_is_bounded_by_the_rows(out: Path) -> None:
    np.save(out, values(3))
    with out.with_suffix(".json").open("wb") as file:
        file.truncate(reader.json_limit(3) + 1)  # sparse: nothing of it is read
    tracemalloc.start()
    try:
        with pytest.raises(VqtrtError, match=r"larger than \d+ bytes, the most for the rows of"):
            read_codes(out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert reader.json_limit(3) < 40 << 20
    # The longest names, every byte of them escaped, fit in.
    written = json.dumps("\udcff" * reader.MAX_NAME_BYTES)
    assert len(written) + 100 < reader.json_limit(1) - reader.json_limit(0)
    assert reader.json_limit(1 << 40) == reader.MAX_JSON_BYTES


def test_names_are_bounded(out: Path) -> None:
    write(out, values(3))
    path = out.with_suffix(".json")
    facts = json.loads(path.read_text())
    for name, fits in (
        ("a/" * 2046 + "x.png", False),
        ("a" * 4096, True),
        ("é" * 2048, True),
        ("é" * 2049, False),
        ("a/" * 30_000 + "x.png", False),
    ):
        path.write_text(json.dumps(facts | {"files": [name, "b", "c"]}))
        if fits:
            assert read_codes(out).files[0] == name
            continue
        tracemalloc.start()
        try:
            with pytest.raises(VqtrtError, match=r"row 0 .* is longer than 4096 bytes") as caught:
                read_codes(out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 << 20
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("depth", [7, 500, 100_000])
def test_nesting_is_bounded(out: Path, depth: int) -> None:
    write(out, values(3))
    path = out.with_suffix(".json")
    text = path.read_text().replace('"resize": 12', f'"resize": {"[" * depth}{"]" * depth}')
    path.write_text(text)
    with pytest.raises(VqtrtError, match=r"nested deeper|not valid JSON"):
        read_codes(out)


def test_check_codes_names_the_first_bad_value(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = values(9, (3, 7)).astype(np.uint16)
    check_codes(codes, 512, (3, 7), 1)
    check_codes(codes, 512, None, 1)
    check_codes(codes[:0], 512, None, 1)
    codes[3, 2, 5], codes[7, 0, 0] = 700, 900
    message = r"^codes.npy: row 3 at \(2, 5\) holds 700, .* has 512 entries \(0 to 511\)$"
    for chunk in (1, 100, 1 << 20):
        monkeypatch.setattr(reader, "CHUNK_BYTES", chunk)
        with pytest.raises(VqtrtError, match=message):
            check_codes(codes, 512, (3, 7), 1)
    with pytest.raises(VqtrtError, match=r"^x: row 0 at \(0, 1, 1\) holds -1,"):
        check_codes(np.array([[[[0, 0], [0, -1]]]]), 4, None, 2, name="x")


def test_check_codes_says_which_shape_is_meant() -> None:
    one, two = np.zeros((5, 3, 4), np.uint8), np.zeros((5, 3, 4, 2), np.uint8)
    check_codes(two, 256, (3, 4), 2)
    for codes, shape, books, form in [
        (one, (4, 4), 1, r"\(N, 4, 4\)"),
        (one, None, 2, r"\(N, h, w, 2\)"),
        (two, (3, 4), 1, r"\(N, 3, 4\)"),
        (two, (3, 4), 3, r"\(N, 3, 4, 3\)"),
    ]:
        with pytest.raises(VqtrtError, match=f"the model takes {form}"):
            check_codes(codes, 256, shape, books)
    with pytest.raises(VqtrtError, match="codes are integers"):
        check_codes(one.astype(float), 256, None, 1)
