"""What the commands are run on: pictures, and settings of a training of seconds."""

import json
from typing import Any

TINY = [
    "model.hidden=8",
    "model.residual_blocks=1",
    "model.residual_hidden=4",
    "model.quantizer.codebook_size=8",
    "model.quantizer.dim=4",
    "data.preprocessing.height=16",
    "data.preprocessing.width=16",
    "data.workers=1",
    "train.steps=4",
    "train.batch_size=4",
    "train.log_every=2",
    "train.evaluate_every=4",
    "train.checkpoint_every=2",
]
NAMES = ["a/1.png", "a/2.png", "b/1.png", "b/2.bmp", "c.png"]


def settings(*more: str) -> list[str]:
    return [part for setting in [*TINY, *more] for part in ("--set", setting)]


def encoded(out: str) -> dict[str, Any]:
    """What `encode --json` printed, without the shares of its time, which add up to 1."""
    told = json.loads(out)
    shares = told.pop("stages")
    assert list(shares) == ["read", "engine", "write"]
    assert abs(sum(shares.values()) - 1) < 0.03
    assert told.pop("bottleneck") == max(shares, key=shares.__getitem__)
    return told
