"""A source of images through a tokenizer, to a codes file (`vqtrt encode`).

Images are read ahead in threads (`data/images/batches.py`) while the engine works on the batch
before. Memory holds a few batches, however many images there are.
"""

from contextlib import closing
from pathlib import Path
from typing import Any, Unpack

from numpy.typing import NDArray

from vqtrt.data.images.batches import Batch, read_batches
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import ImageSource
from vqtrt.data.images.views import ViewsPreprocessing
from vqtrt.formats.codes import CodesHeader, read_codes
from vqtrt.formats.codes_writer import CodesWriter, WritesImages
from vqtrt.formats.shard_writer import ImageShard
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.encode import (
    EncodeOptions,
    EncodeParts,
    EncodeResult,
    require_outside,
    run_encode,
)
from vqtrt.jobs.loop import Steps
from vqtrt.jobs.shards import run_shards
from vqtrt.jobs.stages import Stages


def encode_source(
    tokenizer: ImageTokenizer, source: ImageSource, out: Path, **options: Unpack[EncodeOptions]
) -> EncodeResult:
    """Write the codes of a source to `out` (.npy) and a .json beside it, in the source's order.

    An `out` that does not end in .npy becomes a folder of shards (`formats/shards.py`); the same
    call continues an interrupted one.

    If an image cannot be read, raises `ImageError` and leaves no `out`; with `on_error="skip"` the
    .json lists the image as rejected. What was done when a job stopped is kept beside `out`, and
    `resume` continues it; an `out` that this very job has finished stays. Raises `VqtrtError` if
    no image at all can be read.
    """
    require_outside(out, source)
    size: Preprocessing = options.get("preprocessing") or tokenizer.preprocessing
    height, width = tokenizer.code_shape(size.height, size.width)[:2]

    def header(fields: dict[str, Any]) -> CodesHeader:
        return CodesHeader(
            num_codebooks=tokenizer.num_codebooks,
            code_shape=(height, width),
            image_size=(size.height, size.width),
            preprocessing=size.model_dump(mode="json"),
            views=size.views if isinstance(size, ViewsPreprocessing) else None,
            **fields,
        )

    stages = Stages()

    def steps(source: ImageSource, writer: WritesImages, skip: int) -> Steps:
        batches = read_batches(
            source,
            size,
            batch_size=tokenizer.batch_size,
            workers=options["workers"],
            on_error=options.get("on_error", "stop"),
            skip=skip,
        )
        with closing(batches):
            for batch in stages.each("read", batches):
                with stages.of("engine"):
                    codes = _codes(tokenizer, batch)
                with stages.of("write"):
                    _write(writer, batch, codes)
                yield writer.files_done

    parts = EncodeParts(
        item="an image",
        header=header,
        writer=CodesWriter,
        shard=ImageShard,
        read=lambda path: (len((codes := read_codes(path)).codes), codes.rejected),
        stages=stages,
        steps=steps,
    )
    run = run_encode if out.suffix == ".npy" else run_shards
    return run(tokenizer, source, out, options, parts)


def _codes(tokenizer: ImageTokenizer, batch: Batch) -> NDArray[Any]:
    """The codes of a batch (n, h, w[, C]), or of several views (n, V, h, w[, C])."""
    if not batch.items:
        return batch.images
    *items, height, width, channels = batch.images.shape
    codes = tokenizer.encode(batch.images.reshape(-1, height, width, channels))
    return codes.reshape(*items, *codes.shape[1:])


def _write(writer: WritesImages, batch: Batch, codes: NDArray[Any]) -> None:
    """Write the items of a batch in their order, those that could not be read as well.

    In another order, the lines of a shard would depend on the size of batches.
    """
    names, labels = [item.name for item in batch.items], [item.label for item in batch.items]
    start = 0
    for (item, reason), stop in zip(batch.rejected, batch.before, strict=True):
        if stop > start:
            writer.write(names[start:stop], labels[start:stop], codes[start:stop])
        writer.reject(item.name, reason)
        start = stop
    if start < len(names):
        writer.write(names[start:], labels[start:], codes[start:])
