import json
import pickle
import shutil

import pytest
import torch

from vqtrt.errors import VqtrtError
from vqtrt.training.run import MetricsFile, Run


def test_create_writes_the_settings(tmp_path, make_config):
    config = make_config()
    run = Run.create(tmp_path / "a" / "run", config)
    assert Run.open(run.path).config == config
    (tmp_path / "empty").mkdir()
    Run.create(tmp_path / "empty", config)


def test_a_folder_that_holds_something_is_refused(tmp_path, make_config):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(VqtrtError, match="exists already: pass --resume"):
        Run.create(tmp_path, make_config())
    with pytest.raises(VqtrtError, match="exists already"):
        Run.create(tmp_path / "thesis.txt", make_config())
    with pytest.raises(VqtrtError, match="cannot be written"):
        Run.create(tmp_path / "thesis.txt" / "run", make_config())


def test_open_something_else(tmp_path):
    with pytest.raises(VqtrtError, match=r"no config\.yaml"):
        Run.open(tmp_path)


def test_load_model(tiny_run):
    model = Run.open(tiny_run).load_model()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        assert model.encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 8, 4, 4)


def test_a_run_without_weights_says_how_to_go_on(tmp_path, make_config):
    run = Run.create(tmp_path / "run", make_config())
    with pytest.raises(VqtrtError, match=r"no weights yet: `vqtrt train --resume"):
        run.load_model()


def test_a_pickle_named_safetensors_is_refused(tmp_path, make_config):
    run = Run.create(tmp_path / "run", make_config())
    run.weights.write_bytes(pickle.dumps({"encoder.0.weight": [1.0]}))
    with pytest.raises(VqtrtError, match="not readable as safetensors"):
        run.load_model()


def test_weights_of_another_model(tmp_path, tiny_run, make_config):
    run = Run.create(tmp_path / "run", make_config(codebook_size=32))
    shutil.copy(tiny_run / "model.safetensors", run.weights)
    with pytest.raises(VqtrtError, match="of another model") as error:
        run.load_model()
    assert "\n" not in str(error.value)


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
