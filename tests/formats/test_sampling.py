from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vqtrt.errors import VqtrtError
from vqtrt.formats.sampling import SAMPLING_INPUTS, SamplingParams, sampling_inputs


def test_every_parameter_has_a_help_text():
    assert all(each.metadata["help"].endswith(".") for each in fields(SamplingParams))


def test_inputs_of_step_graphs():
    plain = [(each.name, each.dtype, each.shape) for each in sampling_inputs(filters=False)]
    assert plain == [("temperature", "float32", (1,))]
    filters = [(each.name, each.dtype, each.shape) for each in sampling_inputs(filters=True)]
    assert filters == [*plain, ("top_k", "int32", (1,)), ("top_p", "float32", (1,))]
    assert SAMPLING_INPUTS == ("temperature", "top_k", "top_p")


@pytest.mark.parametrize(
    ("params", "step"),
    [
        (SamplingParams(), "step"),
        (SamplingParams(temperature=0.5, seed=7), "step"),
        (SamplingParams(top_k=3), "step_filtered"),
        (SamplingParams(top_p=0.9), "step_filtered"),
    ],
)
def test_the_step_graph_that_draws(params, step):
    assert params.step == step


def test_parameters_are_written_where_a_graph_has_them():
    inputs: dict[str, NDArray[Any]] = {
        "temperature": np.zeros(1, np.float32),
        "top_k": np.zeros(1, np.int32),
        "top_p": np.zeros(1, np.float32),
    }
    SamplingParams(temperature=0.5, top_p=0.25).write(inputs, 16)
    assert {name: array[0] for name, array in inputs.items()} == {
        "temperature": 0.5,
        "top_k": 16,
        "top_p": 0.25,
    }
    only: dict[str, NDArray[Any]] = {"temperature": np.zeros(1, np.float32)}
    SamplingParams(top_k=2).write(only, 16)
    assert only["temperature"][0] == 1


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top-k"),
        ({"top_k": 17}, "top-k"),
        ({"top_p": 0}, "top-p"),
        ({"top_p": 1.5}, "top-p"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_values_out_of_range(wrong, name):
    with pytest.raises(VqtrtError, match=f"^{name} "):
        SamplingParams(**wrong).check(16)
