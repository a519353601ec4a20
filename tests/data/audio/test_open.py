import os
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile

from vqtrt.data.audio.decode import AudioPreprocessing
from vqtrt.data.audio.folder import VCTK, AudioFolder, conversion_hint
from vqtrt.data.audio.open import open_speech, speaker_note
from vqtrt.data.folder import passed_over
from vqtrt.data.source import Item
from vqtrt.data.suffixes import READ_AUDIO
from vqtrt.errors import AudioError, VqtrtError

SAME = AudioPreprocessing(sample_rate=8000)
DIGITS = r"^(?:.*/)?\d_(?P<speaker>[a-z]+)_\d+"


def put(root: Path, *names: str) -> Path:
    """Recordings of as many samples as their names have letters."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form = {".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}.get(path.suffix.lower(), "WAV")
        soundfile.write(path, np.full(len(name), 0.25), 8000, format=form)
    return root


def write(path: Path, text: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def labels(source) -> dict[str, str | None]:
    """Speakers by the names of their recordings."""
    return {
        item.name: None if item.label < 0 else source.classes[item.label] for item in source.items()
    }


# a folder


def test_sub_folders_are_speakers(tmp_path):
    put(tmp_path, "zoe/1.wav", "ann/deep/er/2.flac", "ann/1.ogg", "0.mp3")
    (tmp_path / "nobody/empty").mkdir(parents=True)
    source = AudioFolder(tmp_path)
    assert source.classes == ("ann", "zoe")
    assert list(source.items()) == [
        Item("0.mp3", -1, "0.mp3"),
        Item("ann/1.ogg", 0, "ann/1.ogg"),
        Item("ann/deep/er/2.flac", 0, "ann/deep/er/2.flac"),
        Item("zoe/1.wav", 1, "zoe/1.wav"),
    ]


def test_order_is_that_of_sorted_paths(tmp_path):
    put(tmp_path, "b/x.wav", "b/a/2.wav", "b/a/10.wav", "a.wav", "b.wav", "b-c/1.wav", "é/z.wav")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    names = [item.name for item in AudioFolder(tmp_path).items()]
    assert names == [path.relative_to(tmp_path).as_posix() for path in files]


def test_other_files_and_hidden_ones_do_not_count(tmp_path):
    put(tmp_path, "ann/A.WAV", "ann/.b.wav", ".bob/c.wav", "cy/notes.wav.bak")
    write(tmp_path / "ann/A.txt", "text")
    source = AudioFolder(tmp_path)
    assert labels(source) == {"ann/A.WAV": "ann"}
    assert source.classes == ("ann",)


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path / "data", "ann/1.wav")
    put(tmp_path / "other", "2.wav")
    root = tmp_path / "data"
    (root / "ann/up").symlink_to(root)
    (root / "bob").symlink_to(tmp_path / "other")
    (root / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    source = AudioFolder(root)
    assert labels(source) == {"ann/1.wav": "ann", "bob/2.wav": "bob", "gone.wav": None}
    *_, gone = source.items()
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        source.read(gone, SAME)


def test_reading(tmp_path):
    source = AudioFolder(put(tmp_path, "ann/1.wav", "ann/22.wav"))
    for item in source.items():
        assert source.path(item) == tmp_path / item.name
        audio = source.read(item, SAME)
        assert audio.dtype == np.float32
        np.testing.assert_array_equal(audio, np.full(len(item.name), 0.25))
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(item, SAME))), audio)


def test_items_are_lazy(tmp_path):
    source = AudioFolder(put(tmp_path, "ann/1.wav"))
    assert isinstance(source.items(), types.GeneratorType)
    write(tmp_path / "ann/0.wav", "no audio")
    first, second = source.items()
    with pytest.raises(AudioError, match=r"0\.wav: is no audio"):
        source.read(first, SAME)
    assert len(source.read(second, SAME)) == 9


def test_a_name_that_is_not_utf8_can_be_read(tmp_path):
    put(tmp_path, "ann/ok.wav")
    try:
        (tmp_path / "ann/ok.wav").rename(
            Path(os.fsdecode(os.fsencode(tmp_path) + b"/ann/\xff.wav"))
        )
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    source = AudioFolder(tmp_path)
    [item] = source.items()
    assert item.name == "ann/\\xff.wav"
    assert len(source.read(item, SAME)) == len("ann/ok.wav")


def test_transcripts_lie_beside(tmp_path):
    source = AudioFolder(put(tmp_path, "1.wav", "2.wav", "3.wav", "4.wav", "5.wav"))
    write(tmp_path / "1.txt", "  Hello.\n")
    write(tmp_path / "3.txt", b"caf\xe9")
    os.mkfifo(tmp_path / "4.txt")
    (tmp_path / "5.txt").mkdir()
    texts = [source.text(item) for item in source.items()]
    assert texts == ["Hello.", None, "caf\ufffd", None, None]


# speakers by a pattern


def test_a_pattern_finds_speakers(tmp_path):
    put(tmp_path, "0_theo_1.wav", "x/1_george_12.wav", "noise.wav", "x/y.wav")
    source = AudioFolder(tmp_path, DIGITS)
    assert source.classes == ("george", "theo")
    assert labels(source) == {
        "0_theo_1.wav": "theo",
        "noise.wav": None,
        "x/1_george_12.wav": "george",
        "x/y.wav": None,
    }


def test_a_group_that_is_not_there_is_no_speaker(tmp_path):
    put(tmp_path, "a-1.wav", "-2.wav")
    source = AudioFolder(tmp_path, r"^(?P<speaker>[a-z]+)?-")
    assert labels(source) == {"-2.wav": None, "a-1.wav": "a"}


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "missing \\)"), (r"(\w+)", r"has no group \(\?P<speaker>")]
)
def test_wrong_patterns(tmp_path, pattern, message):
    with pytest.raises(VqtrtError, match=message):
        AudioFolder(put(tmp_path, "a.wav"), pattern)


# VCTK


@pytest.fixture
def vctk(tmp_path: Path) -> Path:
    folder = "wav48_silence_trimmed"
    put(tmp_path, *(f"{folder}/p226/p226_00{i}_mic{m}.flac" for i in (1, 2) for m in (1, 2)))
    put(tmp_path, f"{folder}/p225/p225_001_mic1.flac", f"{folder}/s5/s5_001_mic1.flac")
    write(tmp_path / folder / "log.txt", "of the makers")
    write(tmp_path / "txt/p226/p226_002.txt", "Please call Stella.\n")
    write(tmp_path / "speaker-info.txt", "ID AGE\np225 23\n")
    return tmp_path


def test_vctk_has_the_first_microphone(vctk):
    source = open_speech(vctk)
    assert isinstance(source, VCTK)
    assert source.classes == ("p225", "p226", "s5")
    assert labels(source) == {
        "p225/p225_001_mic1.flac": "p225",
        "p226/p226_001_mic1.flac": "p226",
        "p226/p226_002_mic1.flac": "p226",
        "s5/s5_001_mic1.flac": "s5",
    }
    items = list(source.items())
    assert [source.text(item) for item in items] == [None, None, "Please call Stella.", None]
    path = vctk / "wav48_silence_trimmed/p226/p226_002_mic1.flac"
    assert source.path(items[2]) == path
    assert len(source.read(items[2], SAME)) == len(path.relative_to(vctk).as_posix())


def test_older_vctk(tmp_path):
    put(tmp_path, "wav48/p225/p225_001.wav", "wav48/p226/p226_003.wav", "wav48/stray.wav")
    write(tmp_path / "txt/p226/p226_003.txt", "Six spoons.")
    source = open_speech(tmp_path)
    assert source.classes == ("p225", "p226")
    assert [item.name for item in source.items()] == ["p225/p225_001.wav", "p226/p226_003.wav"]
    assert [source.text(item) for item in source.items()] == [None, "Six spoons."]


def test_what_is_no_vctk(tmp_path):
    with pytest.raises(VqtrtError, match="no wav48_silence_trimmed or wav48 in it"):
        VCTK(tmp_path)
    (tmp_path / "wav48").mkdir()
    with pytest.raises(VqtrtError, match="wav48: holds no recordings"):
        open_speech(tmp_path)


# opening


def test_open_a_folder(tmp_path):
    source = open_speech(str(put(tmp_path, "ann/1.wav")))
    assert type(source) is AudioFolder
    assert source.classes == ("ann",)


def test_a_pattern_makes_vctk_a_folder(vctk):
    source = open_speech(vctk, r"/(?P<speaker>[a-z]\d+)_")
    assert type(source) is AudioFolder
    assert source.classes == ("p225", "p226", "s5")
    assert len(list(source.items())) == 6


@pytest.mark.parametrize("name", ["3_theo_7.wav", "3_theo_7"])
def test_open_a_single_recording(tmp_path, name):
    put(tmp_path, "3_theo_7.wav")
    (tmp_path / "3_theo_7.wav").rename(tmp_path / name)
    source = open_speech(tmp_path / name)
    [item] = source.items()
    assert (item.name, item.label, source.classes) == (name, -1, ())
    assert len(source.read(item, SAME)) == len("3_theo_7.wav")
    assert open_speech(tmp_path / name, DIGITS).classes == ("theo",)


def test_mistakes(tmp_path):
    with pytest.raises(VqtrtError, match="no such file or folder"):
        open_speech(tmp_path / "none")
    write(tmp_path / "folder/a.txt", "no recording")
    with pytest.raises(VqtrtError, match=r"holds no recordings, only 1 \.txt; \.wav, \.wave, "):
        open_speech(tmp_path / "folder")
    for wrong in ("a\0b", "x" * 5000):
        with pytest.raises(VqtrtError, match=r"cannot be opened|no such file"):
            open_speech(wrong)


@pytest.mark.parametrize(
    ("base", "root"),
    [
        ("LibriSpeech/dev-clean", "LibriSpeech"),
        ("LibriSpeech/dev-clean", "LibriSpeech/dev-clean"),
        ("corpora/LibriSpeech/dev-clean", "corpora"),
        ("mls/dev/audio", "mls"),
    ],
)
@pytest.mark.parametrize("joint", ["-", "_"])
def test_librispeech_knows_its_speakers(tmp_path: Path, base: str, root: str, joint: str) -> None:
    for speaker, chapter in (("1272", "128104"), ("174", "50561"), ("174", "84280")):
        name = joint.join((speaker, chapter, "000001"))
        put(tmp_path / base / speaker / chapter, f"{name}.flac")
    source = open_speech(tmp_path / root)
    assert source.classes == ("1272", "174")
    assert [item.label for item in source.items()] == [0, 1, 1]
    assert speaker_note(source) is None


def test_a_part_of_librispeech_has_one_speaker(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "LibriTTS/dev-clean/1272/128104"
    for number in range(2):
        put(folder, f"1272_128104_000001_00000{number}.wav")
    monkeypatch.chdir(folder)
    for root in (folder, folder.parent, folder.parent.parent, Path()):
        source = open_speech(root)
        assert source.classes == ("1272",)
        note = speaker_note(source)
        assert note is not None
        assert note.startswith("one speaker, 1272, stands for all recordings")


def test_names_that_are_only_like_librispeechs(tmp_path: Path) -> None:
    for name in ("7/8/9-8-1.wav", "7/8/7-9-1.wav", "7/8/7-8.wav", "7/8/a7-8-1.wav", "7/7-8-1.wav"):
        put(tmp_path / "all", name)
    assert open_speech(tmp_path / "all").classes == ("7",)


@pytest.mark.parametrize("root", ["LJSpeech-1.1", "LJSpeech-1.1/wavs", "."])
def test_ljspeech_has_one_speaker(tmp_path: Path, root: str) -> None:
    for number in range(3):
        put(tmp_path, f"LJSpeech-1.1/wavs/LJ001-000{number}.wav")
    source = open_speech(tmp_path / root)
    assert source.classes == ("LJ",)
    assert [item.label for item in source.items()] == [0, 0, 0]


def test_a_pattern_comes_before_known_names(tmp_path: Path) -> None:
    put(tmp_path, "wavs/LJ001-0001.wav")
    source = open_speech(tmp_path, r"LJ(?P<speaker>\d+)-")
    assert source.classes == ("001",)


def test_no_note_of_one_speaker_where_there_are_others(tmp_path: Path) -> None:
    put(tmp_path, "ann/0.wav")
    put(tmp_path, "ann/1.wav")
    assert speaker_note(open_speech(tmp_path)) is not None
    put(tmp_path, "zz.wav")
    assert speaker_note(open_speech(tmp_path)) is None  # one without a speaker
    assert speaker_note(open_speech(tmp_path / "ann")) is None


def test_what_is_read_and_what_is_counted(tmp_path: Path) -> None:
    read = [name for name, suffix in soundfile_names() if suffix in READ_AUDIO]
    assert len(read) >= 14
    for name in read:
        form = name.partition(".")[0]
        soundfile.write(tmp_path / name, np.full(100, 0.25), 8000, format=form)
    for name in ("y.m4a", "z.WEBM", "w.aac", "t.wma", "r.amr", "v.mp4", "v2.mp4", "a.txt"):
        (tmp_path / name).write_bytes(bytes(100))
    source = open_speech(tmp_path)
    assert [item.name for item in source.items()] == sorted(read)
    for item in source.items():
        assert len(source.read(item, AudioPreprocessing(sample_rate=8000))) >= 100
    over = passed_over(source)
    assert over == {".m4a": 1, ".webm": 1, ".aac": 1, ".wma": 1, ".amr": 1, ".mp4": 2, ".txt": 1}
    assert conversion_hint(over) == (
        "convert .aac, .amr, .m4a, .mp4, .webm, .wma to be read: ffmpeg -i NAME.aac NAME.flac"
    )
    assert conversion_hint({".txt": 1}) == ""


def soundfile_names() -> list[tuple[str, str]]:
    """A file's name for each format that a data set may have, which says how to write it."""
    suffixes = {
        "WAV": ".wav .wave .bwf", "FLAC": ".flac", "OGG": ".ogg .oga", "MP3": ".mp3",
        "AIFF": ".aiff .aif .aifc", "AU": ".au .snd", "CAF": ".caf", "RF64": ".rf64", "W64": ".w64",
        "NIST": ".sph .nist .nis", "VOC": ".voc", "SVX": ".svx .8svx", "IRCAM": ".ircam",
        "AVR": ".avr", "HTK": ".htk", "PVF": ".pvf",
    }  # fmt: skip
    return [(f"{form}{s}", s) for form, all_ in suffixes.items() for s in all_.split()]


def test_only_what_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(bytes(100))
    with pytest.raises(VqtrtError, match=r"only 1 \.m4a; convert .m4a to be read: ffmpeg -i"):
        open_speech(tmp_path)
