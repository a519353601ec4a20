"""What runs of the training loop are compared by."""

import json

import torch
from safetensors.torch import load_file


def with_train(config, **settings):
    return config.model_copy(update={"train": config.train.model_copy(update=settings)})


def figures(path):
    """The lines of metrics.jsonl without the one value that is a measurement of time."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def weights(path):
    return load_file(path / "model.safetensors")


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
