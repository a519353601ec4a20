from collections import Counter

import pytest

from vqtrt.data.selection import Selection, add_kind, in_words, suffix_of
from vqtrt.errors import VqtrtError


@pytest.mark.parametrize(
    ("pattern", "matched", "other"),
    [
        ("*.jpg", ["1.jpg", "a/b/1.jpg"], ["1.JPG", "1.jpeg", "1.jpg.txt"]),
        ("train", ["train/1.jpg", "a/train/b/1.jpg"], ["trains/1.jpg", "a/strain/1.jpg"]),
        ("train/", ["train/1.jpg"], ["trains/1.jpg"]),
        ("train/*", ["train/1.jpg", "train/a/1.jpg"], ["a/train/1.jpg"]),
        ("/1.jpg", ["1.jpg"], ["a/1.jpg"]),
        ("./a/?.jpg", ["a/1.jpg"], ["a/12.jpg", "b/a/1.jpg"]),
        ("**/x/*.jpg", ["x/1.jpg", "a/b/x/1.jpg"], ["x.jpg", "ax/1.jpg"]),
        ("a/**.png", ["a/b/c.png"], ["b/c.png"]),
        ("[a-c][!0-9].png", ["ax.png"], ["a1.png", "dx.png"]),
        ("a[1.jpg", ["a[1.jpg"], ["a1.jpg"]),
        ("x+(y).jpg", ["x+(y).jpg"], ["xxy.jpg"]),
    ],
)
def test_patterns_match_as_in_a_gitignore(
    pattern: str, matched: list[str], other: list[str]
) -> None:
    judge = Selection(include=[pattern]).judge(lambda name: "")
    assert [judge(path, False) for path in matched] == [""] * len(matched)
    assert [judge(path, False) for path in other] == ["not included"] * len(other)
    judge = Selection(exclude=[pattern]).judge(lambda name: "")
    assert [judge(path, False) for path in matched] == ["excluded"] * len(matched)
    assert [judge(path, False) for path in other] == [""] * len(other)


def test_an_include_pattern_can_name_a_suffix_that_is_passed_over() -> None:
    own = {"1.txt": ".txt", "1.json": ".json"}.get
    judge = Selection(include=["*.txt", "*.png"]).judge(lambda name: own(name) or "")
    kinds = [judge(name, False) for name in ("1.txt", "1.json", "1.png", ".1.png", "._1.png")]
    assert kinds == ["", ".json", "", "hidden", "system"]


@pytest.mark.parametrize("pattern", ["", "/", "./", "[z-a]"])
def test_a_pattern_that_is_none(pattern: str) -> None:
    for options in ({"include": [pattern]}, {"exclude": [pattern]}):
        with pytest.raises(VqtrtError, match=f"--{next(iter(options))} .*pattern like"):
            Selection(**options)


def test_kinds_are_bounded_and_put_in_words() -> None:
    counts = Counter[str]()
    for number in range(1000):
        add_kind(counts, suffix_of(f"a/x.{number % 500}"))
    assert len(counts) == 101
    assert sum(counts.values()) == 1000
    assert counts["other"] == 800
    assert in_words({".a": 1, "system": 3, ".b": 1}) == "3 system, 1 .a, 1 .b"
    assert [suffix_of(name) for name in ("A.JPG", ".png", "a.", "a.b/c")] == [
        ".jpg",
        *["no suffix"] * 3,
    ]
