"""A user's encoder, decoder and quantizer: checked, copied, and put into the form of the graphs."""

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vqtrt.data.images.source import Images
from vqtrt.errors import VqtrtError
from vqtrt.export.own.adapt import Answer, Quantizer, adapt, answer
from vqtrt.export.own.modules import check_repeats, copied, one_line
from vqtrt.export.tensor_hash import update_with
from vqtrt.formats.bundle import ModelInfo
from vqtrt.models.quantize.deployed import DeployedQuantizer


class _Half(nn.Module):
    """A user's module beside the quantizer; pixels are bytes · `scale` + `offset`."""

    def __init__(
        self, module: nn.Module, quantizer: DeployedQuantizer, scale: float, offset: float
    ) -> None:
        super().__init__()
        self.module, self.quantizer = module, quantizer
        self.scale, self.offset = scale, offset


class TokenizerEncoder(_Half):
    """`images` uint8 (N, H, W, 3) to `codes` int32 (N, h, w), or (N, h, w, C) for C codebooks."""

    def vectors(self, images: Tensor) -> Tensor:
        """What is quantized: (N, channels, h, w)."""
        pixels = images.to(torch.float32).permute(0, 3, 1, 2) * self.scale + self.offset
        z: Tensor = self.module(pixels)
        return z

    def forward(self, images: Tensor) -> Tensor:
        """The codes of a batch of images."""
        codes = self.quantizer.encode(self.vectors(images).permute(0, 2, 3, 1))
        return (codes[..., 0] if self.quantizer.num_codebooks == 1 else codes).to(torch.int32)


class TokenizerDecoder(_Half):
    """`codes` int32 (N, h, w) or (N, h, w, C) to `images` uint8 (N, H, W, 3)."""

    def images(self, vectors: Tensor) -> Tensor:
        """Bytes (N, H, W, 3) of what the decoder makes of vectors (N, channels, h, w)."""
        made: Tensor = self.module(vectors)
        levels = ((made - self.offset) * (1 / self.scale)).round().clamp(0, 255)
        return levels.permute(0, 2, 3, 1).to(torch.uint8)

    def forward(self, codes: Tensor) -> Tensor:
        """The images of a batch of codes."""
        if self.quantizer.num_codebooks == 1:
            codes = codes[..., None]
        return self.images(self.quantizer.lookup(codes.long()).permute(0, 3, 1, 2))


@dataclass(frozen=True)
class Parts:
    """Copies on the CPU, in eval mode: the caller's modules stay as they are."""

    encoder: TokenizerEncoder
    decoder: TokenizerDecoder
    form: DeployedQuantizer
    """The quantizer, as both of these have it."""
    quantizer: Quantizer
    """The quantizer as it was given: what the form is compared with."""

    @classmethod
    def of(
        cls,
        encoder: nn.Module,
        decoder: nn.Module,
        quantizer: Quantizer,
        scale: float,
        offset: float,
    ) -> "Parts":
        """Check the three and copy them. Raises `VqtrtError`."""
        if scale == 0:
            raise VqtrtError("scale 0: pass what a pixel value of 0 to 255 is multiplied by")
        own: Quantizer = quantizer
        if isinstance(own, Tensor):
            own = own.detach().to("cpu", copy=True)
        elif isinstance(own, nn.Module):
            own = copied(own, "quantizer")
        form = adapt(copy.deepcopy(own)).eval().requires_grad_(False)
        return cls(
            encoder=TokenizerEncoder(copied(encoder, "encoder"), form, scale, offset).eval(),
            decoder=TokenizerDecoder(copied(decoder, "decoder"), form, scale, offset).eval(),
            form=form,
            quantizer=own,
        )

    def info(self, stride: int) -> ModelInfo:
        """What a user of the codes has to know."""
        return ModelInfo(
            codebook_size=self.form.codebook_size,
            num_codebooks=self.form.num_codebooks,
            code_dim=self.form.code_dim,
            stride=stride,
        )

    def weights_sha256(self) -> str:
        """Of all that decides codes and images: weights, buffers, options of the quantizer."""
        digest = hashlib.sha256()
        options = {k: v for k, v in vars(self.form).items() if isinstance(v, int | float)}
        scaling = (self.encoder.scale, self.encoder.offset)
        digest.update(repr((type(self.form).__name__, sorted(options.items()), scaling)).encode())
        for module in (self.encoder, self.decoder):
            update_with(digest, [*module.named_parameters(), *module.named_buffers()])
        return digest.hexdigest()

    @torch.no_grad()
    def answer(self, z: Tensor) -> Answer:
        """Codes and vectors for z (N, channels, h, w), by the quantizer as it was given.

        Of a codebook, by definition: argmin |z − e| in float64.
        """
        if not isinstance(self.quantizer, Tensor):
            return answer(self.quantizer, z)
        books = self.quantizer.double().reshape(-1, *self.quantizer.shape[-2:])
        c, _, d = books.shape
        n, _, h, w = z.shape
        flat = z.double().permute(0, 2, 3, 1).reshape(-1, c, d).transpose(0, 1)
        squares = books.square().sum(-1)[:, None]
        codes = torch.baddbmm(squares, flat, books.mT, alpha=-2).argmin(-1).T.reshape(n, h, w, c)
        return Answer(codes, self.form.lookup(codes).permute(0, 3, 1, 2))

    @torch.no_grad()
    def stride(self, height: int, width: int, *, fixed_size: bool) -> int:
        """Pixels a side that one code stands for; `VqtrtError` if the parts do not fit."""
        h, w = self._grid(height, width)
        stride = height // h
        if (h * stride, w * stride) != (height, width):
            raise VqtrtError(
                f"the encoder makes {h}x{w} vectors of {height}x{width} pixels: height and width "
                "have to be multiples of one stride, the same for both"
            )
        self._check_decoder(h, w, height, width)
        if not fixed_size:
            try:
                fits = self._grid(height + stride, width) == (h + 1, w)
                self._check_decoder(h + 1, w, height + stride, width)
            except VqtrtError:
                fits = False
            if not fits:
                raise VqtrtError(
                    f"encoder or decoder fits images of {height}x{width} pixels, but not of "
                    f"{height + stride}x{width}: pass fixed_size=True"
                )
        return stride

    def check_repeats(self, height: int, width: int, stride: int) -> None:
        """Raise `VqtrtError` if encoder or decoder do not repeat (`own_modules`)."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (2, height, width, 3), generator=generator)
        check_repeats(self.encoder.vectors, images.to(torch.uint8), "encoder")
        shape = (2, height // stride, width // stride, self.form.num_codebooks)
        codes = torch.randint(0, self.form.codebook_size, shape, generator=generator)
        with torch.no_grad():
            vectors = self.form.lookup(codes).permute(0, 3, 1, 2)
        check_repeats(self.decoder.module, vectors, "decoder")

    @torch.no_grad()
    def take(self, images: Images) -> bool:
        """Whether the modules themselves take images uint8 (N, H, W, 3) of this size."""
        try:
            z = self.encoder.vectors(torch.from_numpy(images))
            made = self.decoder.images(self.answer(z).vectors)
        except Exception:  # of any kind, as modules raise them
            return False
        return made.shape == images.shape

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) that the encoder makes of a size."""
        images = torch.zeros(2, height, width, 3, dtype=torch.uint8)
        z = _run(self.encoder.vectors, images, f"the encoder on 2 images of {height}x{width}")
        shape = _shape(z, "the encoder")
        if len(shape) != 4 or shape[0] != 2 or 0 in shape:
            raise VqtrtError(
                f"the encoder makes {shape} of 2 images: expected (N, channels, h, w); wrap it in "
                "a module that brings it to this form"
            )
        if shape[1] != self.form.channels:
            raise VqtrtError(
                f"the encoder makes {shape[1]} channels, but the quantizer takes "
                f"{self.form.channels}: the two have to fit"
            )
        return shape[2], shape[3]

    def _check_decoder(self, h: int, w: int, height: int, width: int) -> None:
        codes = torch.zeros(2, h, w, self.form.num_codebooks, dtype=torch.int64)
        vectors = self.form.lookup(codes).permute(0, 3, 1, 2)
        made = _run(self.decoder.module, vectors, f"the decoder on vectors {tuple(vectors.shape)}")
        shape = _shape(made, "the decoder")
        if shape != (2, 3, height, width):
            raise VqtrtError(
                f"the decoder makes {shape} of {h}x{w} codes: expected (2, 3, {height}, {width}), "
                "as the encoder was given"
            )


def _run(module: Any, argument: Tensor, what: str) -> Any:
    try:
        return module(argument)
    except Exception as error:
        raise VqtrtError(f"{what} fails ({one_line(error)})") from error


def _shape(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, Tensor):
        raise VqtrtError(
            f"{what} gives a {type(value).__name__}: wrap it in a module that gives one tensor"
        )
    return tuple(value.shape)
