import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vqtrt.engines.tensorrt.trust import forget, is_known, remember, state_folder

SHA, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_what_was_built_is_known_until_it_is_forgotten(state: Path) -> None:
    assert not is_known(SHA)
    assert remember(SHA, Path("bundle/engines/encoder.engine"))
    assert remember(SHA, Path("bundle/engines/encoder.engine"))
    assert (is_known(SHA), is_known(OTHER)) == (True, False)
    (marker,) = (state / "trusted-engines").iterdir()
    assert marker.read_text() == f"{Path.cwd()}/bundle/engines/encoder.engine\n"
    assert stat.S_IMODE(marker.stat().st_mode) == 0o600
    assert stat.S_IMODE(marker.parent.stat().st_mode) == 0o700
    forget(SHA)
    forget(SHA)
    assert not is_known(SHA)


@pytest.mark.parametrize("name", ["", "../" + SHA, SHA[:-1], SHA.upper(), SHA + "\n", "."])
def test_a_name_that_is_no_hash_is_not_known(state: Path, name: str) -> None:
    remember(SHA, Path("x"))
    assert not is_known(name)


def test_a_folder_that_others_can_write_to_does_not_count(state: Path) -> None:
    remember(SHA, Path("x"))
    folder = state / "trusted-engines"
    for mode in (0o777, 0o770, 0o702):
        folder.chmod(mode)
        assert not is_known(SHA)
    folder.chmod(0o700)
    assert is_known(SHA)
    (folder / SHA).chmod(0o666)
    assert not is_known(SHA)


def test_the_folder_of_another_user_does_not_count(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(SHA, Path("x"))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert not is_known(SHA)


def test_a_link_does_not_count(state: Path, tmp_path: Path) -> None:
    remember(SHA, Path("x"))
    (state / "trusted-engines").rename(tmp_path / "elsewhere")
    (state / "trusted-engines").symlink_to(tmp_path / "elsewhere")
    assert not is_known(SHA)


def test_a_state_folder_that_cannot_be_written(state: Path) -> None:
    state.write_text("a file")
    assert not remember(SHA, Path("x"))
    assert not is_known(SHA)
    forget(SHA)


def test_where_the_state_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VQTRT_STATE", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local/state/vqtrt"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/does/not/count")
    assert state_folder() == tmp_path / ".local/state/vqtrt"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert state_folder() == tmp_path / "xdg/vqtrt"
    monkeypatch.setenv("VQTRT_STATE", str(tmp_path / "own"))
    assert state_folder() == tmp_path / "own"


def test_another_process_knows_it_too(state: Path) -> None:
    remember(SHA, Path("x"))
    code = f"from vqtrt.engines.tensorrt.trust import is_known; assert is_known({SHA!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
