from pathlib import Path

import numpy as np
import pytest
import soundfile
from prior_doubles import K, PriorEngine, random_prior
from speech_doubles import FakeSpeechEngine

from vqtrt.audio.decode import decode_codes
from vqtrt.audio.sample_files import sampled_codes, write_clip_codes
from vqtrt.audio.sampler import ClipRequest, sample_clips
from vqtrt.audio.tokenizer import AudioTokenizer
from vqtrt.config.location import ModelLocation
from vqtrt.formats.audio_codes import read_clip_codes
from vqtrt.formats.sampling import SamplingParams

MODEL = ModelLocation(Path("runs/fake"), None, "named")
REQUEST = ClipRequest("wavenet", 5, 101 / 8000, SamplingParams(seed=3))


def drawn(engine, out):
    samples = sample_clips(engine, REQUEST)
    return samples, sampled_codes(engine, REQUEST, samples, MODEL, out)


@pytest.mark.parametrize("classes", [3, 0])
def test_a_codes_file(tmp_path, classes):
    engine = PriorEngine(random_prior(num_classes=classes))
    samples, codes = drawn(engine, tmp_path / "s.npy")
    write_clip_codes(codes)
    written = read_clip_codes(tmp_path / "s.npy")
    for index, clip in enumerate(samples.codes):
        np.testing.assert_array_equal(written.clip(index), clip)
    assert len(written) == 5
    assert written.samples == (101,) * 5
    assert written.files == tuple(f"sample-{i:06d}" for i in range(5))
    assert [written.header.classes[i] for i in written.labels] == samples.speakers
    assert written.header == codes.header
    assert written.header.root == "prior wavenet, seed 3"
    assert written.header.weights_sha256 == engine.weights_sha256
    assert (written.header.sample_rate, written.header.stride) == (8000, 4)


def test_a_codes_file_without_speakers(tmp_path):
    engine = PriorEngine(random_prior(num_classes=0), voices=())
    write_clip_codes(drawn(engine, tmp_path / "s.npy")[1])
    written = read_clip_codes(tmp_path / "s.npy")
    assert written.labels == written.header.classes == ()


def test_wavs_are_in_the_speakers_voices(tmp_path):
    out = tmp_path / "wavs"
    samples, codes = drawn(PriorEngine(random_prior()), out)
    # Numbers of the decoder's speakers are others than the prior's.
    decoder = FakeSpeechEngine(codebook_size=K, speakers=("cy", "bob", "ann"))
    assert decode_codes(AudioTokenizer(decoder), codes, out) == 5
    names = sorted(path.name for path in out.iterdir())
    assert names == [f"sample-{i:06d}.wav" for i in range(5)]
    for index, speaker in enumerate([2, 1, 0, 2, 1]):
        audio, rate = soundfile.read(out / names[index], dtype="int16")
        made = decoder.decoder(samples.codes[index][None].astype(np.int32), np.array([speaker]))
        assert (rate, len(audio)) == (8000, 101)
        np.testing.assert_array_equal(audio, np.rint(made[0, :101] * 32767))
