import os
import subprocess
import sys
from pathlib import Path

import pytest

from vqtrt.engines.tensorrt.runtime_cache import digest_file, read_cache, write_cache


def test_there_and_back(tmp_path):
    path = tmp_path / "key.runtime-cache"
    assert read_cache(path) is None
    for kept in (b"kernels", b"others" * 1000):
        assert write_cache(path, kept)
        assert read_cache(path) == kept
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [path.name, f"{path.name}.lock", f"{path.name}.sha256"]


def test_the_file_is_what_the_package_gave(tmp_path: Path) -> None:
    """NVIDIA's own tools read and write these files; its hash stands beside it."""
    path = tmp_path / "key.timing-cache"
    write_cache(path, b"timings")
    assert path.read_bytes() == b"timings"
    check = ["sha256sum", "--check", "--quiet", digest_file(path).name]
    subprocess.run(check, cwd=tmp_path, check=True)
    digest_file(path).unlink()
    assert read_cache(path) is None


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:2], lambda c: b"", bytes.upper])
def test_damage_counts_as_nothing(tmp_path, damage):
    path = tmp_path / "key.runtime-cache"
    write_cache(path, b"kernels")
    path.write_bytes(damage(path.read_bytes()))
    assert read_cache(path) is None


def test_what_a_stranger_put_there_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "key.runtime-cache"
    for file in (path, digest_file(path)):
        write_cache(path, b"kernels")
        file.unlink()
        os.mkfifo(file)
        assert read_cache(path) is None


def test_no_lock_is_made_by_way_of_a_link(tmp_path: Path) -> None:
    path = tmp_path / "key.runtime-cache"
    (tmp_path / "key.runtime-cache.lock").symlink_to(tmp_path / "elsewhere")
    assert read_cache(path) is None
    assert not write_cache(path, b"kernels")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there_keeps_none(tmp_path):
    assert not write_cache(tmp_path / "nope" / "key.runtime-cache", b"kernels")
    (tmp_path / "key.runtime-cache").mkdir()
    assert not write_cache(tmp_path / "key.runtime-cache", b"kernels")
    assert read_cache(tmp_path / "key.runtime-cache") is None
    assert [file for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_processes_do_not_see_half_a_file(tmp_path):
    path = tmp_path / "key.runtime-cache"
    code = (
        "import sys, pathlib\n"
        "from vqtrt.engines.tensorrt.runtime_cache import read_cache, write_cache\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    assert write_cache(path, sys.argv[2].encode() * 50_000)\n"
        "    assert len(set(read_cache(path))) == 1\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert read_cache(path) is not None
