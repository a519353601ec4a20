import gzip
import io
import tarfile

import numpy as np
import pytest

from vqtrt.data import cifar
from vqtrt.data.cifar import CLASSES, TEST, TRAIN, open_cifar10
from vqtrt.errors import VqtrtError

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
    source = open_cifar10(place, split)
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
    source = open_cifar10(tmp_path / "mine.bin", "test")
    items = list(source.items())
    assert [i.name for i in items] == ["mine.bin[0]", "mine.bin[1]"]
    np.testing.assert_array_equal(source.read(items[1]), images[1])


def test_class_names_come_from_the_file(tmp_path, files):
    files["batches.meta.txt"] = b"\n".join(b"c%d" % i for i in range(10))
    assert open_cifar10(make_folder(tmp_path / "a", files)).classes[3] == "c3"
    del files["batches.meta.txt"]
    assert open_cifar10(make_folder(tmp_path / "b", files)).classes == CLASSES
    files["batches.meta.txt"] = b"only\ntwo\n"
    with pytest.raises(VqtrtError, match="must name 10 classes"):
        open_cifar10(make_folder(tmp_path / "c", files))


@pytest.mark.parametrize("make", [make_folder, make_tar])
def test_damage(tmp_path, files, make):
    def check(name, changed, message):
        path = tmp_path / (f"{name}.tar.gz" if make is make_tar else name)
        with pytest.raises(VqtrtError, match=message):
            open_cifar10(make(path, changed), "all")

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
    assert len(open_cifar10(path, "all")) == 18
    assert sorted(tmp_path.rglob("*")) == before


def test_link_in_the_archive_is_not_followed(tmp_path):
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("test_batch.bin")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(VqtrtError, match="has no test_batch"):
        open_cifar10(tmp_path / "c.tar.gz", "test")


def test_archive_bombs(tmp_path, files, monkeypatch):
    monkeypatch.setattr(cifar, "_MAX_BYTES", 100_000)
    for name in ("junk", "test_batch.bin"):
        path = make_tar(tmp_path / "bomb.tar.gz", {name: bytes(3073 * 100)}, "")
        with pytest.raises(VqtrtError, match="unpacks to over"):
            open_cifar10(path, "test")


def test_file_twice(tmp_path):
    path = make_tar(tmp_path / "c.tar.gz", {"a/test_batch.bin": b"", "b/test_batch.bin": b""})
    with pytest.raises(VqtrtError, match="twice"):
        open_cifar10(path, "test")


def test_not_an_archive(tmp_path, files):
    path = tmp_path / "c.tar.gz"
    whole = make_tar(tmp_path / "good.tar.gz", files).read_bytes()
    for content in (b"", b"text", gzip.compress(b"text" * 1000), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(VqtrtError, match=str(path)):
            open_cifar10(path, "all")
