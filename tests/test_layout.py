"""The layout of docs/architecture.md that Import Linter's contracts do not cover.

`make lint` checks the contracts of pyproject.toml.
"""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vqtrt"
SOURCES = [
    path
    for folder in ("vqtrt", "tests", "benchmarks", "docs", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def contracts():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return config["tool"]["importlinter"]["contracts"]


def test_at_most_ten_modules_stand_at_the_top():
    modules = [path.name for path in PACKAGE.glob("*.py")]
    assert len(modules) <= 10, modules


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400


def test_the_contract_on_torch_covers_all_other_engines():
    (forbidden,) = (each for each in contracts() if each["type"] == "forbidden")
    engines = {path.stem for path in (PACKAGE / "engines").iterdir()} - {"__init__", "__pycache__"}
    covered = {name.removeprefix("vqtrt.engines.") for name in forbidden["source_modules"]}
    assert engines - covered == {"torch", "torch_bound"}


def test_no_contract_has_exceptions():
    for contract in contracts():
        assert "ignore_imports" not in contract
