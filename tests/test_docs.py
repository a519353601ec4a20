"""What the documents say is so: links lead somewhere, and nothing is left out.

The tests below `docs` run what the pages show.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from docs_runner import PAGES, README, ROOT, blocks, commands
from pydantic import BaseModel

from vqtrt import cli
from vqtrt.config.audio import (
    ConvDecoderConfig,
    MelConfig,
    SpeechConfig,
    SpeechPriorConfig,
    TargetConfig,
    WaveNetDecoderConfig,
)
from vqtrt.config.images import RECIPES, Config, PriorConfig
from vqtrt.config.settings import recipe_names

DOCUMENTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def section(title: str) -> str:
    """The one part of the pages with this heading, up to the next of its level."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for heading in re.finditer(rf"^(#+) {title}$", text, re.MULTILINE):
            rest = text[heading.end() :]
            end = re.search(rf"^#{{1,{len(heading[1])}}} ", rest, re.MULTILINE)
            found.append(rest[: end.start()] if end else rest)
    (one,) = found
    return one


def settings(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key that `--set` takes, with its default."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        else:
            default = field.default
            yield f"{prefix}{name}", list(default) if isinstance(default, tuple) else default


def rows(text: str) -> dict[str, list[str]]:
    """The cells of a page's tables by the first, which stands in backticks."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


def value(cell: str) -> object:
    """A default as the tables write it: code as text, `none`, or a plain YAML value."""
    if cell.startswith("`"):
        return cell.strip("`")
    if cell == "none":
        return None
    loaded = yaml.safe_load(cell)
    return float(loaded) if isinstance(loaded, str) else loaded


def test_there_is_something_to_run():
    shown = " ".join(command for page in PAGES for command in commands(page))
    for name, _ in cli_commands():
        assert f"vqtrt {name}" in shown
    assert blocks(README, "python")
    assert len(blocks(ROOT / "docs" / "python.md", "python")) == 3


def test_every_page_that_shows_something_is_run():
    shows = {page.name for page in PAGES if commands(page) or blocks(page, "python")}
    run = {}
    for path in (ROOT / "tests/docs").glob("test_*.py"):
        run[path.name] = re.findall(r'run_page\("(.*?)"\)', path.read_text())
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


def test_every_setting_is_documented_with_its_default():
    text = (ROOT / "docs" / "train.md").read_text()
    documented = {
        key: value(cells[0])
        for key, cells in rows(text[text.index("## Settings") :]).items()
        if "`" not in key
    }
    assert documented == dict(settings())


def test_every_setting_of_speech_is_documented_with_its_default():
    told = dict(settings(SpeechConfig))
    parts = {
        "model.front": (MelConfig,),
        "model.target": (TargetConfig,),
        "model.decoder": (ConvDecoderConfig, WaveNetDecoderConfig),  # the latter's kind
    }
    for name, models in parts.items():
        for model in models:
            told |= dict(settings(model, f"{name}."))
    del told["model.decoder"]
    shared = ("train.", "model.quantizer.", "recipe", "format_version")
    documented = {}
    for keys, cells in rows(section("Settings of speech")).items():
        documented |= dict.fromkeys(keys.replace("`", "").split(", "), value(cells[0]))
    assert documented == {k: v for k, v in told.items() if not k.startswith(shared)}


def test_every_setting_of_a_prior_is_documented_with_its_default():
    text = (ROOT / "docs" / "prior.md").read_text()
    documented = {
        key: value(cells[0])
        for key, cells in rows(text[text.index("## Settings") : text.index("## Sample")]).items()
    }
    told = dict(settings(PriorConfig))
    shared = {key for key in told if key.startswith("train.")} | {"format_version"}
    # What the codes say is no setting to choose.
    found = {key for key in told if key.startswith("codes.")}
    found |= {f"prior.{name}" for name in ("codebook_size", "num_codebooks", "num_classes")}
    assert documented == {k: v for k, v in told.items() if k not in shared | found}


def test_every_setting_of_a_prior_of_speech_is_documented_with_its_default():
    told = dict(settings(SpeechPriorConfig))
    shared = {key for key in told if key.startswith(("train.", "codes."))} | {"format_version"}
    # What the codes say is no setting to choose.
    found = {f"prior.{name}" for name in ("codebook_size", "num_classes")}
    documented = {
        key: value(cells[0])
        for key, cells in rows(section("Priors of speech")).items()
        if "." in key
    }
    assert documented == {k: v for k, v in told.items() if k not in shared | found}


def test_every_recipe_is_documented():
    text = (ROOT / "docs" / "train.md").read_text()
    assert set(recipe_names(RECIPES)) <= set(rows(text))


def cli_commands() -> list[tuple[str, dict[str, object]]]:
    """Each command with its options and their defaults; of a switch that is on, also that for off.

    An option that has to be given, or stands for something else where it is not, has None.
    """

    def below(group, prefix: str) -> Iterator[tuple[str, dict[str, object]]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from below(command, f"{prefix}{name} ")
                continue
            options = {}
            for parameter in command.params:
                names = [name for name in parameter.opts if name.startswith("-")]
                if names and parameter.default is True:
                    names += parameter.secondary_opts
                options |= dict.fromkeys(names, parameter.default)
            yield prefix + name, options

    return list(below(typer.main.get_command(cli.app), ""))


@pytest.mark.parametrize(("name", "options"), cli_commands(), ids=lambda value: str(value)[:20])
def test_every_command_and_option_is_documented(name, options):
    text = section(name.capitalize())
    missing = [option for option in options if not re.search(rf"`{option}(?![\w-])", text)]
    assert missing == []
    table = {key.split()[0]: cells for key, cells in rows(text).items() if "`" not in key}
    assert {key for key in table if key.startswith("-")} <= set(options)
    for option, default in options.items():
        if option in table and default is not None:
            written = value(table[option][0])
            assert written == default, option


def test_no_option_is_documented_that_is_not_there():
    known = {option for _, options in cli_commands() for option in options}
    for page in PAGES:
        mentioned = set(re.findall(r"`(--[\w-]+)", page.read_text()))
        assert mentioned <= known, page.name
