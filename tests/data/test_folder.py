import os
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqtrt.data.images.folder import ImageFolder
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.selection import Selection
from vqtrt.errors import ImageError, VqtrtError

PNG_COLOUR = (10, 200, 30)


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), PNG_COLOUR).save(root / name, format="png")


def names(root: Path) -> list[str]:
    return [item.name for item in ImageFolder(root).items()]


def test_order_is_that_of_sorted_rglob(tmp_path):
    put(tmp_path, "b/x.png", "b/a/2.png", "b/a/10.png", "a.png", "b.png", "b-c/1.png", "é/z.png")
    put(tmp_path, "B/1.png", "b/a.png", "c/d/e/f/g.png", "10", "9", "b/a-b/1")
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert names(tmp_path) == [p.relative_to(tmp_path).as_posix() for p in files]


def test_hidden_do_not_count_and_others_do_whatever_their_name(tmp_path):
    put(tmp_path, "a/1.png", "a/.hidden.png", ".git/2.png", "a/.b/3.png", "z")
    (tmp_path / "a/notes.page").write_text("no image")
    folder = ImageFolder(tmp_path)
    items = list(folder.items())
    assert [i.name for i in items] == ["a/1.png", "a/notes.page", "z"]
    assert folder.passed_over == {"hidden": 3}
    assert folder.read(items[2]).shape == (4, 6, 3)
    with pytest.raises(ImageError, match=r"notes\.page: not an image"):
        folder.read(items[1])


def test_sidecars_and_system_files_are_no_items_but_counted(tmp_path: Path) -> None:
    put(tmp_path, "0/0.jpg", "0/1.jpg", "__MACOSX/0/._0.jpg", "0/._0.jpg", "@eaDir/0.jpg")
    for name in ("0/0.json", "0/1.JSON", "0/0.txt", "0/emb.npy", "0.parquet", "0_stats.json"):
        (tmp_path / name).write_text("{}")
    for name in ("Thumbs.db", "0/.DS_Store", "desktop.ini", "README", "only/a.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    os.mkfifo(tmp_path / "0/pipe.jpg")
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("0",)  # a folder of tables is no class
    assert [item.name for item in folder.items()] == ["0/0.jpg", "0/1.jpg"]
    assert folder.passed_over == {
        **{".json": 3, ".txt": 1, ".npy": 1, ".parquet": 1, ".csv": 1, "readme": 1},
        **{"system": 6, "special": 1},
    }


def test_patterns(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "a/2.jpg", "b/1.png", "b/deep/thumb.png", "c/1.png")
    (tmp_path / "a/1.txt").write_text("caption")
    chosen = ImageFolder(tmp_path, Selection(include=["*.png"], exclude=["b/deep", "c"]))
    assert [item.name for item in chosen.items()] == ["a/1.png", "b/1.png"]
    assert chosen.classes == ("a", "b")
    assert chosen.passed_over == {".txt": 1, "not included": 1, "excluded": 2}
    with pytest.raises(VqtrtError, match=r"holds no images, only .*check --include and --exclude"):
        ImageFolder(tmp_path, Selection(include=["*.bmp"]))


def test_a_folder_that_cannot_be_listed_can_be_excluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/1.png", "b/2.png")
    original = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    folder = ImageFolder(tmp_path, Selection(exclude=["b"]))
    assert [item.name for item in folder.items()] == ["a/1.png"]


def test_a_folder_of_archives_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "00000.tar").write_bytes(bytes(1024))
    with pytest.raises(VqtrtError, match=r"no images, only 1 \.tar; give the files themselves"):
        ImageFolder(tmp_path)


def test_labels(tmp_path):
    put(tmp_path, "cat/1.png", "dog/deep/er/2.png", "0.png")
    (tmp_path / "bird/empty").mkdir(parents=True)
    folder = ImageFolder(tmp_path)
    assert folder.classes == ("cat", "dog")
    assert [i.label for i in folder.items()] == [-1, 0, 1]
    put(tmp_path / "flat", "1.png")
    assert ImageFolder(tmp_path / "flat").classes == ()


def test_read_with_preprocessing(tmp_path):
    put(tmp_path, "1.png")
    folder = ImageFolder(tmp_path)
    image = folder.read(next(folder.items()), Preprocessing(height=3, width=3))
    np.testing.assert_array_equal(image, np.broadcast_to(np.array(PNG_COLOUR, np.uint8), (3, 3, 3)))


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path, "data/a/1.png", "other/2.png")
    root = tmp_path / "data"
    (root / "a/up").symlink_to(root)
    (root / "b").symlink_to(tmp_path / "other")
    (root / "a/self").symlink_to("self")
    (root / "gone.png").symlink_to(tmp_path / "nowhere.png")
    folder = ImageFolder(root)
    items = list(folder.items())
    assert [i.name for i in items] == ["a/1.png", "a/self", "b/2.png", "gone.png"]
    assert folder.classes == ("a", "b")
    for item in (items[1], items[3]):
        with pytest.raises(ImageError):
            folder.read(item)


def test_fifo_does_not_count(tmp_path):
    put(tmp_path, "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert names(tmp_path) == ["1.png"]


def test_items_is_lazy(tmp_path, monkeypatch):
    put(tmp_path, *(f"{c}/{i}.png" for c in "abcdef" for i in range(3)))
    listed = []
    original = os.scandir
    folder = ImageFolder(tmp_path)
    assert len(folder.classes) == 6
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(path), original(path))[1])
    items = folder.items()
    assert isinstance(items, types.GeneratorType)
    assert next(items).name == "a/0.png"
    assert [Path(p).name for p in listed] == [tmp_path.name, "a"]


def test_deep_tree(tmp_path):
    deep = "/".join("d" * 300)
    put(tmp_path, f"{deep}/1.png")
    assert names(tmp_path) == [f"{deep}/1.png"]


def test_name_that_is_not_utf8_is_escaped_and_readable(tmp_path):
    put(tmp_path, "ok.png")
    try:
        (tmp_path / "ok.png").rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    folder = ImageFolder(tmp_path)
    [item] = folder.items()
    assert item.name == "bad\\xff.png"
    assert item.name.encode()
    assert folder.read(item).shape == (4, 6, 3)


def test_mistakes(tmp_path):
    with pytest.raises(VqtrtError, match="no such folder"):
        ImageFolder(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(VqtrtError, match="not a folder"):
        ImageFolder(tmp_path / "file")
    (tmp_path / "empty/below/.git").mkdir(parents=True)
    with pytest.raises(VqtrtError, match="holds no images, only 1 hidden"):
        ImageFolder(tmp_path / "empty")


def test_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    put(tmp_path, "a/1.png", "b/2.png")
    folder = ImageFolder(tmp_path)
    assert folder.classes
    original = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(VqtrtError, match="/b: cannot be listed"):
        list(folder.items())
