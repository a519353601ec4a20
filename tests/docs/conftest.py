"""Each page of the documents is run by a test file of its own, so that they run side by side."""

from collections.abc import Callable
from pathlib import Path

import pytest
from docs_runner import PAGES, README, copy_readme, run_commands, run_python


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VQTRT_MODEL", raising=False)
    return tmp_path


@pytest.fixture
def readme_left(workplace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The working directory, with what the commands of the README leave."""
    copy_readme(workplace, capfd)


@pytest.fixture
def run_page(workplace: Path, capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Runs all that a page shows, by its file name."""

    def run(name: str) -> None:
        (page,) = [page for page in PAGES if page.name == name]
        if page != README:  # whose commands `readme_left` runs
            run_commands(page, capfd)
        run_python(page)

    return run
