import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile
from recordings import noise

from vqtrt.data.audio import decode as audio_module
from vqtrt.data.audio.decode import write_blocks, write_wav
from vqtrt.errors import VqtrtError


def test_write_and_read_back(tmp_path):
    samples = np.array([-1.5, -1, -0.5, 0, 1e-6, 0.25, 1, 7], np.float32)
    path = tmp_path / "deep/er/a.wav"
    write_wav(path, samples, 22050)
    info = soundfile.info(path)
    assert (info.format, info.subtype, info.samplerate) == ("WAV", "PCM_16", 22050)
    levels, _ = soundfile.read(path, dtype="int16")
    assert levels.tolist() == [-32767, -32767, -16384, 0, 0, 8192, 32767, 32767]
    assert [file.name for file in path.parent.iterdir()] == ["a.wav"]


@pytest.mark.parametrize(
    ("samples", "written"), [(None, 100), (100, 100), (61, 61), (60, 60), (1, 1)]
)
def test_blocks_are_cut_to_the_samples_wanted(tmp_path, samples, written):
    whole = noise(100)
    blocks = iter([whole[:60], whole[60:60], whole[60:]])
    write_blocks(tmp_path / "deep/a.wav", blocks, samples, 8000)
    write_wav(tmp_path / "b.wav", whole[:written], 8000)
    assert (tmp_path / "deep/a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert next(blocks, None) is None


def test_more_than_a_wav_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(audio_module, "_WAV_SAMPLES", 99)
    write_blocks(tmp_path / "a.wav", [noise(60), noise(60)], 99, 8000)
    assert soundfile.info(tmp_path / "a.wav").frames == 99
    with pytest.raises(VqtrtError, match="more than the 99 samples that a wav holds"):
        write_wav(tmp_path / "b.wav", noise(100), 8000)
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    write_wav(path, noise(10), 8000)
    before = path.read_bytes()
    with pytest.raises(VqtrtError, match="not numbers"):
        write_wav(path, np.array([0, np.nan], np.float32), 8000)

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(VqtrtError, match="No space left on"):
        write_wav(path, noise(20), 8000)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_a_file_where_a_folder_has_to_be(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(VqtrtError, match="a file is where a folder has to be"):
        write_wav(tmp_path / "a/b.wav", noise(10), 8000)
