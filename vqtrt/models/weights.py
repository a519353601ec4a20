"""Weights as safetensors: written atomically, never unpickled."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqtrt.errors import VqtrtError
from vqtrt.system.atomic import replacing_file


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's parameters and buffers as safetensors, atomically."""
    save_tensors(module.state_dict(), path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote; names and shapes must be the module's own."""
    state = load_tensors(path)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise VqtrtError(f"{path}: these weights are of another model ({reason})") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically."""
    content = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    # A new name, then a rename: writing over a file that is mapped would destroy it.
    with replacing_file(path) as stage:
        try:
            save_file(content, stage)
        except SafetensorError as error:
            # What it makes of an OSError, whose number stands in the text alone.
            if code := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
            raise OSError(str(error)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise VqtrtError(f"{path}: not readable as safetensors ({error})") from error
