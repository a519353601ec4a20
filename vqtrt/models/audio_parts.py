"""What encoder and decoders of speech are made of: convolutions over time, channels first."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.audio import MelConfig, TargetConfig
from vqtrt.data.audio.mel import mel_filters


class ResidualBlock(nn.Module):
    """x + 1(ReLU(3(ReLU(x)))), as the images' (paper, section 4.1), over time."""

    def __init__(self, channels: int, hidden: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv3 = nn.Conv1d(channels, hidden, 3, padding=dilation, dilation=dilation)
        self.conv1 = nn.Conv1d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, T) to the same shape."""
        out: Tensor = x + self.conv1(F.relu(self.conv3(F.relu(x))))
        return out


class LogMel(nn.Module):
    """Audio (N, T) to a log-mel spectrogram (N, bands, T / hop), as `data/audio/mel.py` defines it.

    Convolutions with windowed sines and cosines, which every runtime has. Frame i is centred on
    the middle of samples i·hop to (i + 1)·hop; outside of the audio are zeros.
    """

    def __init__(self, config: MelConfig, sample_rate: int) -> None:
        super().__init__()
        n, bins = config.n_fft, config.n_fft // 2 + 1
        self.hop, self.n_fft, self.bins = config.hop, n, bins
        window = torch.hann_window(n, dtype=torch.float64)
        turns = torch.arange(n, dtype=torch.float64) * torch.arange(bins)[:, None] / n
        waves = torch.cat([torch.cos(2 * torch.pi * turns), torch.sin(2 * torch.pi * turns)])
        # A full-scale sine has power 1, whatever the window's length.
        kernel = waves * window * (2 / window.sum())
        filters = torch.from_numpy(mel_filters(sample_rate, n, config.bands)).T
        self.register_buffer("kernel", kernel[:, None].float(), persistent=False)
        self.register_buffer("filters", filters[:, :, None].float(), persistent=False)
        # As a bias: TensorRT for RTX 1.7 cannot compile a sum with a number after a convolution.
        floors = torch.full((config.bands,), config.floor)
        self.register_buffer("floors", floors, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Natural logarithms, from that of the floor up, float32."""
        before = self.n_fft // 2 - self.hop // 2
        after = self.n_fft - self.hop - before
        # A window shorter than the hop leaves gaps: negative padding is what is left out.
        padded = F.pad(audio[:, None], (before, after))
        parts = F.conv1d(padded, self.get_buffer("kernel"), stride=self.hop).square()
        power = parts[:, : self.bins] + parts[:, self.bins :]
        filters, floors = self.get_buffer("filters"), self.get_buffer("floors")
        return torch.log(F.conv1d(power, filters, floors))


class SpectrumTarget(nn.Module):
    """Audio (N, T) to what the codes are to hold: its spectrum, (N, size, T / hop).

    Each of the `size` numbers is brought to mean 0 and variance 1 over the data of each speaker,
    which `fit` sees: what is left is what was said, more than who said it.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, config: TargetConfig, sample_rate: int, speakers: int) -> None:
        super().__init__()
        self.hop = config.hop
        self.spectrogram = LogMel(config, sample_rate)
        places = (torch.arange(config.bands, dtype=torch.float64) + 0.5) / config.bands
        turns = torch.arange(config.size, dtype=torch.float64)[:, None] * places
        cosines = torch.cos(torch.pi * turns) / config.bands
        if config.cepstra is None:
            cosines = torch.eye(config.bands, dtype=torch.float64)
        self.register_buffer("cosines", cosines[:, :, None].float(), persistent=False)
        # The last row is of none of the speakers.
        self.register_buffer("mean", torch.zeros(speakers + 1, config.size, 1))
        self.register_buffer("scale", torch.ones(speakers + 1, config.size, 1))

    def _plain(self, audio: Tensor) -> Tensor:
        return F.conv1d(self.spectrogram(audio), self.get_buffer("cosines"))

    @torch.no_grad()
    def fit(self, audio: Tensor, valid_mask: Tensor, speakers: Tensor) -> None:
        """Take mean and deviation of each number from audio (N, T) of speakers (N,).

        Of codes in `valid_mask`, bool (N, t), alone: zeros around clips would make
        up most of the deviation of short ones, and voices would differ in what is left.
        """
        plain = self._plain(audio)
        valid_mask = valid_mask.repeat_interleave(plain.shape[2] // valid_mask.shape[1], 1)
        for row in range(len(self.mean)):
            own = valid_mask & (speakers == row)[:, None]
            # Who is not heard is taken for an average one.
            heard = plain.transpose(0, 1)[:, own if own.sum() > 1 else valid_mask]
            self.mean[row] = heard.mean(1, keepdim=True)
            self.scale[row] = heard.std(1, keepdim=True).clamp_min(1e-3)

    @torch.no_grad()
    def forward(self, audio: Tensor, speakers: Tensor) -> Tensor:
        """The spectrum of audio (N, T) of speakers (N,), float32."""
        with torch.autocast(audio.device.type, enabled=False):
            plain = self._plain(audio.to(self.mean.dtype))
            return (plain - self.mean[speakers]) / self.scale[speakers]


class SpeakerAdversary(nn.Module):
    """Tells the speaker of vectors (N, D, t); what it learns from is turned against the encoder.

    Gradient reversal (arXiv 1505.07818): its loss falls with its own weights and grows with the
    vectors, which so come to say less of who speaks.
    """

    def __init__(self, dim: int, hidden: int, speakers: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(dim, hidden, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(hidden, speakers + 1, 1),
        )

    def forward(self, vectors: Tensor, speakers: Tensor, weight: float) -> Tensor:
        """Cross-entropy in nats; its gradient reaches `vectors` times −`weight`."""
        reversed_ = vectors + (1 + weight) * (vectors.detach() - vectors)
        return F.cross_entropy(self.body(reversed_).mean(2), speakers)


def jittered(vectors: Tensor, share: float) -> Tensor:
    """Vectors (N, D, t) of which a share is replaced by the one before or after it.

    So that a code is not used for what lasts shorter than itself (arXiv 1901.08810, section 2.4).
    """
    if not share or vectors.shape[2] < 2:
        return vectors
    n, _, t = vectors.shape
    drawn = torch.rand(n, t, device=vectors.device)
    shift = (drawn < share / 2).long() - (drawn > 1 - share / 2).long()
    source = (torch.arange(t, device=vectors.device) + shift).clamp(0, t - 1)
    return vectors.gather(2, source[:, None].expand_as(vectors))


class Strided(nn.Conv1d):
    """A convolution of stride s and window 2s (paper, section 4.3: stride 2, window 4)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(channels, out, 2 * stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, T) to (N, out, T / stride); zeros outside."""
        stride = self.stride[0]
        return super().forward(F.pad(x, (stride // 2, stride - stride // 2)))


class Upsampling(nn.Module):
    """A transposed convolution of stride s and window 3s (or s, for `window` 1).

    Written as a plain convolution whose channels are then dealt out over time: the same function,
    faster on CPUs, and TensorRT for RTX 1.7 compiles no transposed convolution in bf16.
    """

    def __init__(self, channels: int, out: int, stride: int, window: int = 3) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(channels, out * stride, window, padding=window // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, t) to (N, out, t·stride)."""
        if self.stride == 1:
            same: Tensor = self.conv(x)
            return same
        n, _, t = x.shape
        made = self.conv(x).reshape(n, -1, self.stride, t)
        dealt: Tensor = made.transpose(2, 3).reshape(n, made.shape[1], t * self.stride)
        return dealt
