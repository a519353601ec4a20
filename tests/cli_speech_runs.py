"""What the commands are run on: recordings and alignments; and what they leave."""

import shutil
from pathlib import Path

import numpy as np
import soundfile
from doubles import vqtrt
from textgrids import write_textgrid

NAMES = ["ann/000.wav", "ann/002.wav", "bob/001.wav", "bob/003.wav"]


def copy_talk(speech_data: Path) -> Path:
    """A few recordings of two speakers."""
    for name in NAMES:
        Path("talk", name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(speech_data / name, Path("talk", name))
    return Path("talk")


def samples(path: object) -> np.ndarray:
    levels, rate = soundfile.read(path, dtype="int16")
    assert rate == 8000
    return levels


def wavs(folder: str) -> dict[str, bytes]:
    return {path.as_posix(): path.read_bytes() for path in sorted(Path(folder).rglob("*.wav"))}


def refused(capfd, *args: object) -> str:
    """The one line of an error, without what was said before it."""
    capfd.readouterr()
    assert vqtrt(*args) == 1
    out, err = capfd.readouterr()
    assert out == ""
    *notes, error = err.splitlines()
    assert error.startswith("error: ")
    assert all(note.startswith(("model: ", "engine: ", "warning: ")) for note in notes)
    return error.removeprefix("error: ")


def align(talk: Path, tier: str = "phones") -> Path:
    for name in NAMES:
        seconds = len(samples(talk / name)) / 8000
        middle = seconds / 2
        path = Path("aligned", name).with_suffix(".TextGrid")
        write_textgrid(path, [(0, middle, "AH0"), (middle, seconds, "sil")])
        path.write_text(path.read_text().replace('"phones"', f'"{tier}"'))
    return Path("aligned")
