import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vqtrt.system.files import open_file, read_file

Read = Callable[[Path], bytes]


def opened(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read()


@pytest.fixture(params=[opened, lambda path: read_file(path, 100)], ids=["open", "read"])
def read(request: pytest.FixtureRequest) -> Read:
    return request.param


def test_a_regular_file(tmp_path: Path, read: Read) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("a")
    assert read(tmp_path / "a") == read(tmp_path / "link") == b"abc"
    (tmp_path / "a").write_bytes(b"")
    assert read(tmp_path / "a") == b""


def test_what_never_ends_is_not_read(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in (("pipe", "a pipe"), ("link", "a pipe"), ("zero", "a device")):
        with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
            read(tmp_path / name)


def test_sockets_folders_and_nothing(tmp_path: Path, read: Read) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s"))
        with pytest.raises(OSError, match="No such device"):
            read(tmp_path / "s")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")


def test_more_than_is_wanted_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="has 1099511627776 bytes, more than 100") as caught:
        read_file(tmp_path / "sparse", 100)
    assert caught.value.errno == errno.EFBIG


def test_descriptors_are_closed(tmp_path: Path, read: Read) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match=r"pipe|directory"):
            read(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
