import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqtrt.data.folder import folders, passed_over
from vqtrt.data.images.open import open_images
from vqtrt.data.several import expanded_paths, open_each
from vqtrt.errors import VqtrtError


def put(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (number, 0, 0)).save(root / name)


def opened(*paths: Path):
    return open_each([str(path) for path in paths], open_images)


def test_one_path_is_its_own_source(tmp_path: Path) -> None:
    put(tmp_path, "a/x/1.png")
    assert [item.name for item in opened(tmp_path / "a").items()] == ["x/1.png"]


def test_folders_and_files_one_after_the_other(tmp_path: Path) -> None:
    put(tmp_path, "a/dog/1.png", "a/2.png", "b/cat/1.png", "b/dog/1.png", "c.png")
    (tmp_path / "a" / "note.txt").touch()
    (tmp_path / "b" / "note.txt").touch()
    source = opened(tmp_path / "b", tmp_path / "a", tmp_path / "c.png")
    assert source.classes == ("cat", "dog")
    assert [(item.name, item.label) for item in source.items()] == [
        ("b/cat/1.png", 0),
        ("b/dog/1.png", 1),
        ("a/2.png", -1),
        ("a/dog/1.png", 1),
        ("c.png", -1),
    ]
    reds = [int(source.read(item)[0, 0, 0]) for item in source.items()]
    assert reds == [2, 3, 1, 0, 4]
    assert passed_over(source) == {".txt": 2}
    assert list(folders(source)) == [tmp_path / "b", tmp_path / "a"]


def test_folders_of_one_name_keep_their_paths(tmp_path: Path) -> None:
    put(tmp_path, "x/images/1.png", "y/images/1.png")
    names = [item.name for item in opened(tmp_path / "x/images", tmp_path / "y/images").items()]
    above = str(tmp_path).lstrip("/")
    assert names == [f"{above}/x/images/1.png", f"{above}/y/images/1.png"]


def test_files_of_one_name_keep_their_paths(tmp_path: Path) -> None:
    put(tmp_path, "x/1.png", "y/1.png")
    names = [item.name for item in opened(tmp_path / "x/1.png", tmp_path / "y/1.png").items()]
    above = str(tmp_path).lstrip("/")
    assert names == [f"{above}/x/1.png", f"{above}/y/1.png"]


@pytest.mark.parametrize("again", ["a", "b/../a", "./a"])
def test_a_path_that_is_given_twice(tmp_path: Path, again: str) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(VqtrtError, match="given twice"):
        opened(tmp_path / "a", tmp_path / "b", Path(f"{tmp_path}/{again}"))


def test_arrays(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 4, 4, 3), np.uint8))
    names = [item.name for item in opened(tmp_path / "a.npy", tmp_path / "b.npy").items()]
    assert names == ["a.npy[0]", "a.npy[1]", "b.npy[0]", "b.npy[1]"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("x-{0..2}.tar", ["x-0.tar", "x-1.tar", "x-2.tar"]),
        ("x-{008..010}.tar", ["x-008.tar", "x-009.tar", "x-010.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{1..2}/{0..1}", ["1/0", "1/1", "2/0", "2/1"]),
        ("shapes:20", ["shapes:20"]),
    ],
)
def test_ranges_in_braces(text, wanted):
    assert expanded_paths([text]) == wanted


def test_patterns_lists_and_names_that_look_like_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.tar", "a.tar", "[x].png", "{0..1}.png", "@list"):
        Path(name).touch()
    assert expanded_paths(["*.tar"]) == ["a.tar", "b.tar"]
    both = [str(tmp_path / name) for name in ("a.tar", "b.tar")]
    assert expanded_paths([str(tmp_path / "?.tar")]) == both
    assert expanded_paths(["[x].png", "{0..1}.png", "@list"]) == ["[x].png", "{0..1}.png", "@list"]
    Path("list.txt").write_text("a.tar\n\n b.tar \n")
    assert expanded_paths(["@list.txt", "c"]) == ["a.tar", "b.tar", "c"]
    monkeypatch.setattr("sys.stdin", io.StringIO("a.tar\nb.tar\n"))
    assert expanded_paths(["-"]) == ["a.tar", "b.tar"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("*.tar", r"\*\.tar: no such file or folder"),
        ("{5..1}", r"\{5\.\.1\} has to ascend"),
        ("{0..9999999}", r"has to ascend, to 1,000,000 at most"),
        ("@none.txt", r"@none\.txt: no list of paths that can be read"),
        ("@empty.txt", r"@empty\.txt: lists no paths"),
        ("@bytes.txt", r"@bytes\.txt: no list of paths that can be read"),
    ],
)
def test_patterns_and_lists_that_are_wrong(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n \n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(VqtrtError, match=message):
        expanded_paths([text])
