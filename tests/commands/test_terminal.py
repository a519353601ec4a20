import json

import pytest
import typer
from rich.console import Console

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


def test_no_bars_in_a_log(capfd):
    with terminal.counting("counting") as counter:
        for done in range(5):
            counter(done, 5)
    with terminal.waiting("waiting"):
        pass
    assert capfd.readouterr() == ("", "")


def test_training_is_a_line_a_report_in_a_log(capsys, tmp_path):
    bar = terminal.TrainingBar()
    bar.started(0, 10)
    bar.advanced(5)
    bar.reported(5, {"loss": 1.5, "reconstruction": 1.25, "images_per_second": 1234.5})
    figures = {"mse": 0.1, "nmse": 0.25, "psnr": None, "perplexity": 3.0, "usage": 0.5}
    bar.evaluated(5, figures, tmp_path / "grid.png")
    bar.stop()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 5  loss 1.5  reconstruction 1.25  1,234 images/s",
        f"step 5  held out: mse 0.1  nmse 0.25  perplexity 3  usage 0.5  {tmp_path / 'grid.png'}",
    ]


def test_a_slow_rate_keeps_its_digits(capsys):
    bar = terminal.TrainingBar()
    bar.started(0, 10)
    bar.reported(5, {"crops_per_second": 3.4567})
    bar.stop()
    assert capsys.readouterr().err == "step 5  3.46 crops/s\n"


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("matplotlib", "train"), ("soundfile", "speech"), ("soxr", "speech")],
)
def test_a_missing_package_is_named_with_its_extra(module, extra):
    with pytest.raises(VqtrtError) as caught:
        command(ModuleNotFoundError(name=f"{module}.deep"))(["go"], standalone_mode=False)
    hint = f'{module} is not installed, which this needs: pip install "vqtrt[{extra}]"'
    assert str(caught.value) == hint


def test_another_missing_module_is_a_mistake_of_ours():
    with pytest.raises(ModuleNotFoundError):
        command(ModuleNotFoundError(name="vqtrt.nothing"))(["go"], standalone_mode=False)


def test_a_resumed_training_says_where(capsys):
    bar = terminal.TrainingBar()
    bar.started(7, 10)
    bar.stop()
    assert capsys.readouterr().err == "resumed at step 7\n"


@pytest.mark.parametrize("total", [None, 5])
def test_a_bar_in_a_terminal(monkeypatch, total):
    console = Console(force_terminal=True, width=100, stderr=True, record=True)
    monkeypatch.setattr(terminal, "console", console)
    with terminal.counting("counting", total) as counter:
        counter(5) if total else counter(5, 5)
    assert "counting" in (text := console.export_text())
    assert "5/5" in text
