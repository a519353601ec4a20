import pickle
import shutil

import pytest
import torch
from run_files import new_run

from vqtrt.errors import VqtrtError
from vqtrt.models.runs import ImageRun


def test_open_something_else(tmp_path):
    with pytest.raises(VqtrtError, match=r"no config\.yaml"):
        ImageRun.open(tmp_path)


def test_load_model(tiny_run):
    model = ImageRun.open(tiny_run).load_model()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        assert model.encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 8, 4, 4)


def test_a_run_without_weights_says_how_to_go_on(tmp_path, make_config):
    run = new_run(tmp_path / "run", make_config())
    with pytest.raises(VqtrtError, match=r"no weights yet: `vqtrt train --resume"):
        run.load_model()


def test_a_pickle_named_safetensors_is_refused(tmp_path, make_config):
    run = new_run(tmp_path / "run", make_config())
    run.weights.write_bytes(pickle.dumps({"encoder.0.weight": [1.0]}))
    with pytest.raises(VqtrtError, match="not readable as safetensors"):
        run.load_model()


def test_weights_of_another_model(tmp_path, tiny_run, make_config):
    run = new_run(tmp_path / "run", make_config(codebook_size=32))
    shutil.copy(tiny_run / "model.safetensors", run.weights)
    with pytest.raises(VqtrtError, match="of another model") as error:
        run.load_model()
    assert "\n" not in str(error.value)
