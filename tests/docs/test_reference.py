"""The pages of docs/reference say what the code says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def rows(page: str) -> dict[str, list[list[str]]]:
    """The rows of a page's tables by the heading above them, without the tables' own heads."""
    found: dict[str, list[list[str]]] = {}
    for line in (REFERENCE / page).read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith(("| --- ", "| name ", "| key ")):
            found.setdefault(heading, []).append(line.strip("| ").split(" | "))
    return found


def test_the_pages_are_up_to_date():
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_an_option_has_its_type_default_and_meaning():
    options = {cells[0]: cells[1:] for cells in rows("cli.md")["vqtrt encode"]}
    assert options["`PATH`"][:2] == ["text", "required"]
    assert options["`--out`, `-o`"][:2] == ["path", "required"]
    assert options["`--model`, `-m`"][0] == "path"
    assert options["`--model`, `-m`"][1].startswith("$VQTRT_MODEL")
    assert options["`--precision`"][:2] == ["`fp32`, `fp16`, `bf16`", "`fp32`"]
    assert options["`--batch-size`, `-b`"][:2] == ["int, at least 1", "64 images or 16 clips"]
    assert options["`--level-db`"][:2] == ["float, -80 to 0", "none"]
    assert options["`--resume`"][:2] == ["flag", "off"]
    assert options["`--include`"][:2] == ["text", "all"]
    assert r"'\*.jpg'" in options["`--include`"][2]


def test_a_setting_has_its_type_default_and_meaning():
    page = rows("settings.md")
    train = {cells[0]: cells[1:] for cells in page["Images: `train`"]}
    assert train["`train.learning_rate`"][:2] == ["float, above 0", "`0.0002`"]
    assert train["`train.clip_norm`"][:2] == ["float, above 0", "`null`"]
    assert train["`train.seed`"][:2] == ["int, at least 0, below 2^63", "`0`"]
    assert train["`train.schedule`"][:2] == ["`constant`, `cosine`", "`constant`"]
    speech = {cells[0]: cells[1:] for cells in page["Speech: `model`"]}
    assert speech["`model.strides`"][:2] == ["list of int", "`[2, 2, 2, 2, 2, 2]`"]
    assert speech["`model.front`"][:2] == ["group", "`null`"]
    assert "(#images-modelquantizer)" in speech["`model.quantizer`"][2]
    assert page["Speech: `model.decoder`, conv"][0][0] == "`model.decoder.kind`"
    assert "Speech: `train`" not in page  # that of images, which is linked


def test_every_option_and_setting_has_a_meaning():
    for page in ("cli.md", "settings.md"):
        for heading, table in rows(page).items():
            assert [cells[0] for cells in table if len(cells) < 4 or not cells[3]] == [], heading
