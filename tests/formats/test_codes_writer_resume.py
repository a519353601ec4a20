import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codes_files import ALL, PARTIAL, header, left, names, put, values, write

from vqtrt.errors import VqtrtError
from vqtrt.formats.codes import Rejected, read_codes
from vqtrt.formats.codes_writer import CodesWriter


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


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
