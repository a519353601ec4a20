"""The VQ-VAE of speech (paper, section 4.3): raw audio to codes, codes and speaker to audio.

Notable: encoder and decoders look at a limited number of codes on either side, and beyond the ends
of a clip there are zeros, written out and cut off again, and not each layer's own padding. So a
chunk that is computed with `context` codes more on either side gives what the whole recording
gives, and a clip gives the same in any batch.

Shapes: N clips, T samples, t codes (T = stride·t), D the codebook's length, S speakers, of which
the number S stands for none.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.audio import ConvDecoderConfig, SpeechModelConfig, WaveNetDecoderConfig
from vqtrt.models.audio_losses import stft_loss
from vqtrt.models.audio_parts import (
    LogMel,
    ResidualBlock,
    Strided,
    Upsampling,
)
from vqtrt.models.audio_research import ResearchLosses
from vqtrt.models.quantize import build_quantizer
from vqtrt.models.wavenet import WaveNet

LEVELS = 256
"""Of mu-law, which a WaveNet decoder draws."""


class SpeechEncoder(nn.Module):
    """Audio (N, stride·t) in [−1, 1] to vectors (N, D, t)."""

    def __init__(self, config: SpeechModelConfig, sample_rate: int) -> None:
        super().__init__()
        self.front = LogMel(config.front, sample_rate) if config.front else None
        channels = config.front.bands if config.front else 1
        reach, step = 0, 1
        if config.front:
            reach, step = (config.front.n_fft - config.front.hop + 1) // 2, config.front.hop
        layers: list[nn.Module] = []
        width = config.stem_hidden
        for stride in config.strides:
            width = config.hidden if config.front else min(width, config.hidden)
            layers += [Strided(channels, width, stride), nn.ReLU()]
            reach, step = reach + (stride + 1) // 2 * step, step * stride
            channels, width = width, 2 * width
        layers.append(nn.Conv1d(channels, config.hidden, 3, padding=1))
        count = config.residual_blocks
        layers += [ResidualBlock(config.hidden, config.residual_hidden) for _ in range(count)]
        self.layers = nn.Sequential(*layers, nn.ReLU())
        self.last = nn.Conv1d(config.hidden, config.quantizer.dim, 1)
        self.stride = config.stride
        self.context = math.ceil((reach + (1 + count) * step) / step)

    def hidden(self, audio: Tensor) -> Tensor:
        """What the last convolution sees, (N, hidden, t), with zeros outside as they come."""
        # Logarithms of powers lie in [−11.5, 0] or so.
        features = audio[:, None] if self.front is None else self.front(audio) / 3 + 2
        out: Tensor = self.layers(features.to(next(self.layers.parameters()).dtype))
        return out

    def body(self, audio: Tensor) -> Tensor:
        """Vectors (N, D, t), of which `context` at either end do not know what is beyond."""
        out: Tensor = self.last(self.hidden(audio).to(self.last.weight.dtype))
        return out

    def forward(self, audio: Tensor) -> Tensor:
        """Vectors (N, D, t) of clips with zeros around them."""
        zeros = self.context * self.stride
        return self.body(F.pad(audio, (zeros, zeros)))[:, :, self.context : -self.context]


class Conditioner(nn.Module):
    """Vectors of codes (N, D, t) and speakers int (N,) to what a decoder works on, (N, hidden, t).

    Where there is no code its vector is zero.
    """

    def __init__(self, config: SpeechModelConfig) -> None:
        super().__init__()
        self.first = nn.Conv1d(config.quantizer.dim, config.hidden, 3, padding=1)
        self.speakers = nn.Embedding(len(config.speakers) + 1, config.speaker_dim)
        self.speaker = nn.Linear(config.speaker_dim, config.hidden)
        count = config.residual_blocks
        blocks = [ResidualBlock(config.hidden, config.residual_hidden) for _ in range(count)]
        self.blocks = nn.Sequential(*blocks, nn.ReLU())
        self.context = 1 + count

    def forward(self, vectors: Tensor, speakers: Tensor) -> Tensor:
        """The ends, `context` codes each, do not know what is beyond."""
        said = self.speaker(self.speakers(speakers))[:, :, None]
        out: Tensor = self.blocks(self.first(vectors) + said)
        return out


class ConvDecoder(nn.Module):
    """From a conditioner's (N, hidden, t) to audio (N, stride·t), about [−1, 1]."""

    def __init__(self, config: SpeechModelConfig, decoder: ConvDecoderConfig) -> None:
        super().__init__()
        strides = (*((config.front.hop,) if config.front else ()), *config.strides)
        # A front end's hop is also taken in strides of at most 4.
        strides = tuple(part for stride in strides for part in factors(stride))
        layers: list[nn.Module] = []
        channels, step, reach = config.hidden, config.stride, 0
        for index, stride in reversed(list(enumerate(strides))):
            width = min(decoder.stem_hidden << index, config.hidden)
            layers.append(Upsampling(channels, width, stride))
            reach += step
            channels, step = width, step // stride
            for block in range(decoder.blocks):
                layers.append(ResidualBlock(channels, channels, 3**block))
                reach += 3**block * step
        # Without a bias: where all is silent, the last layer can also be.
        layers += [nn.ReLU(), nn.Conv1d(channels, 1, 7, padding=3)]
        self.layers = nn.Sequential(*layers)
        self.context = math.ceil((reach + 3) / config.stride)

    def forward(self, hidden: Tensor) -> Tensor:
        """The ends, `context` codes each, do not know what is beyond."""
        out: Tensor = self.layers(hidden)[:, 0]
        return out


class WaveNetDecoder(nn.Module):
    """A WaveNet over mu-law levels, conditioned on frames of `hop` samples."""

    context = 0

    def __init__(self, config: SpeechModelConfig, decoder: WaveNetDecoderConfig) -> None:
        super().__init__()
        self.hop = decoder.hop
        self.frames = Upsampling(
            config.hidden, decoder.frame_channels, config.stride // decoder.hop, window=1
        )
        self.wavenet = WaveNet(decoder, LEVELS)
        self.project = nn.Linear(decoder.frame_channels, decoder.layers * 2 * decoder.channels)

    def biases(self, hidden: Tensor) -> Tensor:
        """From a conditioner's (N, hidden, t) to a bias a layer: (N, t·stride / hop, L·2p)."""
        frames = F.relu(self.frames(hidden)).transpose(1, 2)
        out: Tensor = self.project(frames)
        return out

    def forward(self, hidden: Tensor, levels: Tensor) -> Tensor:
        """Logits (N, T, 256) of levels int (N, T), T = t·stride, each from those before it."""
        out: Tensor = self.wavenet(self.wavenet.shift_right(levels), self.biases(hidden), self.hop)
        return out


class SpeechLosses(NamedTuple):
    """What a training step looks at; scalars."""

    total: Tensor
    reconstruction: Tensor
    """WaveNet: bits a sample. Conv: squared error over the variance, plus the STFT loss."""
    spectrum: Tensor
    """Squared error of the spectrum that is predicted from the codes, over its variance; with what
    `neighbours` adds."""
    perplexity: Tensor
    """Of this batch's codes."""


class SpeechVQVAE(ResearchLosses):
    """Encoder, quantizer, conditioner and decoder of speech."""

    def __init__(self, config: SpeechModelConfig, sample_rate: int) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate
        self.encoder = SpeechEncoder(config, sample_rate)
        self.quantizer = build_quantizer(config.quantizer)
        self.conditioner = Conditioner(config)
        self.decoder: ConvDecoder | WaveNetDecoder
        if isinstance(config.decoder, ConvDecoderConfig):
            self.decoder = ConvDecoder(config, config.decoder)
        else:
            self.decoder = WaveNetDecoder(config, config.decoder)
        self.add_research_losses(config, sample_rate)

    @property
    def decoder_frozen(self) -> bool:
        """Whether the decoder is left out of the training step that the codebook learns from."""
        return self.training and int(self.quantizer.updates) <= self.config.target_steps

    @property
    def decoder_context(self) -> int:
        """Codes on either side that change a code's samples."""
        return self.conditioner.context + self.decoder.context

    @property
    def margin(self) -> int:
        """Codes on either side that a training batch has beside those it is scored on."""
        return self.encoder.context + self.decoder_context

    def forward(
        self, audio: Tensor, valid_mask: Tensor, speakers: Tensor, variance: float
    ) -> SpeechLosses:
        """Losses of crops.

        `audio` (N, stride·(t + 2·margin)); `valid_mask` bool (N, t + 2·decoder_context), codes that
        are inside of their clip; `speakers` int (N,); `variance` of the data's samples.
        """
        encoder, around = self.encoder.context, self.decoder_context
        z = self.encoder.body(audio)[:, :, encoder:-encoder]
        quantized = self.quantizer(z[:, :, None])
        vectors = quantized.vectors[:, :, 0]
        vectors = self.jittered(vectors)
        read = vectors.detach() if self.config.target_only else vectors
        hidden = self.conditioner(read * valid_mask[:, None], speakers)
        total, spectrum = self.with_research_losses(
            quantized.loss, vectors, audio, valid_mask, speakers, around=around, margin=self.margin
        )
        if self.decoder_frozen:
            # The decoder is frozen; several processes still have to see a gradient of all weights.
            total = total + 0 * sum(p.sum() for p in self.decoder.parameters())
            error = spectrum.new_zeros(())
        else:
            cut = self.margin * self.encoder.stride
            error = self._decoder_loss(hidden, audio[:, cut:-cut], variance)
        shown = error.detach()
        if isinstance(self.decoder, WaveNetDecoder):
            shown = shown / math.log(2)
        return SpeechLosses(total + error, shown, spectrum.detach(), quantized.perplexity)

    def _decoder_loss(self, hidden: Tensor, target: Tensor, variance: float) -> Tensor:
        """Of audio (N, stride·t) from a conditioner's (N, hidden, t + 2·decoder_context)."""
        around, settings = self.decoder_context, self.config.decoder
        if isinstance(self.decoder, WaveNetDecoder):
            levels = to_levels(target)
            logits = self.decoder(hidden[:, :, around:-around], levels)
            return F.cross_entropy(logits.float().flatten(0, 1), levels.flatten())
        assert isinstance(settings, ConvDecoderConfig)  # noqa: S101 - for mypy: as the decoder
        cut = around * self.encoder.stride
        made = self.decoder(hidden)[:, cut:-cut].float()
        with torch.autocast(target.device.type, enabled=False):
            error = settings.waveform_weight * F.mse_loss(made, target) / variance
            return error + settings.stft_weight * stft_loss(made, target, settings.stft_sizes)


def to_levels(audio: Tensor) -> Tensor:
    """Mu-law levels int64 0 to 255 of audio in [−1, 1], as `data/audio/mulaw.py`."""
    audio = audio.clamp(-1, 1)
    bent = torch.sign(audio) * torch.log1p(255 * audio.abs()) / math.log(256)
    return ((bent + 1) / 2 * 255 + 0.5).floor().long()


def factors(stride: int) -> list[int]:
    """A stride as a product of small ones: 64 is 4·4·4, 160 is 5·4·4·2."""
    parts = []
    for part in (5, 4, 3, 2):
        while stride % part == 0:
            parts.append(part)
            stride //= part
    return parts + ([stride] if stride > 1 else [])
