from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vqtrt.errors import VqtrtError
from vqtrt.formats.origin import of_another, require_origin, warn_of_others

HEADER: Any = SimpleNamespace(weights_sha256="a", model={"path": "runs/other"})


def test_codes_of_this_tokenizer_and_codes_that_do_not_say():
    notes: list[str] = []
    for header in (HEADER, None):
        assert not of_another(header, "a")
        require_origin(Path("c.npy"), header, "a", "images")
        warn_of_others(Path("c.npy"), header, "a", notes.append)
    assert notes == []


def test_codes_of_another_tokenizer():
    assert of_another(HEADER, "b")
    with pytest.raises(VqtrtError, match=r"c\.npy: .*another tokenizer.*images"):
        require_origin(Path("c.npy"), HEADER, "b", "images")
    notes: list[str] = []
    warn_of_others(Path("c.npy"), HEADER, "b", notes.append)
    assert notes == ["warning: another model made c.npy: runs/other"]
