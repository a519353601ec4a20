"""Images to codes and back, over any engine."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vqtrt.config.location import ModelLocation
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import Images
from vqtrt.engines.base import Engine, Graph
from vqtrt.engines.opened import Opened
from vqtrt.errors import VqtrtError
from vqtrt.formats.bundle import of_images
from vqtrt.formats.code_values import check_codes
from vqtrt.formats.codes import codes_dtype
from vqtrt.jobs.encode import EncodeResult
from vqtrt.jobs.files import FileOptions, open_files, selection
from vqtrt.jobs.tokenizer import Tokenizer

Codes = NDArray[Any]
"""(N, h, w), or (N, h, w, C) for C codebooks; the smallest unsigned dtype that holds them."""


class ImageTokenizer(Tokenizer):
    """A model, ready to turn images into codes and codes into images.

    Graphs are opened when they are first needed. `batch_size` bounds how many images go through
    the engine at once; the codes of an image do not depend on it. Threads may share a tokenizer;
    it can be pickled and used after a fork. Raises `VqtrtError` for a model of audio.
    """

    def __init__(
        self, engine: Engine, *, batch_size: int = 64, location: ModelLocation | None = None
    ) -> None:
        super().__init__(engine, batch_size, location)
        self.preprocessing: Preprocessing = of_images(engine.preprocessing)
        """How files are brought to the size that the model was trained on."""
        self._graphs: Opened[str, Graph] = Opened()

    @property
    def num_codebooks(self) -> int:
        """C: codes at each position."""
        return self.info.num_codebooks

    def code_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Shape of one image's codes: (h, w), or (h, w, C) for C > 1 codebooks.

        Raises `VqtrtError` if the size cannot be divided by the model's stride.
        """
        stride = self.stride
        if height < stride or width < stride or height % stride or width % stride:
            raise VqtrtError(
                f"images of {height}x{width} pixels: height and width must be multiples of "
                f"{stride} for this model"
            )
        grid = (height // stride, width // stride)
        return grid if self.num_codebooks == 1 else (*grid, self.num_codebooks)

    def encode(self, images: ArrayLike) -> Codes:
        """Codes of RGB images: uint8 (N, H, W, 3); or of one image (H, W, 3), without N.

        H and W must be multiples of the stride. Raises `VqtrtError` for another dtype or shape.
        """
        array = np.asarray(images)
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or array.shape[-1] != 3:
            raise VqtrtError(
                f"images must be uint8 of shape (N, H, W, 3), not {array.dtype} {array.shape}"
                f"{_hint(array)}"
            )
        shape = self.code_shape(*array.shape[-3:-1])
        if array.ndim == 3:
            one: Codes = self.encode(array[None])[0]
            return one
        return self._in_batches("encoder", array, shape, codes_dtype(self.codebook_size))

    def decode(self, codes: ArrayLike) -> Images:
        """Images uint8 (N, H, W, 3) of codes (N, h, w) or (N, h, w, C); without N, one image.

        Any integer dtype. Raises `VqtrtError` for another shape or a code that is not in the
        codebook.
        """
        array = np.asarray(codes)
        grid = 2 if self.num_codebooks == 1 else 3
        if array.ndim == grid:
            image: Images = self.decode(array[None])[0]
            return image
        check_codes(array, self.codebook_size, None, self.num_codebooks)
        stride = self.stride
        shape = (array.shape[1] * stride, array.shape[2] * stride, 3)
        return self._in_batches("decoder", array.astype(np.int32), shape, np.dtype(np.uint8))

    def encode_stream(self, images: Iterable[Images]) -> Iterator[Codes]:
        """The codes (h, w[, C]) of any number of images uint8 (H, W, 3), in bounded memory.

        All images have one size. Raises as `encode`, and what `images` raises.
        """
        for batch in _batches(images, self.batch_size):
            yield from self.encode(np.stack(batch))

    def stream(self, codes: Iterable[Codes]) -> Iterator[Images]:
        """The images uint8 (H, W, 3) of any number of codes (h, w[, C]), in bounded memory.

        All codes have one shape. Raises as `decode`, and what `codes` raises.
        """
        for batch in _batches(codes, self.batch_size):
            yield from self.decode(np.stack(batch))

    def open_image(self, path: str | Path) -> Images:
        """An image file as uint8 (H, W, 3), as `vqtrt encode` reads it for this model.

        Raises `ImageError` if it cannot be read.
        """
        from vqtrt.data.images.decode import decode_image

        return decode_image(Path(path), self.preprocessing)

    def encode_files(
        self,
        paths: str | Path | Sequence[str | Path],
        out: str | Path,
        *,
        split: str = "all",
        **options: Unpack[FileOptions],
    ) -> EncodeResult:
        """Encode folders and files to a codes file or a folder of shards, as `vqtrt encode`.

        Args:
            paths: What the command takes: folders, images, arrays, CIFAR, `shapes`; one or several.
            out: Codes file to write, .npy, with a .json; or a folder for shards.
            split: Part of a data set that has parts: `train`, `test` or `all`.
            options: As `vqtrt.jobs.files.FileOptions`: `preprocessing`, `include`, `exclude`,
                `workers`, `on_error`, `resume`, `progress`; of shards `shard_size`, `format`,
                `turn`.

        Raises `VqtrtError` or `ImageError` as the command.
        """
        from vqtrt.data.images.open import open_images
        from vqtrt.formats.shards import indexes_of
        from vqtrt.images.encode import encode_source

        open_one = partial(
            open_images,
            split=split,
            selection=selection(options),
            indexes=indexes_of(Path(out)),
        )
        source, chosen = open_files(paths, open_one, options)
        return encode_source(self, source, Path(out), **chosen)

    def graph(self, name: str) -> Graph:
        """The engine's graph, opened once."""
        return self._graphs.get(name, partial(self.engine.open, name))

    def _in_batches(
        self,
        name: str,
        array: NDArray[Any],
        item_shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> NDArray[Any]:
        run = self.graph(name)
        array = np.ascontiguousarray(array)
        out = np.empty((len(array), *item_shape), dtype)
        for start in range(0, len(array), self.batch_size):
            part = array[start : start + self.batch_size]
            whole = _filled(part, self.batch_size) if self.engine.shape_specialized else part
            out[start : start + len(part)] = run(whole)[: len(part)]
        return out


def _batches(items: Iterable[NDArray[Any]], size: int) -> Iterator[list[NDArray[Any]]]:
    """Items, some at a time."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch


def _filled(batch: NDArray[Any], size: int) -> NDArray[Any]:
    """A batch with zeros up to a size."""
    if len(batch) == size:
        return batch
    whole = np.zeros((size, *batch.shape[1:]), batch.dtype)
    whole[: len(batch)] = batch
    return whole


def _hint(array: NDArray[Any]) -> str:
    """How an array becomes images, if its shape or its dtype tells."""
    if array.ndim in (3, 4) and array.shape[-3] == 3 and array.shape[-1] != 3:
        return f"; put the channels last: np.moveaxis(images, {array.ndim - 3}, -1)"
    if array.ndim in (3, 4) and array.shape[-1] in (1, 2, 4):
        return '; convert the files to RGB: Image.open(path).convert("RGB")'
    if array.dtype.kind == "f":
        return "; bring [0, 1] to bytes: (images * 255).round().astype(np.uint8)"
    return ""
