import itertools
import shutil
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import FakeEngine, FakeSource, picture, tree, write_pictures
from PIL import Image
from pipeline_jobs import BOTH, NAMES, PARTIAL, encode, left, pixels

from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.formats.codes import read_codes
from vqtrt.jobs import encode as encode_job
from vqtrt.jobs.encode import list_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pics", *NAMES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def test_rows_follow_the_sorted_order(folder, out):
    result = encode(ImageFolder(folder), out)
    assert result[:-1] == (out, 7, 0, 0, {}, {})
    assert sum(result.stages.values()) == pytest.approx(1, abs=0.02)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    expected = np.stack([pixels(path) for path in files])
    codes = read_codes(out)
    assert list(codes.files) == [path.relative_to(folder).as_posix() for path in files]
    assert codes.codes.dtype == np.uint8
    np.testing.assert_array_equal(codes.codes, FakeEngine().encoder(expected))
    assert len(np.unique(codes.codes)) > 20
    assert left(out) == BOTH


def test_labels_and_facts_are_written(folder, out):
    encode(ImageFolder(folder), out)
    codes = read_codes(out)
    header = codes.header
    assert header is not None
    assert header.classes == ("a", "b")
    by_name = dict(zip(codes.files, codes.labels, strict=True))
    assert by_name == {name: {"a": 0, "b": 1, "t": -1}[name[0]] for name in NAMES}
    assert (header.codebook_size, header.code_shape, header.image_size) == (200, (4, 4), (16, 16))
    assert header.root == str(folder)
    assert header.weights_sha256 == FakeEngine.weights_sha256
    assert header.model == {"path": "runs/fake", "engine": "fake"}
    assert header.preprocessing == {"height": 16, "width": 16, "resample": "bicubic"}
    assert header.listing_sha256 == list_source(ImageFolder(folder)).sha256


@pytest.mark.parametrize(("size", "dtype"), [(256, "u1"), (257, "u2"), (65537, "u4")])
def test_smallest_dtype(folder, out, size, dtype):
    encode(ImageFolder(folder), out, engine=FakeEngine(codebook_size=size))
    assert np.load(out).dtype == np.dtype(dtype)


def test_codebooks_get_an_axis(folder, out):
    encode(ImageFolder(folder), out, engine=FakeEngine(num_codebooks=3))
    codes = np.load(out)
    assert codes.shape == (7, 4, 4, 3)
    np.testing.assert_array_equal((codes[..., 0].astype(int) + 2) % 200, codes[..., 2])


def test_batches_and_threads_change_nothing(folder, tmp_path):
    found = set()
    for batch_size, workers in itertools.product([1, 2, 7, 64], [1, 5]):
        out = tmp_path / f"{batch_size}-{workers}.npy"
        encode(ImageFolder(folder), out, batch_size=batch_size, workers=workers)
        found.add((out.read_bytes(), out.with_suffix(".json").read_bytes()))
    assert len(found) == 1


def test_another_size(folder, out):
    size = Preprocessing(height=8, width=24)
    encode(ImageFolder(folder), out, preprocessing=size)
    codes = read_codes(out)
    assert codes.codes.shape == (7, 2, 6)
    assert codes.header is not None
    assert codes.header.image_size == (8, 24)
    first = size(Image.fromarray(pixels(folder / codes.files[0])))
    np.testing.assert_array_equal(codes.codes[0], FakeEngine().encoder(first[None])[0])


def test_a_size_that_the_stride_does_not_divide(folder, out):
    with pytest.raises(VqtrtError, match="30x32 pixels: height and width must be multiples of 4"):
        encode(ImageFolder(folder), out, preprocessing=Preprocessing(height=30, width=32))
    assert left(out) == []


def test_stops_at_a_file_that_is_no_image_and_leaves_nothing(folder, out):
    (folder / "b/1b.png").write_text("hello")
    with pytest.raises(ImageError, match=r"b/1b\.png: not an image that can be read"):
        encode(ImageFolder(folder), out)
    assert left(out) == []


def test_stopping_keeps_what_was_committed_but_not_as_out(folder, out, monkeypatch):
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
    (folder / "zz.png").write_text("hello")
    with pytest.raises(ImageError, match=r"zz\.png.*first 6 items are kept in .*--resume contin"):
        encode(ImageFolder(folder), out, batch_size=2)
    assert left(out) == PARTIAL
    # The file is mended under its name, and the job goes on.
    picture(9).save(folder / "zz.png")
    result = encode(ImageFolder(folder), out, resume=True)
    assert (result.rows, result.resumed_at) == (8, 6)
    whole = out.with_name("whole.npy")
    encode(ImageFolder(folder), whole)
    assert out.read_bytes() == whole.read_bytes()


def test_skipping_lists_every_file_once(folder, out):
    (folder / "a/0.png").write_text("hello")
    (folder / "a/huge").write_bytes(b"")
    (folder / "b/11.png").symlink_to("nowhere.png")
    result = encode(ImageFolder(folder), out, on_error="skip")
    assert (result.rows, result.rejected) == (7, 3)
    codes = read_codes(out)
    assert [entry.file for entry in codes.rejected] == ["a/0.png", "a/huge", "b/11.png"]
    assert all(entry.file in entry.reason for entry in codes.rejected)
    assert len(codes.files) + len(codes.rejected) == list_source(ImageFolder(folder)).items
    clean = write_pictures(out.parent / "pics2", *NAMES)
    encode(ImageFolder(clean), out.with_name("clean.npy"))
    np.testing.assert_array_equal(codes.codes, np.load(out.with_name("clean.npy")))


@pytest.mark.parametrize("seconds", [2, -1], ids=["at once", "after a commit"])
def test_nothing_but_rejects_leaves_nothing(out, monkeypatch, seconds):
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", seconds)
    with pytest.raises(VqtrtError, match="none of its 5 files is an image") as caught:
        encode(FakeSource(5, bad=range(5)), out, on_error="skip")
    assert "--resume" not in str(caught.value)
    assert left(out) == []
    encode(FakeSource(5, bad=range(4)), out, on_error="skip")
    kept = out.read_bytes()
    with pytest.raises(VqtrtError, match="none of its 5 files is an image"):
        encode(FakeSource(5, bad=range(5)), out, on_error="skip")
    assert left(out) == BOTH
    assert out.read_bytes() == kept


@pytest.mark.parametrize("when", ["read", "engine"])
@pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt()])
def test_a_job_that_was_broken_off_equals_an_unbroken_one(out, monkeypatch, when, error):
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
    whole = out.parent / "whole.npy"
    bad = [3, 4, 5, 17]
    encode(FakeSource(20, bad), whole, on_error="skip")

    def crash(*_: object) -> Any:
        raise error

    calls = itertools.count()
    engine = FakeEngine(
        before=lambda *_: crash() if when == "engine" and next(calls) == 3 else None
    )
    source = FakeSource(20, bad, lambda item: crash() if when == "read" and item.key == 13 else 0)
    with pytest.raises(type(error)) as caught:
        encode(source, out, engine=engine, on_error="skip")
    # What was committed is told to whoever shows the error.
    assert any("--resume continues" in note for note in caught.value.__notes__)
    assert not out.exists()
    assert not out.with_suffix(".json").exists()

    read = []
    source = FakeSource(20, bad, lambda item: read.append(item.key))
    result = encode(source, out, on_error="skip", resume=True, batch_size=4)
    assert result.resumed_at in (9, 12)
    assert sorted(read) == list(range(result.resumed_at, 20))
    assert (result.rows, result.rejected) == (16, 4)
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()
    assert left(out) == [*BOTH, "whole.json", "whole.npy"]


def test_a_finished_encode_is_not_done_again(folder, out):
    first = encode(ImageFolder(folder), out)

    def work(*_):
        raise AssertionError("encodes again")

    before = {name: (out.parent / name).stat().st_mtime_ns for name in BOTH}
    result = encode(ImageFolder(folder), out, engine=FakeEngine(before=work), resume=True)
    assert result[:4] == (*first[:3], 7)
    assert {name: (out.parent / name).stat().st_mtime_ns for name in BOTH} == before
    # A process that was killed right at its end left its journal.
    (out.parent / PARTIAL[1]).touch()
    assert encode(ImageFolder(folder), out, resume=True).resumed_at == 7
    assert left(out) == BOTH
    other = FakeEngine()
    other.weights_sha256 = "0" * 64
    with pytest.raises(VqtrtError, match="the model changed since it was begun"):
        encode(ImageFolder(folder), out, engine=other, resume=True)
    out.with_suffix(".json").unlink()
    with pytest.raises(VqtrtError, match=r"without a \.json that says what made it"):
        encode(ImageFolder(folder), out, resume=True)


def test_codes_go_where_a_link_leads(folder, out, tmp_path):
    (tmp_path / "disk").mkdir()
    out.symlink_to(tmp_path / "disk/codes.npy")
    encode(ImageFolder(folder), out)
    assert out.is_symlink()
    assert tree(tmp_path / "disk") == ["codes.npy"]
    assert len(read_codes(out).files) == 7


def test_resume_without_a_partial_begins(folder, out):
    assert encode(ImageFolder(folder), out, resume=True).resumed_at == 0


def test_resume_refuses_another_listing_or_model(folder, out, monkeypatch):
    monkeypatch.setattr(encode_job, "_COMMIT_SECONDS", -1)
    (folder / "zz.png").write_text("hello")
    with pytest.raises(ImageError):
        encode(ImageFolder(folder), out, batch_size=2)
    kept = {name: (out.parent / name).read_bytes() for name in PARTIAL}
    (folder / "zz.png").rename(folder / "zzz.png")
    words = "the data's list of files changed since it was begun; .*anew without --resume"
    with pytest.raises(VqtrtError, match=words):
        encode(ImageFolder(folder), out, resume=True)
    (folder / "zzz.png").rename(folder / "zz.png")
    other = FakeEngine()
    other.weights_sha256 = "0" * 64
    with pytest.raises(VqtrtError, match="the model changed since it was begun"):
        encode(ImageFolder(folder), out, resume=True, engine=other)
    assert {name: (out.parent / name).read_bytes() for name in PARTIAL} == kept


@pytest.mark.parametrize("change", ["added", "removed"])
def test_a_folder_that_changes_under_way_is_noticed(folder, out, tmp_path, change):
    shutil.copy(folder / "top.png", tmp_path / "other.png")

    def before(*_):
        # After the listing, before the end of the walk.
        if change == "added" and not (folder / "top2.png").exists():
            (tmp_path / "other.png").rename(folder / "top2.png")
        if change == "removed":
            (folder / "top.png").unlink(missing_ok=True)

    # One image a batch, so that the last ones are not listed for reading yet.
    with pytest.raises(VqtrtError, match=r"held 7 files at first and \d at the end; encode it aga"):
        encode(_Slow(folder), out, engine=FakeEngine(before=before), batch_size=1, workers=1)
    assert not out.exists()


class _Slow(ImageFolder):
    """Lists each folder only when the walk comes to it, so that a change is seen."""

    calls = 0

    def items(self):
        self.calls += 1
        if self.calls == 1:
            yield from super().items()
            return
        seen = set()
        while rest := [item for item in super().items() if item.name not in seen]:
            seen.add(rest[0].name)
            yield rest[0]


def test_out_inside_the_folder_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    for out in (folder / "codes.npy", folder / "a/codes.npy", tmp_path / "link/codes.npy"):
        before = tree(folder)
        with pytest.raises(VqtrtError, match=r"is inside .*give --out a path outside"):
            encode(ImageFolder(folder), out)
        assert tree(folder) == before
    encode(ImageFolder(folder), tmp_path / "pics.npy")


def test_an_older_result_stays_until_the_new_one_is_complete(folder, out):
    encode(ImageFolder(folder), out)
    before = out.read_bytes(), out.with_suffix(".json").read_bytes()
    (folder / "zz.png").write_text("hello")
    with pytest.raises(ImageError):
        encode(ImageFolder(folder), out)
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == before
    assert left(out) == BOTH


def test_reading_goes_on_while_the_engine_works(out):
    second, third = threading.Event(), threading.Event()
    read = []

    def reading(item):
        read.append(item.key)
        second.set() if item.key == 2 else None
        third.set() if item.key == 4 else None

    waits = iter([second, third])

    def working(*_):
        # The engine's first two calls end only when images of later batches are being read.
        if event := next(waits, None):
            assert event.wait(10)

    encode(FakeSource(8, before=reading), out, engine=FakeEngine(before=working), batch_size=2)
    assert sorted(read) == list(range(8))


def test_memory_does_not_grow_with_the_set(out):
    def peak(count: int) -> int:
        tracemalloc.start()
        encode(FakeSource(count), out, batch_size=8)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(50)
    few, many = peak(100), peak(1500)
    # 1,500 of these images alone take 1.1 MB; names and labels go through a bounded buffer.
    assert many - few < 300_000


def test_progress_counts_to_the_end(out):
    calls = []
    encode(
        FakeSource(8, bad=[2]),
        out,
        on_error="skip",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(0, 8), (3, 8), (6, 8), (8, 8)]


def test_listing_reads_no_image():
    def read(item):
        raise AssertionError

    few, same = list_source(FakeSource(5, before=read)), list_source(FakeSource(5))
    assert few == same
    assert few.items == 5
    assert few.sha256 != list_source(FakeSource(6)).sha256
