import pytest
from rich.console import Console

from vqtrt.commands import bars, terminal


def test_no_bars_in_a_log(capfd):
    with bars.counting("counting") as counter:
        for done in range(5):
            counter(done, 5)
    with bars.waiting("waiting"):
        pass
    assert capfd.readouterr() == ("", "")


def test_training_is_a_line_a_report_in_a_log(capsys, tmp_path):
    bar = bars.TrainingBar()
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
    bar = bars.TrainingBar()
    bar.started(0, 10)
    bar.reported(5, {"crops_per_second": 3.4567})
    bar.stop()
    assert capsys.readouterr().err == "step 5  3.46 crops/s\n"


def test_a_resumed_training_says_where(capsys):
    bar = bars.TrainingBar()
    bar.started(7, 10)
    bar.stop()
    assert capsys.readouterr().err == "resumed at step 7\n"


@pytest.mark.parametrize("total", [None, 5])
def test_a_bar_in_a_terminal(monkeypatch, total):
    console = Console(force_terminal=True, width=100, stderr=True, record=True)
    monkeypatch.setattr(terminal, "console", console)
    with bars.counting("counting", total) as counter:
        counter(5) if total else counter(5, 5)
    assert "counting" in (text := console.export_text())
    assert "5/5" in text
