import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from doubles import FakeEngine, tree, write_pictures
from PIL import Image
from pipeline_jobs import BOTH, NAMES, codes_of, decode, encode, pixels, tokenizer

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.folder import ImageFolder
from vqtrt.engines.options import EngineOptions
from vqtrt.errors import VqtrtError
from vqtrt.formats import folder_writer
from vqtrt.formats.codes import Codes, read_codes
from vqtrt.images.decode import decode_codes, picture_names
from vqtrt.images.encode import encode_source
from vqtrt.images.tokenizer import ImageTokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pics", *NAMES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "codes.npy"


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
