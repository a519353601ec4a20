"""What a wheel holds, and what it asks for."""

import importlib.metadata
import itertools
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from vqtrt.version import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["optional-dependencies"].items()
}
BASE = [Requirement(text) for text in PROJECT["dependencies"]]
NOT_IN_THE_BASE = {"torch", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxscript", "safetensors"}
INSTALLED_TOGETHER = ("cpu", "rtx", "speech", "train", "docs", "dev")
"""The extras of `make install`, at the versions of constraints.txt."""


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
        assert match, f"not NAME==VERSION: {line!r}"
        found[canonicalize_name(match[1])] = match[2]
    assert len(found) == len(lines)
    return found


def needed(requirements: list[Requirement]) -> list[Requirement]:
    """These and what they need in turn, by the metadata of what is installed here."""
    found: list[Requirement] = []
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = list(requirements)
    while pending:
        requirement = pending.pop()
        found.append(requirement)
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        extras = ["", *requirement.extras]
        for text in importlib.metadata.requires(requirement.name) or []:
            below = Requirement(text)
            if not below.marker or any(below.marker.evaluate({"extra": e}) for e in extras):
                pending.append(below)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """The names of the files in a wheel, built from a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "vqtrt", source / "vqtrt", ignore=shutil.ignore_patterns("__pycache__"))
    # What else lies in a checkout must stay out.
    for name in ("tests", "benchmarks", "docs", "demo", "runs"):
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, source],
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_a_wheel_holds_the_package_alone(wheel):
    info = f"vqtrt-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in wheel} == {"vqtrt", info}
    modules = {
        path.relative_to(ROOT).as_posix()
        for pattern in ("*.py", "py.typed", "recipes/*.yaml", "recipes/priors/*.yaml")
        for path in (ROOT / "vqtrt").rglob(pattern)
    }
    assert {"vqtrt/py.typed", "vqtrt/recipes/shapes.yaml"} < modules
    assert {name for name in wheel if name.startswith("vqtrt/")} == modules
    assert {f"{info}/entry_points.txt", f"{info}/licenses/LICENSE"} < set(wheel)


def test_every_folder_of_modules_is_a_package():
    for path in (ROOT / "vqtrt").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path


def test_the_base_brings_no_torch_and_no_runtime():
    assert names(BASE) & NOT_IN_THE_BASE == set()
    assert names(needed(BASE)) & NOT_IN_THE_BASE == set()


def test_constraints_pin_all_that_an_installation_brings():
    pinned = pins()
    wanted = needed([*BASE, *itertools.chain.from_iterable(EXTRAS[e] for e in INSTALLED_TOGETHER)])
    assert names(wanted) - set(pinned) == set()
    for requirement in wanted:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} {version}"


def test_no_extra_brings_both_onnxruntimes():
    both = {"onnxruntime", "onnxruntime-gpu"}
    for name, requirements in EXTRAS.items():
        assert len(names(requirements) & both) <= 1, name
    together = itertools.chain.from_iterable(EXTRAS[name] for name in INSTALLED_TOGETHER)
    assert names(needed(list(together))) & both == {"onnxruntime"}
    assert not both <= set(pins())
    assert names(EXTRAS["cpu"]) & both == {"onnxruntime"}
    assert names(EXTRAS["gpu"]) & both == {"onnxruntime-gpu"}
