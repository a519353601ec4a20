import numpy as np
import pytest
import torch
from torch import nn

from vqtrt.config.audio import MelConfig, TargetConfig
from vqtrt.data.audio.mel import mel_spectrogram
from vqtrt.models.audio_parts import LogMel, SpectrumTarget, Strided, Upsampling, jittered

RATE = 8000


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize(("n_fft", "hop"), [(64, 16), (65, 16), (64, 64), (64, 160), (128, 127)])
def test_log_mel_is_that_of_numpy(n_fft, hop):
    audio = noise(2, 12 * hop)
    made = LogMel(MelConfig(n_fft=n_fft, hop=hop, bands=10), RATE)(audio)
    for row, own in zip(audio.numpy(), made, strict=True):
        expected = mel_spectrogram(row, RATE, n_fft=n_fft, hop=hop, n_mels=10)
        np.testing.assert_allclose(own.T.numpy(), expected, atol=1e-4)


def test_a_full_scale_sine_has_power_1_in_its_band():
    t = torch.arange(RATE, dtype=torch.float64) / RATE
    audio = torch.sin(2 * torch.pi * 1000 * t)[None].float()
    made = LogMel(MelConfig(n_fft=400, hop=160, bands=20), RATE)(audio)
    # The window spreads it over three bins, whose powers are 1/4, 1 and 1/4.
    assert 0 < made[0, :, 20].max() < np.log(1.6)


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_strided_is_a_convolution_with_zeros_around(stride):
    torch.manual_seed(0)
    layer = Strided(3, 4, stride)
    x = noise(2, 3, 6 * stride)
    padded = torch.cat([x.new_zeros(2, 3, stride // 2), x, x.new_zeros(2, 3, stride)], 2)
    expected = nn.functional.conv1d(padded, layer.weight, layer.bias, stride=stride)[:, :, :6]
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("stride", "window"), [(1, 3), (2, 3), (5, 3), (4, 1)])
def test_upsampling_is_a_transposed_convolution(stride, window):
    torch.manual_seed(0)
    layer = Upsampling(3, 4, stride, window)
    x = noise(2, 3, 7)
    # Output phase s of channel o is channel o·stride + s of the plain convolution.
    weight = layer.conv.weight.reshape(4, stride, 3, window)
    kernel = weight.flip(3).permute(2, 0, 3, 1).reshape(3, 4, window * stride)
    bias = layer.conv.bias.reshape(4, stride)
    made = nn.functional.conv_transpose1d(x, kernel, None, stride=stride)
    cut = window // 2 * stride
    made = made[:, :, cut : cut + 7 * stride] + bias.repeat(1, 7)
    torch.testing.assert_close(layer(x), made)


def test_the_target_has_mean_0_and_variance_1_for_each_speaker():
    torch.manual_seed(0)
    target = SpectrumTarget(TargetConfig(n_fft=64, hop=16, bands=12, cepstra=5), RATE, 3)
    audio = torch.cat([noise(4, 1600), 0.01 * noise(4, 1600, seed=2).cumsum(1)])
    speakers = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    # Of ten codes a clip, the last four lie behind its end.
    valid_mask = torch.arange(10).expand(8, 10) < 6
    audio = audio * valid_mask.repeat_interleave(160, 1)
    target.fit(audio, valid_mask, speakers)
    for row in (0, 1):
        own = target(audio, speakers)[speakers == row, :, :60].transpose(0, 1).flatten(1)
        torch.testing.assert_close(own.mean(1), torch.zeros(5), atol=1e-4, rtol=0)
        torch.testing.assert_close(own.std(1), torch.ones(5), atol=1e-3, rtol=0)
    # Who was not heard is taken for an average one.
    torch.testing.assert_close(target.mean[2], target.mean[3])
    assert not torch.allclose(target.mean[0], target.mean[2])


def test_without_cepstra_the_target_is_the_spectrum():
    config = TargetConfig(n_fft=64, hop=16, bands=12)
    target = SpectrumTarget(config, RATE, 0)
    audio = noise(1, 320)
    torch.testing.assert_close(target(audio, torch.tensor([0])), LogMel(config, RATE)(audio))
    assert config.size == 12


def test_jitter_takes_neighbours_and_no_one_else():
    torch.manual_seed(0)
    vectors = torch.arange(200.0).expand(3, 2, 200)
    made = jittered(vectors, 0.3)
    moved = made - vectors
    assert set(moved.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert (moved != 0).float().mean().item() == pytest.approx(0.3, abs=0.06)
    assert torch.equal(made[:, 0], made[:, 1])
    assert torch.equal(jittered(vectors, 0.0), vectors)
    assert torch.equal(jittered(vectors[:, :, :1], 0.9), vectors[:, :, :1])
