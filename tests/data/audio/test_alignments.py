from pathlib import Path

import pytest
from textgrids import write_textgrid

from vqtrt.data.audio.alignments import Alignments
from vqtrt.errors import AudioError, VqtrtError


def empty(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("p303/p303_001_mic1.flac", "p303/p303_001.TextGrid"),
        ("p303_001_mic2.flac", "p303/p303_001.TextGrid"),
        ("wav48/p303/p303_001.wav", "deep/er/p303_001.textgrid"),
        ("p303/p303_001_mic1.flac", "p303_001_mic1.TextGrid"),
        ("7_ann_3.wav", "7_ann_3.TextGrid"),
    ],
)
def test_by_the_stem(tmp_path, name, file):
    empty(tmp_path / file, tmp_path / "p303" / "p303_002.TextGrid", tmp_path / "p303_001.txt")
    assert Alignments(tmp_path).find(name) == tmp_path / file


def test_the_one_in_the_folder_of_the_same_name(tmp_path):
    empty(tmp_path / "ann" / "1.TextGrid", tmp_path / "bob" / "1.TextGrid")
    found = Alignments(tmp_path)
    assert found.find("bob/1.wav") == tmp_path / "bob" / "1.TextGrid"
    with pytest.raises(AudioError, match=r"cy/1\.wav: 2 alignments are named 1\.TextGrid"):
        found.find("cy/1.wav")


def test_no_alignment(tmp_path):
    empty(tmp_path / "p303_001.TextGrid")
    with pytest.raises(AudioError, match=r"^p303/p303_002_mic1\.flac: no p303_002\.TextGrid below"):
        Alignments(tmp_path).find("p303/p303_002_mic1.flac")


def test_intervals(tmp_path):
    intervals = [(0.0, 0.25, "sil"), (0.25, 1.5, "a"), (1.5, 2.0, "t")]
    write_textgrid(tmp_path / "1.TextGrid", intervals)
    assert Alignments(tmp_path).read("1.wav", 2.0) == intervals


def test_another_tier(tmp_path):
    write_textgrid(tmp_path / "1.TextGrid", [(0.0, 1.0, "a")], "segments")
    assert Alignments(tmp_path, "segments").read("1.wav", 1.0) == [(0.0, 1.0, "a")]
    with pytest.raises(AudioError, match=r"1\.TextGrid: has no tier phones, but segments"):
        Alignments(tmp_path).read("1.wav", 1.0)


@pytest.mark.parametrize("seconds", [1.91, 2.09])
def test_an_end_may_differ_a_little(tmp_path, seconds):
    write_textgrid(tmp_path / "1.TextGrid", [(0.0, 2.0, "a")])
    assert Alignments(tmp_path).read("1.wav", seconds) == [(0.0, 2.0, "a")]


@pytest.mark.parametrize("seconds", [1.89, 2.11, 60.0])
def test_an_alignment_that_does_not_fit_its_audio(tmp_path, seconds):
    write_textgrid(tmp_path / "1.TextGrid", [(0.0, 2.0, "a")])
    message = rf"1\.TextGrid: ends at 2\.00 s, but 1\.wav lasts {seconds:.2f} s"
    with pytest.raises(AudioError, match=message):
        Alignments(tmp_path).read("1.wav", seconds)


def test_an_alignment_without_intervals(tmp_path):
    write_textgrid(tmp_path / "1.TextGrid", [])
    with pytest.raises(AudioError, match=r"1\.TextGrid"):
        Alignments(tmp_path).read("1.wav", 1.0)


def test_no_folder_of_alignments(tmp_path):
    with pytest.raises(VqtrtError, match="no such folder"):
        Alignments(tmp_path / "nowhere")
    (tmp_path / "a.txt").touch()
    with pytest.raises(VqtrtError, match=r"holds no \.TextGrid files"):
        Alignments(tmp_path)
