import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doubles import tree

from vqtrt.errors import VqtrtError
from vqtrt.system import atomic
from vqtrt.system.atomic import (
    check_file,
    check_folder,
    merging_folder,
    replacing_file,
    replacing_folder,
    tidy,
    write_bytes,
    write_text,
)


@pytest.fixture
def private() -> Iterator[None]:
    """As for users who let nobody read what they write."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_tidied", set())


def fill(folder: Path, text: str = "new") -> None:
    (folder / "a").write_text(text)


def dead_process() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def stage(folder: Path, pid: int, kind: str = "partial", machine: str | None = None) -> Path:
    return folder / f".out.{machine or atomic._machine()}-{pid}-0123abcd.{kind}"


def test_write_text_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "1")
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def breaks() -> None:
        with replacing_file(path) as new:
            new.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks()
    assert path.read_text() == "old"
    assert tree(tmp_path) == ["a"]


@pytest.mark.usefixtures("private")
@pytest.mark.parametrize("write", [replacing_folder, merging_folder])
def test_the_umask_holds(tmp_path: Path, write: Callable[..., object]) -> None:
    out = tmp_path / "out"
    with write(out) as folder:  # type: ignore[attr-defined]
        fill(folder)
    write_bytes(tmp_path / "file", b"")
    assert out.stat().st_mode & 0o777 == 0o700
    assert (out / "a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_the_mode_of_what_is_replaced_holds(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o750)
    write_bytes(tmp_path / "file", b"1")
    (tmp_path / "file").chmod(0o640)
    with replacing_folder(tmp_path / "out") as folder:
        fill(folder)
    write_bytes(tmp_path / "file", b"2")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("write", [replacing_folder, merging_folder])
def test_a_link_stays(tmp_path: Path, write: Callable[..., object], there: bool) -> None:
    (tmp_path / "disk").mkdir()
    target, out = tmp_path / "disk/target", tmp_path / "out"
    if there:
        target.mkdir()
        (target / "old").touch()
    out.symlink_to(target)
    with write(out) as folder:  # type: ignore[attr-defined]
        assert folder.parent == target.parent
        fill(folder)
    assert out.is_symlink()
    kept = ["old"] if there and write is merging_folder else []
    assert tree(target) == ["a", *kept]
    (tmp_path / "link").symlink_to(tmp_path / "disk/file")
    write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk/file").read_bytes() == b"x"
    assert tree(tmp_path / "disk") == ["file", "target", *(f"target/{n}" for n in tree(target))]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    with replacing_folder(out) as folder:
        fill(folder)
    assert tree(tmp_path) == ["out", "out/a"]

    def breaks() -> None:
        with replacing_folder(out) as folder:
            fill(folder, "half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        breaks()
    assert (out / "a").read_text() == "new"
    assert tree(tmp_path) == ["out", "out/a"]


def test_what_the_dead_left_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pid = dead_process()
    stage(tmp_path, pid).mkdir()
    (stage(tmp_path, pid) / "a").touch()
    (tmp_path / f".file.{atomic._machine()}-{pid}-00000000.partial").touch()
    kept = [
        stage(tmp_path, os.getppid()),
        stage(tmp_path, pid, machine="00000000"),
        tmp_path / ".out.partial",
        tmp_path / ".out-abc.partial",
    ]
    for path in kept:
        path.mkdir()
    write_text(tmp_path / "file", "")
    assert sorted(tmp_path.iterdir()) == sorted([*kept, tmp_path / "file"])
    assert [record.getMessage().split()[0] for record in caplog.records] == ["removed"] * 2


def test_what_another_machine_left_is_named_after_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = stage(tmp_path, 1, machine="00000000")
    path.mkdir()
    os.utime(path, (time.time() - 90_000,) * 2)
    caplog.set_level(logging.WARNING, "vqtrt")
    tidy(tmp_path)
    assert path.is_dir()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: left by a job on another machine")


def test_hosts_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On shared storage, each would take the other's live processes for dead."""
    left = stage(tmp_path, dead_process())
    left.mkdir()
    monkeypatch.setattr(atomic, "_BOOT_ID", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("of another host\n")
    atomic._machine.cache_clear()
    try:
        tidy(tmp_path)
        assert left.is_dir()
    finally:
        monkeypatch.undo()
        atomic._machine.cache_clear()
    tidy(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_was_moved_aside_comes_back(tmp_path: Path, there: bool) -> None:
    """A process was killed between two renames."""
    old = stage(tmp_path, dead_process(), "old")
    old.mkdir()
    fill(old, "old")
    if there:
        (tmp_path / "out").mkdir()
        fill(tmp_path / "out")
    tidy(tmp_path)
    assert tree(tmp_path) == ["out", "out/a"]
    assert (tmp_path / "out/a").read_text() == ("new" if there else "old")


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VqtrtError, match="file is a file: name a folder"):
        check_folder(tmp_path / "file")
    with pytest.raises(VqtrtError, match="a file is where a folder has to be"):
        check_folder(tmp_path / "file/out")
    with pytest.raises(VqtrtError, match="is a folder"):
        check_file(tmp_path)
    with pytest.raises(VqtrtError, match="no such folder"):
        check_file(tmp_path / "none/file")
    monkeypatch.setattr(os, "access", lambda *_: False)
    for check in (check_folder, check_file):
        with pytest.raises(VqtrtError, match=r"out: cannot be written \(Permission denied\)"):
            check(tmp_path / "out")


def test_many_files_are_synced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_FEW", 1)
    for name in "abc":
        (tmp_path / name).touch()
    calls: list[Path] = []
    monkeypatch.setattr(atomic, "_sync", lambda path, flags=0: calls.append(path))
    atomic.sync_tree(tmp_path)
    assert calls == []
    monkeypatch.setattr(atomic, "_sync_system", lambda folder: False)
    atomic.sync_tree(tmp_path)
    assert sorted(calls) == [tmp_path, *(tmp_path / name for name in "abc")]
