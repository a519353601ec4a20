"""`benchmarks/scale.py` on a few pictures; by hand it runs on data sets."""

import importlib.util
import sys
from pathlib import Path

import pytest
from doubles import write_pictures

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_all_forms_of_a_few_pictures(tiny_bundle, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("scale", ROOT / "benchmarks/scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pictures = write_pictures(tmp_path / "pics", *(f"{c}/{n}.png" for c in "ab" for n in range(9)))
    options = ["--model", str(tiny_bundle), "--size", "16", "--repeat", "1", "--shard-size", "5"]
    monkeypatch.setattr(sys, "argv", ["scale.py", str(pictures), *options])
    with pytest.raises(SystemExit) as ended:
        module.main()
    out = capsys.readouterr().out
    assert ended.value.code == 0, out
    assert out.count("codes equal: True; names and labels equal: True") == 3
    assert len({line[-12:] for line in out.splitlines() if "SHA-256" in line}) == 1
    assert out.count("\n| ") == 5
