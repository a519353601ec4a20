"""What the documents say is so: commands run, links lead somewhere, and nothing is left out.

Console blocks run in order, those of the README first in a new folder, then those of the pages in
the same folder; Python blocks after them. Blocks tagged `sh` need data or machines, and are not
run.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from doubles import vqtrt
from pydantic import BaseModel
from textgrids import write_textgrid

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
from vqtrt.data.audio.decode import write_wav

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]

CUT_SHORT = [
    "data.path=shapes:400",
    "train.steps=20",
    "train.evaluate_every=20",
    "train.checkpoint_every=10",
]
"""Appended with `--set` to every `vqtrt train` of the documents, so that it takes seconds."""
SMALL_PRIOR = [*CUT_SHORT[1:], "prior.layers=2", "prior.channels=8"]
"""The same for every `vqtrt train-prior`, whose data are cut short only if it names none."""
SMALL_SPEECH = [
    *CUT_SHORT[1:],
    "train.batch_size=4",
    "data.crop=1024",
    "data.target_batch=4",
    "model.hidden=16",
    "model.target_steps=10",
    "model.quantizer.codebook_size=16",
    "model.decoder.layers=2",
    "model.decoder.unroll=2",
    "model.decoder.channels=8",
    "model.decoder.head=8",
]
"""The same for every `vqtrt train` of speech, whose recordings the test writes."""
RESUMED = ["train.steps=30"]
"""The same for every `vqtrt train --resume`: ten steps more."""


def blocks(path: Path, tag: str) -> list[str]:
    """The text of the fenced blocks with a tag."""
    return re.findall(rf"^```{tag}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def shorter(args: list[str]) -> list[str]:
    """What a command is given so that it takes seconds."""
    settings: list[str] = []
    if args[0] == "train" and "--resume" in args:
        settings = RESUMED
    elif args[0] == "train":
        settings = SMALL_SPEECH if args[1].startswith("digits") else CUT_SHORT
    elif args[0] == "train-prior":
        spoken = "wavenet" in args or "--data" in args
        settings = SMALL_PRIOR if spoken else [CUT_SHORT[0], *SMALL_PRIOR]
    more = ["--repeat", "1"] if args[:2] == ["bench", "sample"] else []
    return more + [part for setting in settings for part in ("--set", setting)]


def write_digits(recordings: Path, alignments: Path) -> None:
    """Tones of two speakers, named as FSDD names its recordings, and what is said when."""
    rng = np.random.default_rng(0)
    for number in range(24):
        name, samples = f"{number // 2}_{('george', 'jackson')[number % 2]}_0", 1600 + 40 * number
        tone = np.sin(np.arange(samples) * rng.uniform(0.1, 0.3) * (1 + number % 2))
        write_wav(recordings / f"{name}.wav", 0.3 * tone.astype(np.float32), 8000)
        seconds = samples / 8000
        parts = [(0, 0.1, "AH0"), (0.1, seconds, ("N", "sil")[number % 3 == 0])]
        write_textgrid(alignments / f"{name}.TextGrid", parts)


def commands(path: Path) -> list[str]:
    lines = [line for block in blocks(path, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


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


@pytest.mark.slow
def test_what_the_documents_show_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VQTRT_MODEL", raising=False)
    write_digits(Path("recordings"), Path("textgrids"))
    for page in PAGES:
        for command in commands(page):
            program, *args = shlex.split(command)
            assert program == "vqtrt", command
            args += shorter(args)
            assert vqtrt(*args) == 0, f"{page.name}: {command}: {capfd.readouterr().err}"
    for page in PAGES:
        names = {"__name__": page.stem}  # what one block has made, the next on the page may use
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), names)  # noqa: S102


def test_there_is_something_to_run():
    shown = " ".join(command for page in PAGES for command in commands(page))
    for name, _ in cli_commands():
        assert f"vqtrt {name}" in shown
    assert blocks(ROOT / "README.md", "python")
    assert len(blocks(ROOT / "docs" / "python.md", "python")) == 3


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
