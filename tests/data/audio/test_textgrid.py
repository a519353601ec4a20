import os
import time
from pathlib import Path

import pytest
from textgrids import write_textgrid

from vqtrt.data.audio import textgrid
from vqtrt.data.audio.textgrid import Interval, read_intervals
from vqtrt.errors import AudioError

LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.3 ! seconds, "of course"
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 2.3
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2.3
            text = "say ""ah"" ! 12"
    item [2]:
        class = "TextTier"
        name = "bells"
        xmin = 0
        xmax = 2.3
        points: size = 2
        points [1]:
            number = 0.5
            mark = "ding"
        points [2]:
            number = 1.5
            mark = "dong"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 2.3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 1.5e0
            text = "tʃ"
        intervals [3]:
            xmin = 1.75
            xmax = 2.3
            text = "sil"
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
2.3
<exists>
3
"IntervalTier"
"words"
0
2.3
1
0
2.3
"say ""ah"" ! 12"
"TextTier"
"bells"
0
2.3
2
0.5
"ding"
1.5
"dong"
"IntervalTier"
"phones"
0
2.3
3
0
0.25
""
0.25
1.5
"tʃ"
1.75
2.3
"sil"
"""
PHONES = [Interval(0, 0.25, ""), Interval(0.25, 1.5, "tʃ"), Interval(1.75, 2.3, "sil")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.TextGrid"


@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_both_forms_in_every_encoding(path, text, encoding, newline):
    path.write_text(text, encoding=encoding, newline=newline)
    assert read_intervals(path) == PHONES
    assert read_intervals(path, "words") == [Interval(0, 2.3, 'say "ah" ! 12')]


def test_big_endian_utf16(path):
    path.write_bytes(b"\xfe\xff" + LONG.encode("utf-16-be"))
    assert read_intervals(path) == PHONES


def test_the_old_short_form(path):
    old = SHORT.replace('"ooTextFile"', '"ooTextFile short"').replace("Object class = ", "")
    path.write_text(old, encoding="utf-8")
    assert read_intervals(path) == PHONES


def test_a_tier_without_intervals(path):
    write_textgrid(path, [])
    assert read_intervals(path) == []


def test_rounded_times_may_overlap_by_nothing(path):
    write_textgrid(path, [(0, 0.30000000000000004, "a"), (0.3, 0.3, "b"), (0.3, 1, "c")])
    assert [text for *_, text in read_intervals(path)] == ["a", "b", "c"]


def fails(path: Path, message: str, tier: str = "phones") -> None:
    with pytest.raises(AudioError, match=message) as caught:
        read_intervals(path, tier)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_tier(path):
    path.write_text(LONG, encoding="utf-8")
    fails(path, "has no tier phone, but words, bells, phones; name one with", "phone")
    fails(path, "its tier bells holds points", "bells")


def test_many_tiers_are_not_all_listed(path):
    head = '"ooTextFile" "TextGrid" 0 1 <exists> 30 '
    path.write_text(head + "".join(f'"IntervalTier" "t{i}" 0 1 0 ' for i in range(30)))
    fails(path, "but t0, .*, t9 and 20 more; name")


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        ([(0, 1, "a"), (0.9, 2, "b")], r"interval 2 \(b\) begins at 0.9 s, before .* at 1 s"),
        ([(0, 1, "a"), (2, 1.5, "b")], r"interval 2 \(b\) runs backwards, from 2 to 1.5 s"),
        ([(1, 2, "a"), (0, 1, "b")], r"interval 2 \(b\) begins at 0 s"),
    ],
)
def test_intervals_follow_one_another(path, intervals, message):
    write_textgrid(path, intervals)
    fails(path, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"ooTextFile"', '"else"', "is no TextGrid; give one"),
        ('"TextGrid"', '"Pitch 1"', "holds a Pitch 1, not a TextGrid"),
        ("size = 3\nitem", "size = 4\nitem", "ends too soon"),
        ("size = 3\nitem", "size = 2.5\nitem", "number of tiers .it is 2.5"),
        ("size = 3\nitem", "size = -1\nitem", "number of tiers .it is -1"),
        ("intervals: size = 1\n", "intervals: size = 999999999\n", "interval 2 of 999999999"),
        ("xmin = 0.25", "xmin = soon", "a text is where a number has to be"),
        ('text = "sil"', "text = 7", "a number is where a text has to be"),
        ('text = "sil"', 'text = "sil', "a quote is not closed"),
        ("xmax = 1.5e0", "xmax = 1e999", "a number is too large"),
        ("xmax = 1.5e0", "xmax = nan", "a text is where a number"),
    ],
)
def test_damage_is_found(path, old, new, message):
    assert LONG.count(old) == 1
    path.write_text(LONG.replace(old, new), encoding="utf-8")
    fails(path, message, "phones" if "size = 4" not in new else "none")


@pytest.mark.parametrize("end", range(0, len(SHORT) - 1, 29))
def test_a_file_that_is_cut_off(path, end):
    path.write_text(SHORT[:end], encoding="utf-8")
    fails(path, "is no TextGrid")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends too soon"),
        (b"ooBinaryFile\x08TextGrid", "binary; save it as text"),
        (LONG.encode("latin-1", "replace") + b"\xe9", "neither UTF-8 nor UTF-16"),
        (b"\xff\xfe\x00", "neither UTF-8 nor UTF-16"),
        (bytes(range(255, 0, -1)), "neither UTF-8|is no TextGrid"),
    ],
    ids=["empty", "binary", "latin-1", "half a letter", "noise"],
)
def test_what_is_no_text(path, data, message):
    path.write_bytes(data)
    fails(path, message)


def test_missing(path):
    fails(path, "no such file")
    fails(path.parent, "Is a directory")
    os.mkfifo(path)
    fails(path, "it is a pipe, not a regular file")


def test_size_is_bounded(path, monkeypatch):
    monkeypatch.setattr(textgrid, "_MAX_BYTES", 1000)
    path.write_text(LONG, encoding="utf-8")
    fails(path, "is larger than")


@pytest.mark.parametrize("text", ['"' * 400_001, '" ' * 200_001, "1" * 400_000, "!" * 400_000])
def test_time_grows_with_the_file_and_no_more(path, text):
    path.write_text(text)
    start = time.process_time()
    fails(path, "is no TextGrid")
    assert time.process_time() - start < 5


def tiers(path: Path, *names: str, points: bool = False) -> Path:
    """A TextGrid in the short form, whose tiers hold their own number."""
    kind = "TextTier" if points else "IntervalTier"
    lines = ["ooTextFile", "TextGrid", 0, 1, len(names)]
    for number, name in enumerate(names):
        lines += [kind, name, 0, 1, 1, 0, *([] if points else [1]), f"t{number}"]
    path.write_text(
        "\n".join(str(x) if x in (0, 1) or isinstance(x, int) else f'"{x}"' for x in lines)
    )
    return path


@pytest.mark.parametrize(
    ("names", "tier", "expected"),
    [
        (("ann - words", "ann - phones"), "phones", "t1"),
        (("ann - words", "ann - phones"), "ann - *ones", "t1"),
        (("words", "p1", "phones"), "phone?", "t2"),
        (("a - phones", "phones"), "phones", "t1"),  # the name itself comes first
        (("phones", "phones"), "phones", "t0"),
        (("b", "[ab]"), "[ab]", "t1"),
        (("b", "words"), "[ab]", "t0"),
    ],
)
def test_a_tier_by_its_pattern(
    tmp_path: Path, names: tuple[str, ...], tier: str, expected: str
) -> None:
    path = tiers(tmp_path / "a.TextGrid", *names)
    assert read_intervals(path, tier) == [Interval(0, 1, expected)]


def test_several_tiers_that_match(tmp_path: Path) -> None:
    path = tiers(tmp_path / "a.TextGrid", "ann - phones", "words", "bob - phones", "cy - phones")
    message = "3 tiers that match phones: ann - phones, bob - phones, cy - phones; name one"
    with pytest.raises(AudioError, match=message):
        read_intervals(path)
    assert read_intervals(path, "bob - phones") == [Interval(0, 1, "t2")]
    with pytest.raises(AudioError, match="has no tier megaphones, but ann - phones, words"):
        read_intervals(path, "megaphones")
    points = tiers(tmp_path / "b.TextGrid", "ann - phones", points=True)
    with pytest.raises(AudioError, match="has no tier phones"):
        read_intervals(points)
