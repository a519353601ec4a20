"""The two deployed forms of a model: bytes to codes, and codes to bytes.

These modules are what is exported to ONNX and what the torch engine runs. Scaling to and from
bytes is inside, so that nobody can preprocess wrongly. The first step after the uint8 input and
the last before the uint8 output are plain casts: TensorRT takes uint8 at the edge only.

In half precision the convolutions are in half; scaling and distances stay float32, and so does the
encoder's last, 1×1 convolution: z rounded to half would choose other codes.
"""

import torch
from torch import Tensor, nn

from vqtrt.formats.bundle import TensorSpec
from vqtrt.models.deployed import DeployedGraph, int32, multiple
from vqtrt.models.heads import normalize
from vqtrt.models.image import VQVAE
from vqtrt.models.precision import in_dtype


def to_bytes(images: Tensor) -> Tensor:
    """float (N, 3, H, W) about [−0.5, 0.5] to uint8 (N, H, W, 3), rounded and clamped."""
    levels = ((images.float() + 0.5) * 255).round().clamp(0, 255)
    return levels.permute(0, 2, 3, 1).to(torch.uint8)


class EncoderGraph(nn.Module):
    """`images` uint8 (N, H, W, 3) to `codes` int32 (N, h, w), or (N, h, w, C) for C codebooks.

    `dtype` is that of the convolutions; the model itself is left as it is.
    """

    def __init__(self, model: VQVAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        *layers, last = model.encoder
        self.encoder = nn.Sequential(*in_dtype(nn.Sequential(*layers), dtype), last)
        self.quantizer = model.quantizer.deployed()

    def vectors(self, images: Tensor) -> Tensor:
        """What is quantized: (N, h, w, C·D) float32."""
        hidden = self.encoder[:-1](normalize(images).to(self.dtype))
        z: Tensor = self.encoder[-1](hidden.float())
        return z.permute(0, 2, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The codes of a batch of images."""
        codes = self.quantizer.encode(self.vectors(images))
        return (codes[..., 0] if self.quantizer.num_codebooks == 1 else codes).to(torch.int32)


class DecoderGraph(nn.Module):
    """`codes` int32 (N, h, w) or (N, h, w, C) to `images` uint8 (N, H, W, 3).

    `dtype` is that of the convolutions; the model itself is left as it is.
    """

    def __init__(self, model: VQVAE, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        # Entries rounded once are what rounding them after each lookup would give.
        self.quantizer = in_dtype(model.quantizer.deployed(), dtype)
        # TensorRT for RTX 1.7 compiles no transposed convolution in bf16.
        decoder = subpixel(model.decoder) if dtype == torch.bfloat16 else model.decoder
        self.decoder = in_dtype(decoder, dtype)
        self.head = model.head

    def forward(self, codes: Tensor) -> Tensor:
        """The images of a batch of codes."""
        if self.quantizer.num_codebooks == 1:
            codes = codes[..., None]
        vectors = self.quantizer.lookup(codes.long()).permute(0, 3, 1, 2)
        return to_bytes(self.head.image(self.decoder(vectors)))


def image_graph(model: VQVAE, name: str, dtype: torch.dtype = torch.float32) -> DeployedGraph:
    """`encoder` or `decoder`, with its table. Free sizes are `batch`, `h` and `w`.

    `dtype` is that of the convolutions; inputs and outputs are the same in any.
    """
    stride, count = model.config.stride, model.config.quantizer.num_codebooks
    sides = (multiple(stride, "h"), multiple(stride, "w"))
    images = TensorSpec(name="images", dtype="uint8", shape=("batch", *sides, 3))
    codes = int32("codes", "batch", "h", "w", *(() if count == 1 else (count,)))
    if name == "encoder":
        return DeployedGraph(EncoderGraph(model, dtype), (images,), (codes,))
    return DeployedGraph(DecoderGraph(model, dtype), (codes,), (images,))


def subpixel(decoder: nn.Sequential) -> nn.Sequential:
    """The same function without transposed convolutions: each as `subpixel_convolution`."""
    layers = (
        subpixel_convolution(layer) if isinstance(layer, nn.ConvTranspose2d) else layer
        for layer in decoder
    )
    return nn.Sequential(*layers)


def subpixel_convolution(layer: nn.ConvTranspose2d) -> nn.Sequential:
    """A transposed convolution (kernel 4, stride 2, padding 1) as a 3×3 one and a pixel shuffle.

    An even output row sees kernel row 3 on the input row before and 1 on its own, an odd one 2 on
    its own and 0 on the next; columns alike. The weights are the same, so nothing is rounded.
    """
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.output_padding)
    plain, bias = layer.groups == 1 and layer.dilation == (1, 1), layer.bias
    if shape != ((4, 4), (2, 2), (1, 1), (0, 0)) or not plain or bias is None:
        raise ValueError(f"not of kernel 4, stride 2 and padding 1: {layer}")
    weight = layer.weight.detach().transpose(0, 1)  # (out, in, 4, 4)
    out, channels = weight.shape[:2]
    kernel = weight.new_zeros(out, 2, 2, channels, 3, 3)
    taps = (((0, 3), (1, 1)), ((1, 2), (2, 0)))  # (row of the 3×3, row of the 4×4), by parity
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for row, y in taps[a]:
            for column, x in taps[b]:
                kernel[:, a, b, :, row, column] = weight[:, :, y, x]
    made = nn.Conv2d(channels, 4 * out, 3, padding=1).to(weight)
    biases = bias.detach().repeat_interleave(4)
    made.load_state_dict({"weight": kernel.flatten(0, 2), "bias": biases})
    return nn.Sequential(made, nn.PixelShuffle(2))
