"""What users of command lines expect of any program."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from doubles import BLOCKED, vqtrt
from typer.testing import CliRunner

from vqtrt.cli import _PANELS, app
from vqtrt.commands.complete import prior_recipes, priors, recipes
from vqtrt.version import __version__

ROOT = Path(__file__).parents[1]
SHORT = {"--out": "-o", "--model": "-m", "--batch-size": "-b"}


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    program = typer.main.get_command(app)
    for name, command in program.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from ((f"{name} {below}", each) for below, each in command.commands.items())
        else:
            yield name, command


def test_version(capfd):
    assert vqtrt("--version") == 0
    assert capfd.readouterr().out == f"vqtrt {__version__}\n"


def test_help_lists_the_commands_in_the_order_of_work():
    assert [name for panel in _PANELS.values() for name in panel] == [
        *("train", "train-prior", "export"),
        *("encode", "decode", "sample", "convert"),
        *("plan", "merge"),
        *("eval", "verify", "probe"),
        *("info", "doctor", "shapes"),
    ]
    out = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).stdout
    places = [out.index(f"\u2500 {panel} \u2500") for panel in _PANELS]
    assert places == sorted(places)


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value)[:20])
def test_short_forms_and_help(name, command):
    for parameter in command.params:
        for option in parameter.opts:
            if option in SHORT:
                assert SHORT[option] in parameter.opts, name
        if not parameter.hidden and parameter.name != "help":
            assert parameter.help, (name, parameter.name)
    first = command.help.partition("\n")[0]
    assert first.endswith(".")
    assert len(first) <= 100


@pytest.mark.parametrize(
    ("words", "expected"),
    [("vqtrt enc", ["encode"]), ("vqtrt train cifar10-s", ["cifar10-small"])],
)
def test_the_shell_completes(words, expected):
    environment = {
        "_VQTRT_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "PYTHONPATH": str(ROOT),
    }
    program = "import sys; sys.argv[0] = 'vqtrt'; from vqtrt.cli import app; app(prog_name='vqtrt')"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert result.stdout.split() == expected


def test_what_is_completed(tiny_prior, monkeypatch, tmp_path):
    assert recipes("imagenet") == ["imagenet"]
    assert {"cifar10", "cifar10-small"} <= set(recipes("cifar10"))
    assert prior_recipes("pix") == ["pixelcnn"]
    context = typer.Context(typer.main.get_command(app), info_name="sample")
    context.params["model"] = tiny_prior
    assert priors(context, "") == sorted(path.name for path in (tiny_prior / "priors").iterdir())
    context.params["model"] = tmp_path
    assert priors(context, "") == []


@pytest.mark.parametrize("command", [["train", "shapes"], ["train-prior"], ["export"]])
def test_missing_torch_is_said_before_anything_is_announced(command, tmp_path, tiny_run):
    program = f"{BLOCKED}\nmain()"
    result = subprocess.run(
        [sys.executable, "-c", program, *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"VQTRT_MODEL": str(tiny_run), "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        'error: torch is not installed, which this command needs: pip install "vqtrt[train]"'
    ]
    assert list(tmp_path.iterdir()) == []
