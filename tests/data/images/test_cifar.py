import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from vqtrt.data.images import cifar
from vqtrt.data.images.cifar import CIFAR10, CLASSES, open_cifar
from vqtrt.data.images.open import open_images
from vqtrt.errors import VqtrtError

TRAIN, TEST = CIFAR10.train, CIFAR10.test
META = ("\n".join(CLASSES) + "\n\n").encode()


def records(seed: int, count: int = 3) -> tuple[bytes, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, count).astype(np.uint8)
    planar = images.transpose(0, 3, 1, 2).reshape(count, -1)
    return np.concatenate([labels[:, None], planar], 1).tobytes(), images, labels


@pytest.fixture
def files() -> dict[str, bytes]:
    return {name: records(i)[0] for i, name in enumerate(TRAIN + TEST)} | {"batches.meta.txt": META}


def make_folder(path, files):
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def make_tar(path, files, prefix="cifar-10-batches-bin/"):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in reversed(files.items()):
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(params=["folder", "tar", "deep tar", "flat tar"])
def place(request, tmp_path, files):
    if request.param == "folder":
        return make_folder(tmp_path / "cifar", files)
    prefix = {"tar": "cifar-10-batches-bin/", "deep tar": "./a/b/c/", "flat tar": ""}[request.param]
    return make_tar(tmp_path / "c.tar.gz", files, prefix)


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_splits(place, split):
    source = open_cifar(place, split)
    files = {"train": TRAIN, "test": TEST, "all": TRAIN + TEST}[split]
    items = list(source.items())
    assert [i.name for i in items] == [f"{name}[{i}]" for name in files for i in range(3)]
    assert source.classes == CLASSES
    for item in items:
        seed = (TRAIN + TEST).index(item.name[:-3])
        _, images, labels = records(seed)
        index = int(item.name[-2])
        assert item.label == labels[index]
        np.testing.assert_array_equal(source.read(item), images[index])


def test_single_file(tmp_path):
    content, images, _ = records(7, 2)
    (tmp_path / "mine.bin").write_bytes(content)
    source = open_cifar(tmp_path / "mine.bin", "test")
    items = list(source.items())
    assert [i.name for i in items] == ["mine.bin[0]", "mine.bin[1]"]
    np.testing.assert_array_equal(source.read(items[1]), images[1])


def test_class_names_come_from_the_file(tmp_path, files):
    files["batches.meta.txt"] = b"\n".join(b"c%d" % i for i in range(10))
    assert open_cifar(make_folder(tmp_path / "a", files)).classes[3] == "c3"
    del files["batches.meta.txt"]
    assert open_cifar(make_folder(tmp_path / "b", files)).classes == CLASSES
    files["batches.meta.txt"] = b"only\ntwo\n"
    with pytest.raises(VqtrtError, match="must name 10 classes"):
        open_cifar(make_folder(tmp_path / "c", files))


@pytest.mark.parametrize("make", [make_folder, make_tar])
def test_damage(tmp_path, files, make):
    def check(name, changed, message):
        path = tmp_path / (f"{name}.tar.gz" if make is make_tar else name)
        with pytest.raises(VqtrtError, match=message):
            open_cifar(make(path, changed), "all")

    check("a", files | {"data_batch_2.bin": files["data_batch_2.bin"][:-1]}, "not a multiple")
    check("b", files | {"data_batch_2.bin": b""}, "not a multiple")
    check("c", files | {"test_batch.bin": b"\x0a" + records(0)[0][1:]}, "label 10")
    del files["data_batch_3.bin"]
    check("d", files, r"has no data_batch_3\.bin")


def test_archive_with_hostile_names_touches_nothing(tmp_path, files):
    inner = tmp_path / "inner"
    inner.mkdir()
    path = make_tar(inner / "c.tar.gz", files, prefix="../../")
    before = sorted(tmp_path.rglob("*"))
    assert len(open_cifar(path, "all")) == 18
    assert sorted(tmp_path.rglob("*")) == before


def test_link_in_the_archive_is_not_followed(tmp_path):
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("test_batch.bin")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(VqtrtError, match="without the files of CIFAR-10"):
        open_cifar(tmp_path / "c.tar.gz", "test")


def test_archive_bombs(tmp_path, files, monkeypatch):
    monkeypatch.setattr(cifar, "_MAX_BYTES", 100_000)
    for name in ("junk", "test_batch.bin"):
        path = make_tar(tmp_path / "bomb.tar.gz", {name: bytes(3073 * 100)}, "")
        with pytest.raises(VqtrtError, match="unpacks to over"):
            open_cifar(path, "test")


def header(name: str, kind: bytes, size: int) -> bytearray:
    """The header of a member of a tar archive."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return bytearray(member.tobuf(tarfile.GNU_FORMAT))


def test_a_sparse_file_takes_no_memory_for_its_zeros(tmp_path: Path) -> None:
    block = header("test_batch.bin", tarfile.GNUTYPE_SPARSE, 0)
    # One piece of no bytes at the end of the file, whose size is 8 GiB less 1.
    block[386:398], block[398:410] = b"77777777777\0", b"00000000000\0"
    block[483:495] = b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path = tmp_path / "c.tar.gz"
    path.write_bytes(gzip.compress(bytes(block) + bytes(1024)))
    with pytest.raises(VqtrtError, match="unpacks to over"):
        open_cifar(path, "test")


@pytest.mark.parametrize(
    "record", [b"22 GNU.sparse.map=a,b\n", b"24 GNU.sparse.map=1,2,3\n", b"15 size=twelve\n"]
)
def test_damaged_headers_of_an_archive(tmp_path: Path, record: bytes) -> None:
    extended = bytes(header("x", tarfile.XHDTYPE, len(record))) + record.ljust(512, b"\0")
    member = bytes(header("test_batch.bin", tarfile.REGTYPE, 512)) + bytes(512)
    path = tmp_path / "c.tar.gz"
    path.write_bytes(gzip.compress(extended + member + bytes(1024)))
    with pytest.raises(VqtrtError, match=r"c\.tar\.gz: "):
        open_cifar(path, "test")


def test_file_twice(tmp_path):
    path = make_tar(tmp_path / "c.tar.gz", {"a/test_batch.bin": b"", "b/test_batch.bin": b""})
    with pytest.raises(VqtrtError, match="twice"):
        open_cifar(path, "test")


def test_not_an_archive(tmp_path, files):
    path = tmp_path / "c.tar.gz"
    whole = make_tar(tmp_path / "good.tar.gz", files).read_bytes()
    for content in (b"", b"text", gzip.compress(b"text" * 1000), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(VqtrtError, match=str(path)):
            open_cifar(path, "all")


def records100(seed: int, count: int = 4) -> tuple[bytes, np.ndarray, np.ndarray]:
    """Bytes, images and (coarse, fine) labels."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
    both = np.stack([rng.integers(0, 20, count), rng.integers(0, 100, count)], 1).astype(np.uint8)
    planar = images.transpose(0, 3, 1, 2).reshape(count, -1)
    return np.concatenate([both, planar], 1).tobytes(), images, both


@pytest.fixture
def files100() -> dict[str, bytes]:
    fine, coarse = ("\n".join(f"{k}{i}" for i in range(n)) for k, n in (("f", 100), ("c", 20)))
    return {
        "train.bin": records100(0)[0],
        "test.bin": records100(1)[0],
        "fine_label_names.txt": fine.encode(),
        "coarse_label_names.txt": coarse.encode(),
    }


@pytest.mark.parametrize("form", ["folder", "tar", "file"])
@pytest.mark.parametrize("labels", ["", "fine", "coarse"])
def test_cifar_100(tmp_path: Path, files100: dict[str, bytes], form: str, labels: str) -> None:
    if form == "folder":
        path = make_folder(tmp_path / "cifar", files100)
    elif form == "tar":
        path = make_tar(tmp_path / "cifar.tar.gz", files100, "cifar-100-binary/")
    else:
        path = make_folder(tmp_path / "cifar", files100) / "train.bin"
    source = open_images(f"{path}:{labels}" if labels else path, "train")
    _, images, both = records100(0)
    items = list(source.items())
    assert [item.name for item in items] == [f"train.bin[{i}]" for i in range(4)]
    assert [item.label for item in items] == both[:, 0 if labels == "coarse" else 1].tolist()
    letter = "" if form == "file" else "c" if labels == "coarse" else "f"
    assert source.classes[7] == f"{letter}7"
    assert len(source.classes) == (20 if labels == "coarse" else 100)
    np.testing.assert_array_equal(source.read(items[2]), images[2])
    if form != "file":
        whole = list(open_images(path, "all").items())
        assert [item.name for item in whole[4:]] == [f"test.bin[{i}]" for i in range(4)]


def test_a_part_of_cifar_100(tmp_path: Path, files100: dict[str, bytes]) -> None:
    path = make_folder(tmp_path / "a", {"train.bin": files100["train.bin"]})
    assert len(list(open_images(path, "all").items())) == 4  # known by its size
    with pytest.raises(VqtrtError, match=r"has no test\.bin"):
        open_images(path, "test")
    zeros = {"train.bin": bytes(3074 * 10), "fine_label_names.txt": b"apple\n"}
    source = open_images(make_folder(tmp_path / "b", zeros), "all")
    assert (source.classes, len(list(source.items()))) == (("apple",), 10)
    with pytest.raises(VqtrtError, match="labels of CIFAR-100 are: fine, coarse"):
        open_images(f"{path}:other")
    files = {"train.bin": files100["train.bin"], "fine_label_names.txt": b"apple\n"}
    with pytest.raises(VqtrtError, match="must name 100 classes, it names 1"):
        open_images(make_folder(tmp_path / "c", files))


def test_damaged_cifar_100(tmp_path: Path, files100: dict[str, bytes]) -> None:
    path = make_folder(tmp_path / "a", files100)
    (path / "train.bin").write_bytes(files100["train.bin"][:-1])
    with pytest.raises(VqtrtError, match=r"not a multiple of 3074; if it is CIFAR-100 in"):
        open_images(path)
    (path / "train.bin").write_bytes(b"\x14" + files100["train.bin"][1:])
    assert open_images(path)
    with pytest.raises(VqtrtError, match="label 20 is over 19"):
        open_images(f"{path}:coarse")


@pytest.mark.parametrize(
    "names", [["data_batch_1", "test_batch", "batches.meta"], ["train", "test", "meta"]]
)
def test_the_python_version_is_named(tmp_path: Path, names: list[str]) -> None:
    files = dict.fromkeys(names, b"\x80\x02")
    folder = make_folder(tmp_path / "a", files)
    prefix = "cifar-100-python/" if "meta" in names else "cifar-10-batches-py/"
    for path in (folder, make_tar(tmp_path / "a.tar.gz", files, prefix)):
        with pytest.raises(VqtrtError, match=r"is the Python version of CIFAR, .*never loaded"):
            open_images(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar.gz", {"0.jpg": b"x", "0.json": b"{}"}, "shard/")
    with pytest.raises(VqtrtError, match=r"without the files of CIFAR-10 or .*; unpack it"):
        open_images(path)
    path.write_bytes(bytes(1024))
    with pytest.raises(VqtrtError, match=r"it is no gzip archive, or is damaged.*else unpack it"):
        open_images(path)
