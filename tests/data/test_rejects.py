from pathlib import Path

import pytest
from doubles import picture

from vqtrt.data.images.decode import decode_image
from vqtrt.data.rejects import reject_kind, reject_kinds
from vqtrt.errors import ImageError


@pytest.mark.parametrize(
    ("name", "message", "kind"),
    [
        (
            "s1/a.WAV",
            "/data/s1/a.WAV: is no audio that can be read, or is damaged (it ends after 5 of 16 "
            "samples); replace or remove it",
            ".wav: it ends after N of N samples",
        ),
        ("s1/a.wav", "/data/s1/a.wav: is empty; remove it", ".wav: is empty"),
        ("x.npy[3]", "x.npy[3]: too elongated to resize: 1 x 9 pixels; leave it out", None),
        ("a", "said in some other way", "no suffix: said in some other way"),
        ("a.b", "a.b: " + "z" * 500, f".b: {'z' * 79}…"),
    ],
)
def test_kind_of_a_message(name: str, message: str, kind: str | None) -> None:
    assert reject_kind(name, message) == (kind or ".npy: too elongated to resize: N x N pixels")


def test_kinds_of_what_the_decoder_says(tmp_path: Path) -> None:
    picture(0, (64, 64)).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut (1): a.png").write_bytes(content[:5000])
    (tmp_path / "cut2.png").write_bytes(content[:4900])
    (tmp_path / "t.png").write_text("text")
    found = []
    for name in ("cut (1): a.png", "cut2.png", "t.png", "gone.png"):
        with pytest.raises(ImageError) as caught:
            decode_image(tmp_path / name)
        found.append((name, str(caught.value)))
    kinds = reject_kinds(found)
    assert sorted(kinds.values()) == [1, 1, 2]
    assert kinds[".png: no known image format"] == 1
    assert kinds[".png: No such file or directory"] == 1
