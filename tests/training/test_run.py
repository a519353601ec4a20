import json

import pytest

from vqtrt.errors import VqtrtError
from vqtrt.training.run import MetricsFile, require_new


def test_a_new_or_empty_folder_takes_a_run(tmp_path):
    require_new(tmp_path / "a" / "run", "--out")
    (tmp_path / "empty").mkdir()
    require_new(tmp_path / "empty", "--out")


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(VqtrtError, match=r"exists already: pass --resume .* --out"):
        require_new(tmp_path, "--out")
    with pytest.raises(VqtrtError, match="exists already"):
        require_new(tmp_path / "thesis.txt", "--out")
    with pytest.raises(VqtrtError, match="cannot be written"):
        require_new(tmp_path / "thesis.txt" / "run", "--out")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_on_disk_line_by_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, 0)
    metrics.write({"step": 1, "loss": 0.5})
    assert lines(path) == [{"step": 1, "loss": 0.5}]
    metrics.close()


def test_a_resumed_run_drops_the_steps_that_it_does_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 9)))
    metrics = MetricsFile(path, 5)
    metrics.write({"step": 6, "loss": 1.0})
    metrics.close()
    assert lines(path) == [*({"step": step} for step in range(1, 6)), {"step": 6, "loss": 1.0}]


@pytest.mark.parametrize(
    "torn",
    [
        '{"step": 3, "lo',
        '{"step": 3, "evaluation": {"psnr": 1.0}',
        "{}",
        "\0\0\0\0",
        '{"step": 3, "loss": 1.0',
        "}",
        "3",
    ],
)
def test_a_torn_line_is_passed_over(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n' + torn)
    MetricsFile(path, 2).close()
    assert path.read_text() == '{"step": 2}\n'
