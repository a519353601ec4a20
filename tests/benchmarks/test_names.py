"""A script's folder comes first on Python's path: a script's name must be no package's."""

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PACKAGES = {"cuda", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "torch"}
"""Packages that need not be installed where the tests run."""


def test_no_script_hides_a_package() -> None:
    names = {path.stem for path in BENCHMARKS.glob("*.py")}
    assert len(names) > 5
    assert not names & (PACKAGES | set(packages_distributions()) | set(sys.stdlib_module_names))
