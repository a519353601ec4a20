"""Modules in the precision of a graph that is exported."""

import copy
from typing import TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


def torch_dtype(precision: str) -> torch.dtype:
    """What convolutions and products are computed in."""
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def in_dtype(module: M, dtype: torch.dtype) -> M:
    """A module with its weights in `dtype`: a copy, or the module itself where they are already."""
    values = (value for value in module.state_dict().values() if value.is_floating_point())
    same = all(value.dtype == dtype for value in values)
    return module if same else copy.deepcopy(module).to(dtype)
