import itertools
import json
import shutil
import threading
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import MODEL, FakeEngine, FakeSource, picture, tree, write_pictures
from PIL import Image

from vqtrt.config.location import ModelLocation
from vqtrt.data.folder import ImageFolder
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import ImageError, VqtrtError
from vqtrt.formats import folder_writer
from vqtrt.formats.codes import Codes, read_codes
from vqtrt.images import pipeline
from vqtrt.images.pipeline import decode_codes, encode_source, list_source, picture_names
from vqtrt.images.tokenizer import ImageTokenizer

NAMES = ["b/1.png", "b/10.png", "b/2.png", "a/z.bmp", "top.png", "a/B/deep.png", "a/é.png"]


def tokenizer(batch_size: int = 3, **engine) -> ImageTokenizer:
    return ImageTokenizer(FakeEngine(**engine), batch_size=batch_size)


def encode(source, out: Path, *, batch_size: int = 3, engine=None, **options):
    root = str(getattr(source, "root", "fake"))
    settings: dict[str, Any] = {"root": root, "model": MODEL, "workers": 2} | options
    return encode_source(
        ImageTokenizer(engine or FakeEngine(), batch_size=batch_size), source, out, **settings
    )


def decode(
    codes: Codes, out: Path, *, batch_size: int = 3, note=lambda text: None, **engine
) -> int:
    return decode_codes(tokenizer(batch_size, **engine), codes, out, workers=2, note=note)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pics", *NAMES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def left(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir() if path.name != "pics")


BOTH = ["codes.json", "codes.npy"]
PARTIAL = ["codes.npy.partial", "codes.npy.partial.jsonl"]


# encode


def test_rows_follow_the_sorted_order(folder, out):
    result = encode(ImageFolder(folder), out)
    assert result == (out, 7, 0, 0, {}, {})
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
    monkeypatch.setattr(pipeline, "_COMMIT_SECONDS", -1)
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
    monkeypatch.setattr(pipeline, "_COMMIT_SECONDS", seconds)
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
    monkeypatch.setattr(pipeline, "_COMMIT_SECONDS", -1)
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
    monkeypatch.setattr(pipeline, "_COMMIT_SECONDS", -1)
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


# decode


def codes_of(path: Path, *files: str, shape: tuple[int, ...] = (4, 4)) -> Codes:
    """As read from files that a stranger gave."""
    rows = np.arange(len(files) * int(np.prod(shape)), dtype=np.uint8) % 200
    return Codes(path / "codes.npy", rows.reshape(-1, *shape), None, files)


def test_pictures_come_back_under_their_names(folder, out, tmp_path):
    encode(ImageFolder(folder), out)
    codes = read_codes(out)
    assert decode(codes, tmp_path / "back") == 7
    found = [name for name in tree(tmp_path / "back") if name.endswith(".png")]
    assert found == sorted(name.replace(".bmp", ".png") for name in NAMES)
    expected = FakeEngine().decoder(np.asarray(codes.codes))
    for name, image in zip(codes.files, expected, strict=True):
        path = (tmp_path / "back" / name).with_suffix(".png")
        np.testing.assert_array_equal(pixels(path), image)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", *BOTH, "pics"]


def test_batches_change_no_picture(folder, out, tmp_path):
    encode(ImageFolder(folder), out)
    for size in (1, 2, 64):
        decode(read_codes(out), tmp_path / str(size), batch_size=size)
        for path in (tmp_path / str(size)).rglob("*.png"):
            same = tmp_path / "1" / path.relative_to(tmp_path / str(size))
            assert path.read_bytes() == same.read_bytes()


def test_without_json_rows_are_numbered(tmp_path):
    np.save(tmp_path / "codes.npy", np.zeros((12, 4, 4), np.int64))
    assert decode(read_codes(tmp_path / "codes.npy"), tmp_path / "back") == 12
    assert tree(tmp_path / "back") == [f"{row:06}.png" for row in range(12)]


def test_other_code_shapes_make_other_sizes(tmp_path):
    decode(codes_of(tmp_path, "a.png", shape=(2, 5)), tmp_path / "back")
    assert pixels(tmp_path / "back/a.png").shape == (8, 20, 3)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "a.png"], ["a.png", "a.png.png"]),
        (["a.png", "a.jpg", "a.jpeg"], ["a.png", "a.jpg.png", "a.jpeg.png"]),
        (["a.jpg", "a.png", "a.png.png"], ["a.png", "a.png.png", "a.png.png.png"]),
        (["a.jpg", "a.png/b.jpg"], ["a.jpg.png", "a.png/b.png"]),
        (["a.png/b/c.jpg", "a.jpg"], ["a.png/b/c.png", "a.jpg.png"]),
        (["x/a", "a", "a.b.c"], ["x/a.png", "a.png", "a.b.png"]),
        (["x.npy[3]", "x.npy[4]"], ["x.npy[3].png", "x.npy[4].png"]),
        (["same", "same", "same"], ["same.png", "same.png-000002.png", None]),
        ([".hidden", "..."], [".hidden.png", None]),
        (["./a//b.png"], ["a/b.png"]),
    ],
)
def test_picture_names(tmp_path, files, names):
    found = picture_names(codes_of(tmp_path, *files))
    assert len(set(found)) == len(files)
    assert all(name.endswith(".png") for name in found)
    if "same" not in files:
        assert all(n == wanted for n, wanted in zip(found, names, strict=True) if wanted)
    assert decode(codes_of(tmp_path, *files), tmp_path / "back") == len(files)
    written = [path for path in (tmp_path / "back").rglob("*") if path.is_file()]
    assert sorted(found) == sorted(
        path.relative_to(tmp_path / "back").as_posix() for path in written
    )


def test_one_name_that_is_too_long_does_not_lose_the_others(tmp_path: Path) -> None:
    files = [f"{i}.jpg" for i in range(20)] + ["n" * 300 + ".jpg"]
    told: list[str] = []
    assert decode(codes_of(tmp_path, *files), tmp_path / "back", note=told.append) == 21
    written = {path.name for path in (tmp_path / "back").iterdir()}
    assert written > {f"{i}.png" for i in range(20)}
    (long,) = written - {f"{i}.png" for i in range(20)}
    assert long.startswith("nnn")
    assert len(told) == 1
    assert long in told[0]


def test_many_equal_names_do_not_take_for_ever(tmp_path):
    names = picture_names(codes_of(tmp_path, *["same"] * 20_000))
    assert len(set(names)) == 20_000
    assert max(map(len, names)) < 40


@pytest.mark.parametrize(
    "file",
    ["../a.png", "a/../../b.png", "/etc/a.png", "..", ".", "", "a\0b", "\ud800.png", "a/..", "//a"],
)
def test_names_that_lead_outside_are_refused_before_anything_is_written(tmp_path, file):
    with pytest.raises(VqtrtError, match="no file in the output folder") as caught:
        decode(codes_of(tmp_path, "good.png", file), tmp_path / "in/back")
    assert str(caught.value).isprintable()
    assert tree(tmp_path) == []


def test_names_with_odd_characters_are_kept(tmp_path):
    files = ["a\nb", "\x1b[31m", "back\\slash", "sp ace", "\udcff"]
    assert decode(codes_of(tmp_path, *files), tmp_path / "back") == len(files)
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == sorted(
        f"{name}.png" for name in files
    )


def test_a_folder_that_exists_is_merged_into(tmp_path):
    back = tmp_path / "back"
    write_pictures(back, "sub/old.png", "sub/a.png", "keep.txt.png")
    old = (back / "sub/old.png").read_bytes()
    decode(codes_of(tmp_path, "sub/a.jpg", "sub/new/b.jpg"), back)
    assert tree(back) == sorted(
        ["keep.txt.png", "sub", "sub/a.png", "sub/new", "sub/new/b.png", "sub/old.png"]
    )
    assert (back / "sub/old.png").read_bytes() == old
    decoded = FakeEngine().decoder(codes_of(tmp_path, "x").codes)[0]
    np.testing.assert_array_equal(pixels(back / "sub/a.png"), decoded)
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_all_codes_are_checked_before_any_is_decoded(tmp_path):
    array = np.zeros((100, 4, 4), np.uint8)
    array[99, 3, 1] = 200

    def work(*_):
        raise AssertionError

    with pytest.raises(VqtrtError, match=r"row 99 at \(3, 1\) holds 200, but the codebook has 200"):
        decode(Codes(tmp_path / "codes.npy", array), tmp_path / "back", before=work)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("shape", [(3, 4, 4, 2), (3, 4, 4, 1), (3, 4), (3, 0, 4), (3, 4, 0)])
def test_shapes_that_are_none_of_the_model(tmp_path, shape):
    with pytest.raises(VqtrtError, match=r"the model takes \(N, h, w\)"):
        decode(Codes(tmp_path / "c.npy", np.zeros(shape, np.uint8)), tmp_path / "back")
    assert tree(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("crash"), KeyboardInterrupt()])
def test_a_crash_leaves_no_folder(tmp_path, error):
    calls = itertools.count()

    def crash(*_):
        if next(calls) == 1:
            raise error

    with pytest.raises(type(error)):
        decode(codes_of(tmp_path, *"abcdef"), tmp_path / "back", before=crash)
    assert tree(tmp_path) == []


def test_a_crash_leaves_an_older_folder_alone(tmp_path):
    write_pictures(tmp_path / "back", "a.png")
    before = (tmp_path / "back/a.png").read_bytes()

    def crash(*_):
        raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        decode(codes_of(tmp_path, "a", "b"), tmp_path / "back", before=crash)
    assert tree(tmp_path) == ["back", "back/a.png"]
    assert (tmp_path / "back/a.png").read_bytes() == before


def test_the_folder_is_as_public_as_any(tmp_path):
    (tmp_path / "plain").mkdir()
    decode(codes_of(tmp_path, "a"), tmp_path / "back")
    assert (tmp_path / "back").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupted_decode_equals_an_unbroken_one(tmp_path, monkeypatch, there):
    monkeypatch.setattr(folder_writer, "_COMMIT_SECONDS", -1)
    codes, back = codes_of(tmp_path, *"abcdefg", "x/h"), tmp_path / "back"
    decode(codes, tmp_path / "whole")
    if there:
        back.mkdir()
    calls = itertools.count()

    def crash(*_):
        if next(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        decode(codes, back, before=crash)
    assert "6 files are kept in" in caught.value.__notes__[0]
    assert tree(back) == [] if not there else True
    told: list[int] = []
    sizes: list[int] = []
    count = decode_codes(
        tokenizer(3, before=lambda name, array: sizes.append(len(array))),
        codes,
        back,
        workers=2,
        resume=True,
        resumed=told.append,
    )
    assert (count, told, sizes) == (8, [6], [2])
    assert tree(back) == tree(tmp_path / "whole")
    for path in back.rglob("*.png"):
        same = tmp_path / "whole" / path.relative_to(back)
        assert path.read_bytes() == same.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"back", "whole"}


def test_a_finished_decode_is_not_done_again(tmp_path):
    def work(*_):
        raise AssertionError("decodes again")

    codes, told = codes_of(tmp_path, *"abc"), []
    decode(codes, tmp_path / "back")
    idle = tokenizer(before=work)
    again = partial(decode_codes, idle, workers=1, resume=True, resumed=told.append)
    assert again(codes, tmp_path / "back") == 3
    assert told == [3]
    other = Codes(codes.path, codes.codes + 1, None, codes.files)
    with pytest.raises(VqtrtError, match="the codes changed since it was begun"):
        again(other, tmp_path / "back")


def test_decode_progress(tmp_path):
    calls = []
    decode_codes(
        tokenizer(4),
        codes_of(tmp_path, *"abcdef"),
        tmp_path / "back",
        workers=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(0, 6), (4, 6), (6, 6)]


def test_round_trip_on_a_real_bundle(tiny_bundle, folder, tmp_path):
    from vqtrt.engines.choose import open_engine

    found = ModelLocation(None, tiny_bundle, "named")
    real = ImageTokenizer(open_engine(found, EngineOptions("onnxruntime")), batch_size=3)
    out = tmp_path / "codes.npy"
    encode_source(real, ImageFolder(folder), out, root=str(folder), model=found, workers=2)
    codes = read_codes(out)
    size = real.preprocessing
    images = np.stack([size(Image.fromarray(pixels(folder / name))) for name in codes.files])
    np.testing.assert_array_equal(codes.codes, real.encode(images))
    decode_codes(real, codes, tmp_path / "back", workers=2)
    decoded = real.decode(np.asarray(codes.codes))
    first = (tmp_path / "back" / codes.files[0]).with_suffix(".png")
    np.testing.assert_array_equal(pixels(first), decoded[0])
    assert json.loads(out.with_suffix(".json").read_text())["rows"] == 7
