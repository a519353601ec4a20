"""The pages of the documents, and how what they show is run.

Console blocks run in order, those of the README in a new folder, those of a page in a new one or
in a copy of what the README left; Python blocks after them. Blocks tagged `sh` need data or
machines, and are not run.
"""

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from doubles import vqtrt
from shared_runs import shared

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]

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


def commands(path: Path) -> list[str]:
    """The commands of the console blocks."""
    lines = [line for block in blocks(path, "console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


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


def run_commands(page: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Run the console blocks in the working directory."""
    for command in commands(page):
        program, *args = shlex.split(command)
        assert program == "vqtrt", command
        args += shorter(args)
        assert vqtrt(*args) == 0, f"{page.name}: {command}: {capfd.readouterr().err}"


def run_python(page: Path) -> None:
    """Run the Python blocks in the working directory."""
    names = {"__name__": page.stem}  # what one block has made, the next on the page may use
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102


def copy_readme(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Into a folder, what the commands of the README leave."""

    def make(path: Path) -> None:
        path.mkdir()
        with contextlib.chdir(path):
            run_commands(README, capfd)

    shutil.copytree(shared("readme", make), folder, symlinks=True, dirs_exist_ok=True)
