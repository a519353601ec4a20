import json

import pytest
import typer

from vqtrt.commands import terminal
from vqtrt.errors import VqtrtError

NASTY = "a\nb\r\tc\x1b[31mred\x07 \u202e \udcff :star: [bold]x[/]"


def command(error: Exception):
    """A command line whose command `go` raises `error`."""
    app = typer.Typer(cls=terminal.Commands)

    @app.callback()
    def nothing() -> None: ...

    @app.command()
    def go() -> None:
        raise error

    return typer.main.get_command(app)


def test_an_error_is_one_printable_line(capsys):
    terminal.fail(NASTY)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: a b c\\x1b[31mred\\x07 \\u202e \\udcff :star: [bold]x[/]")
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()


def test_a_note_is_one_line_on_standard_error(capsys):
    terminal.note(NASTY + "x" * 500)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.rstrip("\n").isprintable()
    assert ":star: [bold]x[/]" in err


def test_show_as_json_is_one_object(capsys):
    figures = {"a": 1.5, "b": None, "c": [1, 2], "d": {"e": NASTY}}
    terminal.show(figures, True)
    out, err = capsys.readouterr()
    assert json.loads(out) == figures
    assert out.count("\n") == 1
    assert err == ""


def test_show_is_a_line_a_figure(capsys):
    terminal.show(
        {
            "mse": 0.00012345678,
            "count": 12345678,
            "none": None,
            "shape": [4, 4],
            "empty": [],
            "model": {"path": "x\ny", "more": {"deep": True}},
        },
        False,
    )
    out, _ = capsys.readouterr()
    assert out.splitlines() == [
        "mse              0.000123457",
        "count            12345678",
        "none             -",
        "shape            4, 4",
        "empty            -",
        "model.path       x\\ny",
        "model.more.deep  True",
    ]


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("matplotlib", "train"), ("soundfile", "speech"), ("soxr", "speech")],
)
def test_a_missing_package_is_named_with_its_extra(module, extra):
    with pytest.raises(VqtrtError) as caught:
        command(ModuleNotFoundError(name=f"{module}.deep"))(["go"], standalone_mode=False)
    hint = f'{module} is not installed, which this command needs: pip install "vqtrt[{extra}]"'
    assert str(caught.value) == hint


def test_another_missing_module_is_a_mistake_of_ours():
    with pytest.raises(ModuleNotFoundError):
        command(ModuleNotFoundError(name="vqtrt.nothing"))(["go"], standalone_mode=False)
