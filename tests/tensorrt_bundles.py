"""Bundles with engines of both packages, as the stand-ins for TensorRT run them."""

import shutil

import numpy as np
from tensorrt_doubles import build

from vqtrt.formats.bundle import Bundle

SIZES = {"batch": (1, 4), "h": (2, 6), "w": (2, 6), "height": (4, 4), "width": (4, 4)}
PACKAGES = ["tensorrt", "tensorrt-rtx"]


def copied(folder, tmp_path, **sizes):
    """A bundle of one's own, with the engines of both packages."""
    shutil.copytree(folder, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    for package in PACKAGES:
        build(bundle, package, SIZES | sizes)
    return bundle


def pictures(n, height=8, width=12):
    return np.random.default_rng(n).integers(256, size=(n, height, width, 3), dtype=np.uint8)
