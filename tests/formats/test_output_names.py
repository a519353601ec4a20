import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from vqtrt.errors import VqtrtError
from vqtrt.formats.output_names import NameLimits, fitted, name_limits, output_names

CODES = Path("codes.npy")


def names(*files: str, limits: NameLimits | None = None, suffix: str = ".png") -> list[str]:
    return output_names(files, len(files), CODES, suffix, limits)


def test_names_of_one_file_system_on_another() -> None:
    """ext4 takes 255 bytes of a name, where NTFS takes 255 letters, and encrypted folders 143."""
    letters = "語" * 100
    files = [f"{letters}/{letters}{i}.jpg" for i in range(3)] + ["plain.jpg", f"{letters}.jpg"]
    told: list[str] = []
    found = output_names(files, 5, CODES, ".png", NameLimits(143), told.append)
    assert found == names(*files, limits=NameLimits(143))  # always the same
    assert len(set(found)) == 5
    assert found[3] == "plain.png"
    parents = {name.rpartition("/")[0] for name in found[:3]}
    assert len(parents) == 1  # one folder stays one folder
    for name in found:
        assert name.endswith(".png")
        assert max(len(os.fsencode(part)) for part in name.split("/")) <= 143
        name.encode()  # no character is cut in half
    (note,) = told
    assert note.startswith("4 names are longer than the file system takes, and are shortened: ")
    # A file's name does not depend on what else there is.
    assert names(files[4], limits=NameLimits(143)) == [found[4]]


def test_names_that_fit_are_left_alone() -> None:
    told: list[str] = []
    files = ["a" * 251 + ".jpg", "b/" * 255 + "c.jpg"]
    assert output_names(files, 2, CODES, ".png", None, told.append) == [
        "a" * 251 + ".png",
        "b/" * 255 + "c.png",
    ]
    assert told == []


def test_a_longer_suffix_may_be_what_is_too_much() -> None:
    found = names("a" * 252 + ".jp", "a" * 251 + ".wav", "a" * 251 + ".wave", suffix=".wav")
    assert len(set(found)) == 3
    assert max(map(len, found)) <= 255
    assert found[1] == "a" * 251 + ".wav"


@pytest.mark.parametrize("file", ["d/" * 2000 + "x.png", ("e" * 200 + "/") * 20 + "x.png"])
def test_paths_that_are_too_long_or_too_deep(tmp_path: Path, file: str) -> None:
    found = names(file, file.replace("x.png", "y.png"), limits=name_limits(tmp_path))
    folder, _, name = found[0].rpartition("/")
    assert (name, found[1]) == ("x.png", f"{folder}/y.png")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / found[0]).touch()


def test_different_names_never_meet() -> None:
    rng = np.random.default_rng(0)
    alphabet = ["a", "b", "é", "語", "/", ".jpg", ".png"]
    files = ["".join(rng.choice(alphabet, 60)).strip("/.") or "a" for _ in range(2000)]
    limits = NameLimits(40, 120)
    found = names(*files, limits=limits)
    assert len(set(found)) == len(files)
    folders = {str(parent) for name in found for parent in Path(name).parents}
    assert folders.isdisjoint(found)
    assert all(fitted(name, limits, ".png") == name for name in found)


def test_an_output_folder_that_leaves_no_room(tmp_path: Path) -> None:
    with pytest.raises(VqtrtError, match="is so long that names below it find no room"):
        name_limits(tmp_path / "/".join(["f" * 200] * 20))


def test_deep_names_take_no_memory() -> None:
    files = [f"{i}/" + "a/" * 2000 + "x.png" for i in range(200)]
    tracemalloc.start()
    try:
        names(*files)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20  # all their parents come to 800 MB


def test_limits_below_a_folder_that_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)
    assert name_limits(tmp_path / "a").component == 255
