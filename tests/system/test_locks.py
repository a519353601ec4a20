import errno
import fcntl
import logging
import os
from pathlib import Path

import pytest

from vqtrt.engines.tensorrt.runtime_cache import read_cache, write_cache
from vqtrt.errors import VqtrtError
from vqtrt.formats.journal import Appender
from vqtrt.system import locks
from vqtrt.system.locks import only_writer


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with only_writer(path, tmp_path / "out"):
        with (
            pytest.raises(VqtrtError, match=r"out: another process is writing it"),
            only_writer(path, tmp_path / "out"),
        ):
            pass
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    with only_writer(path, tmp_path / "out"):
        pass


def test_a_lock_is_not_made_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "victim")
    with (
        pytest.raises(VqtrtError, match="cannot be written"),
        only_writer(tmp_path / ".lock", tmp_path / "out"),
    ):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_noted_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def fails(fd: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fails)
    monkeypatch.setattr(locks, "_told", set())
    caplog.set_level(logging.WARNING, "vqtrt")
    log = Appender.open_alone(tmp_path / "journal", tmp_path / "out")
    log.close()
    with only_writer(tmp_path / ".lock", tmp_path / "out"):
        pass
    assert write_cache(tmp_path / "cache", b"kernels")
    assert read_cache(tmp_path / "cache") == b"kernels"
    (record,) = caplog.records
    assert f"{tmp_path}: this file system has no locks" in record.getMessage()


def test_another_error_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int, how: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fails)
    with (
        pytest.raises(VqtrtError, match="Input/output error"),
        only_writer(tmp_path / ".lock", tmp_path / "out"),
    ):
        pass
