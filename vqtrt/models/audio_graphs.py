"""The deployed forms of a model of speech by name, with the table of their inputs and outputs.

`encoder`       audio to codes
`decoder`       codes and speakers to audio, with the conv decoder
`conditioning`  codes and speakers to the biases of the WaveNet decoder, for every frame
`step`          draws the next samples of every clip with the WaveNet decoder

Notable: a clip's result does not depend on what stands beside or behind it in a batch. The encoder
sees zeros around it; where there is no code, the code K stands for a vector of zeros. All is
computed with as many of either on both sides as change anything, which are then cut off.

In half precision convolutions and products are in half. Spectrogram, distances and the encoder's
last convolution stay float32, as for images, and so does what draws a sample.

Shapes: N clips, t codes, D the codebook's length, K its size, S speakers, whose count stands for
none, L layers of p channels.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vqtrt.config.audio import ConvDecoderConfig
from vqtrt.formats.sampling import sampling_inputs
from vqtrt.models.audio import LEVELS, ConvDecoder, SpeechVQVAE, WaveNetDecoder
from vqtrt.models.deployed import DeployedGraph, float32, int32, multiple
from vqtrt.models.precision import in_dtype
from vqtrt.models.wavenet_step import WaveNetStep


class SpeechEncoderGraph(nn.Module):
    """`audio` float32 (N, stride·t) in [−1, 1] to `codes` int32 (N, t).

    `dtype` is that of the convolutions; the model itself is left as it is.
    """

    def __init__(self, model: SpeechVQVAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.encoder = model.encoder
        if dtype != torch.float32:
            self.encoder = copy.deepcopy(model.encoder)
            self.encoder.layers.to(dtype)
        self.quantizer = model.quantizer.deployed()

    def vectors(self, audio: Tensor) -> Tensor:
        """What is quantized: (N, t, D) float32."""
        z: Tensor = self.encoder(audio)
        return z.transpose(1, 2)

    def forward(self, audio: Tensor) -> Tensor:
        """The codes of a batch of clips."""
        return self.quantizer.encode(self.vectors(audio))[..., 0].to(torch.int32)


class _Conditioned(nn.Module):
    """Codes int (N, t), 0 to K, and speakers int (N,), 0 to S, to what a decoder works on."""

    def __init__(self, model: SpeechVQVAE, dtype: torch.dtype) -> None:
        super().__init__()
        self.quantizer = in_dtype(model.quantizer.deployed(), dtype)
        self.conditioner = in_dtype(model.conditioner, dtype)

    def forward(self, codes: Tensor, speakers: Tensor, around: int) -> Tensor:
        """(N, hidden, t + 2·around): as many codes more on either side, of nothing."""
        last = self.quantizer.codebook_size - 1
        vectors = self.quantizer.lookup(codes.clamp_max(last)[..., None].long())
        # The code K stands for zeros.
        vectors = (vectors * (codes <= last)[..., None].to(vectors.dtype)).transpose(1, 2)
        hidden: Tensor = self.conditioner(F.pad(vectors, (around, around)), speakers)
        return hidden


class ConvDecoderGraph(nn.Module):
    """`codes` int32 (N, t) and `speakers` int32 (N,) to `audio` float32 (N, stride·t).

    `dtype` is that of the convolutions; the model itself is left as it is.
    """

    def __init__(self, model: SpeechVQVAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conditioned = _Conditioned(model, dtype)
        self.decoder = in_dtype(model.decoder, dtype)
        self.around, self.stride = model.decoder_context, model.encoder.stride

    def forward(self, codes: Tensor, speakers: Tensor) -> Tensor:
        """The audio of a batch of codes, in [−1, 1]."""
        made = self.decoder(self.conditioned(codes, speakers, self.around))
        cut = self.around * self.stride
        audio: Tensor = made[:, cut:-cut].float().clamp(-1, 1)
        return audio


class ConditioningGraph(nn.Module):
    """`codes` int32 (N, t) and `speakers` int32 (N,) to `bias` float32 (frames, N, L·2p).

    A frame is `hop` samples; `dtype` is that of the convolutions and products.
    """

    def __init__(self, model: SpeechVQVAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        assert isinstance(model.decoder, WaveNetDecoder)  # noqa: S101 - for mypy: as the caller saw
        self.conditioned = _Conditioned(model, dtype)
        self.frames = in_dtype(model.decoder.frames, dtype)
        self.project = in_dtype(model.decoder.project, dtype)
        self.around = model.decoder_context

    def forward(self, codes: Tensor, speakers: Tensor) -> Tensor:
        """The biases of all layers in every frame."""
        hidden = self.conditioned(codes, speakers, self.around)
        frames = F.relu(self.frames(hidden[:, :, self.around : -self.around]))
        bias: Tensor = self.project(frames.permute(2, 0, 1))
        return bias.float()


def speech_graph_names(model: SpeechVQVAE) -> tuple[str, ...]:
    """The graphs that a model has, priors aside."""
    decoder = ("decoder",) if isinstance(model.decoder, ConvDecoder) else ("conditioning", "step")
    return ("encoder", *decoder)


def speech_graph(
    model: SpeechVQVAE, name: str, dtype: torch.dtype = torch.float32
) -> DeployedGraph:
    """One of `speech_graph_names`. Free sizes are `batch` and `t`.

    `dtype` is that of convolutions and products; inputs and outputs are the same in any.
    """
    if name not in speech_graph_names(model):
        raise ValueError(f"this model of speech has no graph {name!r}")
    stride = model.encoder.stride
    audio = float32("audio", "batch", multiple(stride, "t"))
    codes, speakers = int32("codes", "batch", "t"), int32("speakers", "batch")
    if name == "encoder":
        return DeployedGraph(SpeechEncoderGraph(model, dtype), (audio,), (codes,))
    settings, decoder = model.config.decoder, model.decoder
    if isinstance(settings, ConvDecoderConfig):
        return DeployedGraph(ConvDecoderGraph(model, dtype), (codes, speakers), (audio,))
    bias = float32("bias", "batch", settings.layers * 2 * settings.channels)
    if name == "conditioning":
        frames = multiple(stride // settings.hop, "t")
        bias = float32("bias", frames, *bias.shape)
        return DeployedGraph(ConditioningGraph(model, dtype), (codes, speakers), (bias,))
    assert isinstance(decoder, WaveNetDecoder)  # noqa: S101 - for mypy: as its settings
    step, unroll = WaveNetStep(decoder.wavenet, settings.unroll, dtype), settings.unroll
    noise = float32("noise", "batch", unroll)
    inputs = (int32("previous", "batch"), bias, noise, *sampling_inputs(filters=False))
    # `logits` are of the last sample that a run draws: for checks.
    outputs = (int32("levels", "batch", unroll), float32("logits", "batch", LEVELS))
    return DeployedGraph(step, inputs, outputs, step.caches())
