import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from speech_doubles import WAVENET

from vqtrt.config.audio import SpeechConfig
from vqtrt.models.audio import SpeechVQVAE
from vqtrt.training.audio_picture import SECONDS, Shown, loudest, show_clips


@pytest.fixture
def make(tmp_path, make_speech_config):
    def make(speakers=("ann", "bob"), **model) -> tuple[SpeechVQVAE, SpeechConfig]:
        torch.manual_seed(0)
        config = make_speech_config(tmp_path, speakers=speakers, **model)
        return SpeechVQVAE(config.model, 8000).eval(), config

    return make


def shown(seconds, speaker=0, name="a/1.wav"):
    time = np.arange(round(seconds * 8000)) / 8000
    return Shown(name, (0.3 * np.sin(2000 * time)).astype(np.float32), speaker)


@pytest.mark.parametrize(("decoder", "model"), [("conv", {}), ("wavenet", WAVENET)])
def test_picture_and_wavs(tmp_path, make, decoder, model):
    picture = tmp_path / "step-1.png"
    clips = [shown(0.05), shown(0.0301, 1), shown(SECONDS[decoder] + 0.1)]
    with torch.no_grad():
        speech, config = make(**model)
        show_clips(speech, config, clips, picture, torch.device("cpu"))
    with Image.open(picture) as image:
        assert image.width > image.height / 2 > 200
    names = sorted(path.name for path in (tmp_path / "step-1").iterdir())
    parts = ("conversion", "original", "reconstruction")
    assert names == [f"{row}-{part}.wav" for row in range(3) for part in parts]
    for row, samples in enumerate((400, 241, round(SECONDS[decoder] * 8000))):
        found = [soundfile.read(tmp_path / "step-1" / f"{row}-{part}.wav") for part in parts]
        assert [(len(audio), rate) for audio, rate in found] == [(samples, 8000)] * 3
        original = loudest(clips[row].audio, samples)
        np.testing.assert_allclose(found[1][0], original, atol=1 / 32767)
        # Another speaker's embedding, another sound.
        assert not np.array_equal(found[0][0], found[2][0])


def test_one_speaker_has_nobody_to_be_converted_to(tmp_path, make):
    with torch.no_grad():
        speech, config = make(("ann",))
        show_clips(speech, config, [shown(0.05)], tmp_path / "p.png", torch.device("cpu"))
    names = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert names == ["0-original.wav", "0-reconstruction.wav"]


def test_it_is_what_the_model_gives(tmp_path, make):
    """The picture's way to the audio, beside the training's."""
    model, config = make()
    clip = shown(0.064, 1)
    with torch.no_grad():
        show_clips(model, config, [clip], tmp_path / "p.png", torch.device("cpu"))
        audio = torch.from_numpy(clip.audio)[None]
        codes = model.quantizer.encode(model.encoder(audio)[:, :, None])
        vectors = model.quantizer.lookup(codes)[:, :, 0]
        around = model.decoder_context
        hidden = model.conditioner(
            torch.nn.functional.pad(vectors, (around, around)), torch.tensor([1])
        )
        expected = model.decoder(hidden)[0, around * 32 : -around * 32].clamp(-1, 1)
    found, _ = soundfile.read(tmp_path / "p" / "0-reconstruction.wav")
    np.testing.assert_allclose(found, expected.numpy(), atol=1 / 32767)


def test_the_loudest_part():
    audio = np.zeros(100, np.float32)
    audio[60:70] = 0.5
    assert loudest(audio, 10).tolist() == [0.5] * 10
    assert loudest(audio, 100) is audio
    assert len(loudest(audio, 30)) == 30
    assert loudest(audio, 30).sum() == 5
