"""Checkpoints: safetensors and JSON, written under another name and renamed when complete.

A checkpoint is a folder `checkpoints/step-00001000/` with the model, the optimizer's tensors and
a small state. A crash at any moment leaves the checkpoint before it whole. Nothing is pickled.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vqtrt.errors import VqtrtError, unwritable
from vqtrt.models.weights import load_tensors, load_weights, save_tensors, save_weights
from vqtrt.system.atomic import remove_folder, replacing_folder, write_text

FORMAT_VERSION = 1
_NAME = re.compile(r"step-(\d{8})")


class Checkpoints:
    """The `checkpoints/` folder of a run, of which the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    @property
    def newest(self) -> Path:
        """The checkpoint of the most steps; there has to be one."""
        return self._path(self.steps()[-1])

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Path:
        """Write the checkpoint of `step` steps done, and remove the oldest beyond `keep`.

        Raises `VqtrtError` where it cannot be written; the checkpoints before it are then whole.
        """
        final = self._path(step)
        tensors, groups = _flatten(optimizer.state_dict())
        state = {"format_version": FORMAT_VERSION, "step": step, "param_groups": groups}
        # The scale of float16's gradients: part of what the next step does.
        state["scaler"] = scaler.state_dict() if scaler else None
        with replacing_folder(final) as stage:
            save_weights(model, stage / "model.safetensors")
            save_tensors(tensors, stage / "optimizer.safetensors")
            write_text(stage / "state.json", json.dumps(state, indent=1))
        try:
            for old in self.steps()[: -self.keep]:
                remove_folder(self._path(old))
        except OSError as error:
            raise unwritable(final, error) from error
        return final

    def load_newest(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
    ) -> int:
        """Restore the newest checkpoint; returns its step."""
        steps = self.steps()
        if not steps:
            raise VqtrtError(
                f"{self.folder}: no checkpoint to resume from; train again without --resume"
            )
        path = self.newest
        load_weights(model, path / "model.safetensors")
        tensors = load_tensors(path / "optimizer.safetensors")
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            if state["format_version"] > FORMAT_VERSION:
                raise VqtrtError(f"{path}: written by a newer vqtrt; upgrade to resume it")
            optimizer.load_state_dict(_unflatten(tensors, state["param_groups"]))
            if scaler and state.get("scaler"):
                scaler.load_state_dict(state["scaler"])
            step = int(state["step"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise VqtrtError(
                f"{path} is damaged ({reason}); remove it to resume from the one before it"
            ) from error
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                if value.shape == parameter.shape:
                    # In the parameter's order of memory (channels last): files know only one.
                    values[key] = torch.empty_like(parameter).copy_(value)
        return step

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"


def _flatten(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimizer's state as tensors named `PARAMETER.KEY`, and its groups as plain values."""
    tensors = {
        f"{parameter}.{key}": torch.as_tensor(value)
        for parameter, values in state["state"].items()
        for key, value in values.items()
    }
    return tensors, state["param_groups"]


def _unflatten(tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, key = name.split(".", 1)
        state.setdefault(int(parameter), {})[key] = value
    return {"state": state, "param_groups": groups}
