"""One codes file: a resumed job sees that files changed whose codes are there already."""

import re
from pathlib import Path

import pytest
from doubles import FakeEngine, write_pictures
from pipeline_jobs import encode as encode_images
from recordings import noise, put
from speech_doubles import FakeSpeechEngine
from speech_jobs import encode as encode_clips

from vqtrt.audio import chunks
from vqtrt.data.audio.folder import AudioFolder
from vqtrt.data.images.folder import ImageFolder
from vqtrt.errors import VqtrtError
from vqtrt.jobs import encode as module

COUNT = 12


class Images:
    """A job of a folder of pictures."""

    def __init__(self, folder: Path) -> None:
        write_pictures(folder, *(f"{n:02}.png" for n in range(COUNT)))
        self.folder = folder

    def run(self, out: Path, before=lambda *_: None, **options):
        engine = FakeEngine(before=before)
        return encode_images(ImageFolder(self.folder), out, engine=engine, **options)

    def change(self, index: int) -> None:
        write_pictures(self.folder, f"{index:02}.png", size=(50, 50))


class Clips:
    """A job of a folder of recordings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for index in range(COUNT):
            self._put(index, 600)

    def _put(self, index: int, samples: int) -> None:
        put(self.folder / f"{index:02}.wav", noise(samples, seed=index))

    def run(self, out: Path, before=lambda *_: None, **options):
        engine = FakeSpeechEngine(before=before)
        return encode_clips(AudioFolder(self.folder), out, engine=engine, **options)

    def change(self, index: int) -> None:
        self._put(index, 700)


@pytest.fixture(params=[Images, Clips])
def job(request, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_COMMIT_SECONDS", -1.0)
    monkeypatch.setattr(chunks, "CALL_SAMPLES", 1)
    return request.param(tmp_path / "data")


@pytest.fixture
def broken(job, tmp_path) -> Path:
    """A codes file whose job broke off after a few commits."""
    calls = iter(range(99))

    def crash(*_) -> None:
        if next(calls) == (3 if isinstance(job, Images) else 8):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError) as caught:
        job.run(tmp_path / "codes.npy", crash)
    assert "items are kept in" in caught.value.__notes__[0]
    return tmp_path / "codes.npy"


def test_nothing_changed(job, broken, tmp_path):
    assert 0 < job.run(broken, resume=True).resumed_at < COUNT
    job.run(tmp_path / "whole.npy")
    assert broken.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_file_that_is_done_changed(job, broken):
    job.change(0)
    with pytest.raises(VqtrtError, match=r"some of the first \d+ files changed since their codes"):
        job.run(broken, resume=True)
    # It is still there, and can be started anew.
    assert Path(f"{broken}.partial").exists()
    assert job.run(broken).rows == COUNT


def test_a_file_that_is_to_come_changed(job, broken, tmp_path):
    job.change(COUNT - 1)
    job.run(broken, resume=True)
    job.run(tmp_path / "whole.npy")
    assert broken.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_journal_without_hashes_is_continued(job, broken, tmp_path):
    """As an earlier version wrote it."""
    journal = Path(f"{broken}.partial.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    old = [re.sub(', "content": "[0-9a-f]+"', "", line) for line in lines]
    assert old != lines
    journal.write_text("".join(old))
    assert job.run(broken, resume=True).resumed_at > 0
