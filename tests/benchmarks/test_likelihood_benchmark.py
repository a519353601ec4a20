"""`benchmarks/likelihood.py` with a step a run; by hand it trains for an hour and more."""

import contextlib
import io
import sys

import likelihood
import pytest
from doubles import vqtrt, write_pictures


class Inline:
    """In place of threads: a command has to run in the main one."""

    def __init__(self, jobs: int) -> None:
        assert jobs == 2

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    map = staticmethod(map)


def inside(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert vqtrt(*arguments) == 0
    return out.getvalue()


@pytest.mark.slow
def test_a_row_for_each_model(tmp_path, monkeypatch, capsys):
    for part in ("train", "test"):
        names = (f"{label}/{n}.png" for label in "ab" for n in range(10))
        write_pictures(tmp_path / part, *names, size=(32, 32))
    monkeypatch.setattr(likelihood, "ThreadPoolExecutor", Inline)
    monkeypatch.setattr(likelihood, "vqtrt", inside)
    told = [str(tmp_path), str(tmp_path / "work"), "--scale", "1e-9"]
    monkeypatch.setattr(sys, "argv", ["likelihood.py", *told, "--plot", str(tmp_path / "x.png")])
    likelihood.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "8x8" in line]
    assert [row[0].removeprefix("| ") for row in rows] == [kind.name for kind in likelihood.KINDS]
    for row in rows:
        parts, cost, bound = map(float, row[4:7])
        assert parts + cost == pytest.approx(bound, abs=2e-3)
        assert 4 < parts < 12
        # Several samples for the baselines, a trained prior for the codes.
        assert (row[8] == "-") is row[0].startswith("| VQ")
        assert (row[9].rstrip(" |") == "-") is not row[0].startswith("| VQ")
    assert (tmp_path / "x.png").stat().st_size > 1000
