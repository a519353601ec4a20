"""Tars as sources: as folders of the same files, and damaged in every way."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from doubles import picture, write_pictures
from recordings import noise, put

from vqtrt.data import tar_index as module
from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.folder import AudioFolder
from vqtrt.data.audio.open import open_speech
from vqtrt.data.audio.tar import AudioTar
from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.open import open_images
from vqtrt.data.images.tar import ImageTar
from vqtrt.data.selection import Selection
from vqtrt.data.tar import sample_key
from vqtrt.data.tar_index import tar_index
from vqtrt.errors import AudioError, ImageError, VqtrtError

NAMES = ["a/1.png", "a/2.png", "b/é.png", f"b/{'long' * 30}/x.png", "top.png"]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def png(seed: int) -> bytes:
    out = io.BytesIO()
    picture(seed).save(out, "PNG")
    return out.getvalue()


def write_tar(path: Path, files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=kind) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("start", ["", "./"])
def test_a_tar_is_the_folder_of_its_files(tmp_path, kind, start):
    folder = ImageFolder(write_pictures(tmp_path / "pics", *NAMES))
    items = list(folder.items())
    files = {f"{start}{item.name}": folder.path(item).read_bytes() for item in items}
    tar = open_images(write_tar(tmp_path / "pics.tar", files, kind))
    assert isinstance(tar, ImageTar)
    assert tar.classes == folder.classes
    for one, other in zip(tar.items(), items, strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(tar.read(one), folder.read(other))


@pytest.mark.parametrize("pattern", [None, r"(?P<speaker>\w)\w*\.wav"])
def test_a_tar_of_recordings_is_the_folder_of_its_files(tmp_path, pattern):
    root = tmp_path / "talk"
    for index, name in enumerate(["ann/x.wav", "ann/y.wav", "bob/x.wav", "z.wav"]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        put(root / name, noise(700 + index, seed=index))
    (root / "ann/x.txt").write_text("hello")
    folder = AudioFolder(root, pattern)
    files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.*"))}
    tar = open_speech(write_tar(tmp_path / "talk.tar", files), pattern)
    assert isinstance(tar, AudioTar)
    assert tar.classes == folder.classes
    assert tar.passed_over == {".txt": 1}
    how = AudioPreprocessing(sample_rate=8000, level_db=-20)
    for one, other in zip(tar.items(), folder.items(), strict=True):
        assert (one.name, one.label) == (other.name, other.label)
        np.testing.assert_array_equal(tar.read(one, how), folder.read(other, how))
        assert tar.text(one) == folder.text(other)


def test_classes_come_from_cls_files_wherever_they_lie(tmp_path):
    files = {f"{n:03}.png": png(n) for n in range(3)}
    files |= {"002.cls": b"7\n", "000.cls": b"3", "001.json": b"{}"}
    tar = ImageTar(write_tar(tmp_path / "x.tar", files))
    assert [(item.name, item.label) for item in tar.items()] == [
        ("000.png", 3),
        ("001.png", -1),
        ("002.png", 7),
    ]
    assert tar.classes == tuple(map(str, range(8)))
    assert tar.passed_over == {".cls": 2, ".json": 1}
    bad = write_tar(tmp_path / "bad.tar", {"0.png": png(0), "0.cls": b"cat"})
    with pytest.raises(VqtrtError, match=r"bad\.tar: 0\.cls holds no class number"):
        _ = ImageTar(bad).classes


def test_the_key_of_a_sample_ends_at_the_first_dot():
    assert sample_key("v1.5/y.z.jpg") == "v1.5/y"
    assert sample_key("x") == "x"


def test_what_is_no_item_is_counted_and_chosen_as_in_a_folder(tmp_path):
    files = {"a/1.png": png(1), "__MACOSX/1.png": b"", "a/._1.png": b"", ".hidden/2.png": b""}
    files |= {"b/3.png": png(3), "b/no.jpg": png(4)}
    path = write_tar(tmp_path / "x.tar", files)
    tar = ImageTar(path)
    assert [item.name for item in tar.items()] == ["a/1.png", "b/3.png", "b/no.jpg"]
    assert tar.passed_over == {"system": 2, "hidden": 1}
    chosen = open_images(path, selection=Selection(["*.png"], ["a"]))
    assert [item.name for item in chosen.items()] == ["b/3.png"]
    with pytest.raises(VqtrtError, match=r"x\.tar: holds no images.*--include"):
        open_images(path, selection=Selection(["*.tif"]))


def test_links_and_folders_are_no_items(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.png", tarfile.SYMTYPE), ("h.png", b"1")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "real.png"
            tar.addfile(info)
        data = png(0)
        info = tarfile.TarInfo("real.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    assert [item.name for item in ImageTar(path).items()] == ["real.png"]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "x.tar", {"a.png": png(0), "b.png": b"1" * 700}, tarfile.GNU_FORMAT)


def test_a_tar_that_is_cut_anywhere_is_an_error(small):
    data = small.read_bytes()
    end = len(data.rstrip(b"\0"))
    starts = [member.offset for member in tar_index(small).members.values()]
    for cut in sorted(
        {1, 511, 512, 513, *(s + d for s in starts for d in (-1, 0, 1)), end, end + 9}
    ):
        small.write_bytes(data[:cut])
        with pytest.raises(VqtrtError, match=r"x\.tar: (at byte \d+: it is cut off|no tar)"):
            tar_index(small)


def test_any_flipped_byte_of_a_header_is_an_error(small):
    data = small.read_bytes()
    second = tar_index(small).members["b.png"].offset - 512
    for at in range(second, second + 512, 7):
        small.write_bytes(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :])
        with pytest.raises(VqtrtError, match=rf"x\.tar: at byte {second}: a damaged header"):
            tar_index(small)


def test_what_follows_the_end_mark_is_an_error(small):
    data = small.read_bytes()
    small.write_bytes(data + b"\0" * 512)
    assert len(tar_index(small).members) == 2
    small.write_bytes(data + data)
    with pytest.raises(VqtrtError, match=f"at byte {len(data)}: data follow the end mark"):
        tar_index(small)


def test_two_members_of_one_name_are_an_error(tmp_path):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(VqtrtError, match=r"a second member a\.png"):
        tar_index(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused(tmp_path, mode):
    path = tmp_path / "x.tar"
    with tarfile.open(path, mode) as tar:
        tar.addfile(tarfile.TarInfo("a.png"), io.BytesIO())
    with pytest.raises(VqtrtError, match=r"x\.tar: no tar, or a compressed one"):
        open_images(path)


def test_sizes_beyond_octal_are_read(tmp_path):
    """Base 256, as GNU tar writes more than 8 GiB; here more than the file has."""
    info = tarfile.TarInfo("a.png")
    info.size = 9 << 30
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(VqtrtError, match=f"cut off: {9 << 30} bytes were to follow"):
        tar_index(path)


@pytest.mark.parametrize(
    "records", [b"8 path=x\n", b"x path=y\n", b"30 size=9\n", b"10 size=zz\n", b"-5 a=b\n"]
)
def test_damaged_extended_headers_are_errors(tmp_path, records):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    block = info.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0")
    path = tmp_path / "x.tar"
    path.write_bytes(block + tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT) + b"\0" * 1024)
    with pytest.raises(VqtrtError, match=r"at byte \d+: a damaged extended header"):
        tar_index(path)


def test_a_member_that_is_no_picture_is_named(small):
    tar = ImageTar(small)
    good, bad = tar.items()
    assert tar.read(good).shape == (16, 16, 3)
    with pytest.raises(ImageError, match=r"x\.tar/b\.png: not an image"):
        tar.read(bad)
    small.write_bytes(small.read_bytes()[: bad.key.offset])
    with pytest.raises(ImageError, match=r"x\.tar/b\.png: .*shorter"):
        tar.read(bad)


def test_a_file_in_a_tar_has_a_bound(small, monkeypatch):
    monkeypatch.setattr(module, "_MAX_FILE", 600)
    tar = ImageTar(small)
    with pytest.raises(ImageError, match=r"b\.png: has 700 bytes, more than 600: unpack it"):
        tar.read(list(tar.items())[1])
    (small.parent / "talk").mkdir()
    put(small.parent / "talk/x.wav", noise(700))
    data = (small.parent / "talk/x.wav").read_bytes()
    talk = AudioTar(write_tar(small.parent / "talk.tar", {"x.wav": data}))
    with pytest.raises(AudioError, match=r"x\.wav: cannot be read \(has \d+ bytes"):
        talk.read(next(talk.items()), AudioPreprocessing(sample_rate=8000))


def test_stamps_tell_that_a_tar_changed(small, tmp_path):
    before = [ImageTar(small).stamp(item) for item in ImageTar(small).items()]
    assert len(set(before)) == 2
    other = write_tar(tmp_path / "y.tar", {"a.png": png(0), "b.png": b"1" * 701})
    after = [ImageTar(other).stamp(item) for item in ImageTar(other).items()]
    assert not set(before) & set(after)
