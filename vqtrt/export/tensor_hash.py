"""Tensors in a hash."""

import hashlib
from collections.abc import Iterable

import torch


def update_with(digest: "hashlib._Hash", tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Add the names, types, shapes and bytes of tensors to a hash."""
    for name, tensor in tensors:
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
