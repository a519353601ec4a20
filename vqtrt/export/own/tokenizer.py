"""Bring your own tokenizer: any torch encoder, decoder and quantizer to a bundle.

What is written is what `vqtrt export` writes, so that all commands that take a bundle work with it,
on machines without torch. It is compared with the modules before it takes its place.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.export import Dim

from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.engines.choose import installed
from vqtrt.errors import VqtrtError
from vqtrt.export.bundle import check_place, replacing, within_bounds
from vqtrt.export.onnx import OPSET, FixedSizeError, draws, write_graph
from vqtrt.export.own.adapt import Quantizer
from vqtrt.export.own.modules import one_line
from vqtrt.export.own.parts import Parts
from vqtrt.export.own.verify import verify_parts
from vqtrt.formats.bundle import Bundle, BundleInfo, GraphSpec, Source, TensorSpec
from vqtrt.version import __version__

_MAX_SIDE = 16384
_IMAGES = 16


def export_tokenizer(
    out: str | Path,
    *,
    encoder: nn.Module,
    decoder: nn.Module,
    quantizer: Quantizer,
    height: int,
    width: int,
    name: str = "own",
    scale: float = 1 / 255,
    offset: float = -0.5,
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic",
    fixed_size: bool = False,
    verify: bool = True,
    images: Images | None = None,
) -> Bundle:
    """Write the bundle of a tokenizer into the folder `out`, and verify it.

    `encoder` takes images float32 (N, 3, H, W), which are `bytes * scale + offset` ([−0.5, 0.5] by
    default), and gives vectors (N, channels, H/stride, W/stride). `decoder` takes such vectors and
    gives images like the encoder's. `quantizer` is a codebook (K, D) or (C, K, D), channels C·D, or
    a VectorQuantize, ResidualVQ, FSQ or LFQ module of vector-quantize-pytorch. All in float32.

    `height` and `width` are what files are brought to, with the filter `resample`; the graphs take
    all multiples of the stride, or with `fixed_size` this size alone. `name` stands as the recipe
    in the bundle. The verification takes `images` uint8 (N, height, width, 3), or random ones.

    The modules are not changed: what is exported is a copy in eval mode. A bundle that stood in
    `out` is replaced if all went well. Raises `VqtrtError` if the parts do not fit together,
    cannot be exported, or yield other codes or images from the bundle than in torch.
    """
    out = Path(out)
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise VqtrtError(f"size {height}x{width}: both have to be 1 to {_MAX_SIDE} pixels")
    check_place(out)
    if verify and not installed("onnxruntime"):
        raise VqtrtError(
            'verifying a bundle needs a runtime: pip install "vqtrt[cpu]" (or "vqtrt[gpu]"), or '
            "pass verify=False"
        )
    parts = Parts.of(encoder, decoder, quantizer, scale, offset)
    stride = parts.stride(height, width, fixed_size=fixed_size)
    parts.check_repeats(height, width, stride)
    size = Preprocessing(height=height, width=width, resample=resample)
    with replacing(out) as folder, within_bounds():
        info = BundleInfo(
            vqtrt_version=__version__,
            model=parts.info(stride),
            preprocessing=size,
            graphs=_write_graphs(parts, size, stride, folder, fixed_size=fixed_size),
            opset=OPSET,
            source=Source(run="", weights_sha256=parts.weights_sha256(), recipe=name),
        )
        Bundle.write_info(folder, info)
        if verify:
            shown = random_images(_IMAGES, height, width) if images is None else images
            bundle = Bundle.open(folder)
            _check_figures(bundle, verify_parts(bundle, shown, parts))
            if not fixed_size:
                _check_sizes(bundle, parts, height, width, stride)
    return Bundle.open(out)


def random_images(count: int, height: int, width: int, *, seed: int = 0) -> Images:
    """Images uint8 (count, height, width, 3): blocks of random colors, coarse and fine."""
    rng = np.random.default_rng(seed)
    total = np.zeros((count, height, width, 3))
    for side in (1, 8, 32):
        rows, columns = -(-height // side), -(-width // side)
        blocks = rng.uniform(0, 85, (count, rows, columns, 3))
        total += blocks.repeat(side, 1).repeat(side, 2)[:, :height, :width]
    return total.astype(np.uint8)


def _write_graphs(
    parts: Parts, size: Preprocessing, stride: int, folder: Path, *, fixed_size: bool
) -> dict[str, GraphSpec]:
    """Write `encoder.onnx` and `decoder.onnx`; the batch is free, and height and width may be."""
    count = parts.form.num_codebooks
    books = () if count == 1 else (count,)
    h, w = size.height // stride, size.width // stride
    batch: dict[int, Any] = {0: Dim("batch", min=1)}
    pixel_axes, code_axes = dict(batch), dict(batch)
    pixels: tuple[int | str, ...] = (size.height, size.width)
    grid: tuple[int | str, ...] = (h, w)
    if not fixed_size:
        pixels = ("h", "w") if stride == 1 else (f"{stride}*h", f"{stride}*w")
        grid = ("h", "w")
        rows, columns = Dim("h", min=1, max=_MAX_SIDE), Dim("w", min=1, max=_MAX_SIDE)
        pixel_axes |= {1: stride * rows, 2: stride * columns}
        code_axes |= {1: rows, 2: columns}
        # The exporter takes a size of 1 for one that never changes.
        h, w = max(h, 2), max(w, 2)
    images = TensorSpec(name="images", dtype="uint8", shape=("batch", *pixels, 3))
    codes = TensorSpec(name="codes", dtype="int32", shape=("batch", *grid, *books))
    shown = torch.zeros(2, h * stride, w * stride, 3, dtype=torch.uint8)
    coded = torch.zeros(2, h, w, *books, dtype=torch.int32)

    def write(
        name: str,
        module: nn.Module,
        example: torch.Tensor,
        axes: dict[int, Any],
        source: TensorSpec,
        target: TensorSpec,
    ) -> GraphSpec:
        arguments, free = {source.name: example}, {source.name: axes}
        try:
            return write_graph(module, arguments, free, [source], [target], folder, f"{name}.onnx")
        except OSError:
            raise
        except Exception as error:
            # The exporter raises errors of many kinds, all of what a module does.
            reason = str(error) if isinstance(error, FixedSizeError) else one_line(error)
            of_batch = isinstance(error, FixedSizeError) and error.size == "batch"
            hint = "; if it works at one size only, pass fixed_size=True"
            hint = "" if fixed_size or of_batch else hint
            raise VqtrtError(f"the {name} cannot be exported to ONNX ({reason}){hint}") from error

    return {
        "encoder": write("encoder", parts.encoder, shown, pixel_axes, images, codes),
        "decoder": write("decoder", parts.decoder, coded, code_axes, codes, images),
    }


def _check_sizes(bundle: Bundle, parts: Parts, height: int, width: int, stride: int) -> None:
    """Verify at other sizes and batches than the example's, of as many pixels.

    What the exporter made a constant works at the example's size. Sizes that the modules themselves
    do not take are left out.
    """
    h, w = height // stride, width // stride
    for rows, columns, count in ((max(1, h // 2), 2 * w, 3), (2 * h, max(1, w // 2), 1)):
        images = random_images(count, rows * stride, columns * stride)
        if not parts.take(images):
            continue
        where = f" at {rows * stride}x{columns * stride} pixels in a batch of {count}"
        try:
            figures = verify_parts(bundle, images, parts)
        except VqtrtError as error:
            raise VqtrtError(f"the bundle does not work{where}: {error}") from error
        _check_figures(bundle, figures, where)


def _check_figures(bundle: Bundle, figures: dict[str, Any], where: str = "") -> None:
    if not figures["passed"]:
        random = [name for name in bundle.info.graphs if draws(bundle.graph_bytes(name))]
        noise = f"; it draws random numbers in the graph of the {random[0]}" if random else ""
        raise VqtrtError(
            f"the bundle does not do what the modules do in torch{where}, and is not kept: "
            f"{figures['mismatches']} of {figures['codes']} codes differ (margin up to "
            f"{figures['max_mismatch_margin']:.2g}), pixels by up to "
            f"{figures['decoder_max_abs_diff']} levels, batch invariance "
            f"{figures['batch_invariance']:.6g}{noise}; verify=False writes it nevertheless"
        )
