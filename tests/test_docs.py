"""What the documents say is so: links lead somewhere, and nothing is left out.

The tests below `docs` run what the pages show.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from docs_runner import PAGES, README, ROOT, blocks, commands

from vqtrt import AudioTokenizer, ImageTokenizer, cli
from vqtrt.config.images import RECIPES
from vqtrt.config.settings import recipe_names

DOCUMENTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a page's tables by the first, which stands in backticks."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_there_is_something_to_run():
    shown = " ".join(command for page in PAGES for command in commands(page))
    for name, _ in cli_commands():
        assert f"vqtrt {name}" in shown
    assert blocks(README, "python")
    assert len(blocks(ROOT / "docs" / "python.md", "python")) == 4


def test_every_page_that_shows_something_is_run():
    shows = {page.name for page in PAGES if commands(page) or blocks(page, "python")}
    run = {}
    for path in (ROOT / "tests/docs").glob("test_*.py"):
        run[path.name] = re.findall(r'run_page\("(.*?)"\)', path.read_text())
    run = {file: pages for file, pages in run.items() if pages}
    assert run == {f"test_{Path(name).stem}.py": [name] for name in shows}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_recipe_is_documented():
    text = (ROOT / "docs" / "train.md").read_text()
    assert set(recipe_names(RECIPES)) <= set(rows(text))


def cli_commands() -> list[tuple[str, list[str]]]:
    """Each command with its options; of a switch that is on, also that for off."""

    def below(group, prefix: str) -> Iterator[tuple[str, list[str]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from below(command, f"{prefix}{name} ")
                continue
            options: list[str] = []
            for parameter in command.params:
                names = [name for name in parameter.opts if name.startswith("-")]
                if names and parameter.default is True:
                    names += parameter.secondary_opts
                options += names
            yield prefix + name, options

    return list(below(typer.main.get_command(cli.app), ""))


def test_no_option_is_documented_that_is_not_there():
    known = {option for _, options in cli_commands() for option in options} | {"--version"}
    known |= {"--install-completion"}
    for page in PAGES:
        mentioned = set(re.findall(r"`(--[\w-]+)", page.read_text()))
        assert mentioned <= known, page.name


def test_every_public_function_has_an_example():
    """An example that runs: blocks of code of the pages are run by the tests below `docs`."""
    code = " ".join("\n".join(blocks(page, "python")) for page in PAGES)
    for name in ("load", "open_image", "sample"):
        assert f"vqtrt.{name}(" in code or f"import {name}\n" in code
    for cls in (ImageTokenizer, AudioTokenizer):
        for name, member in vars(cls).items():
            shown = callable(member) and not name.startswith("_")
            if shown and name not in ("encode_blocks", "fingerprint", "graph"):
                assert f"tokenizer.{name}(" in code, f"{cls.__name__}.{name}"
