import numpy as np
import pytest
import torch

from vqtrt.models.audio_losses import stft_loss


def noise(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def by_definition(made, target, size):
    """Equations 4 to 6 in numpy, frame by frame."""
    window = np.hanning(size + 1)[:-1]
    window = window * 2 / window.sum()

    def magnitudes(audio):
        padded = np.pad(audio, (size // 2, size // 2))
        starts = range(0, len(padded) - size + 1, size // 4)
        frames = np.stack([padded[s : s + size] * window for s in starts])
        return np.sqrt(np.abs(np.fft.rfft(frames)) ** 2 + 1e-10)

    ours = np.stack([magnitudes(row) for row in made])
    theirs = np.stack([magnitudes(row) for row in target])
    convergence = np.linalg.norm(theirs - ours) / np.linalg.norm(theirs)
    return convergence + np.abs(np.log(ours) - np.log(theirs)).mean()


def test_it_is_the_papers_loss():
    made, target = noise(2, 512), noise(2, 512, seed=2)
    expected = np.mean([by_definition(made.numpy(), target.numpy(), s) for s in (64, 128)])
    assert stft_loss(made, target, (64, 128)).item() == pytest.approx(expected, rel=1e-4)


def test_it_is_0_for_the_same_and_has_a_gradient_in_silence():
    target = noise(1, 256)
    assert stft_loss(target, target, (64,)).item() == 0
    silent = torch.zeros(1, 256, requires_grad=True)
    loss = stft_loss(silent, torch.zeros(1, 256), (64,)) + stft_loss(silent, target, (64,))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(silent.grad).all()
