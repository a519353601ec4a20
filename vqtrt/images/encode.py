"""A source of images through a tokenizer, to a codes file (`vqtrt encode`).

Images are read ahead in threads (`data/images/batches.py`) while the engine works on the batch
before. Memory holds a few batches, however many images there are.
"""

from collections.abc import Generator
from pathlib import Path
from typing import Unpack

from vqtrt.data.images.batches import read_batches
from vqtrt.data.images.preprocessing import Preprocessing
from vqtrt.data.images.source import ImageSource
from vqtrt.formats.codes import CodesHeader, read_codes
from vqtrt.formats.codes_writer import CodesWriter, check_codes_out, is_complete
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.encode import (
    EncodeOptions,
    EncodeResult,
    already_done,
    list_source,
    require_outside,
    source_fields,
    write_codes,
)


def encode_source(
    tokenizer: ImageTokenizer, source: ImageSource, out: Path, **options: Unpack[EncodeOptions]
) -> EncodeResult:
    """Write the codes of a source to `out` (.npy) and a .json beside it, in the source's order.

    If an image cannot be read, raises `ImageError` and leaves no `out`; with `on_error="skip"` the
    .json lists the image as rejected. What was done when a job stopped is kept beside `out`, and
    `resume` continues it; an `out` that this very job has finished stays. Raises `VqtrtError` if
    no image at all can be read.
    """
    require_outside(out, source)
    resume = options.get("resume", False)
    size: Preprocessing = options.get("preprocessing") or tokenizer.preprocessing
    height, width = tokenizer.code_shape(size.height, size.width)[:2]
    check_codes_out(out)
    listing = list_source(source)
    header = CodesHeader(
        num_codebooks=tokenizer.num_codebooks,
        code_shape=(height, width),
        image_size=(size.height, size.width),
        preprocessing=size.model_dump(mode="json"),
        **source_fields(tokenizer, source, listing, options),
    )
    if resume and is_complete(out, header):
        done = read_codes(out)
        return already_done(out, len(done.codes), done.rejected, listing)

    def steps(writer: CodesWriter, skip: int) -> Generator[None]:
        for batch in read_batches(
            source,
            size,
            batch_size=tokenizer.batch_size,
            workers=options["workers"],
            on_error=options.get("on_error", "stop"),
            skip=skip,
        ):
            if batch.items:
                names, labels = [i.name for i in batch.items], [i.label for i in batch.items]
                writer.write(names, labels, tokenizer.encode(batch.images))
            for item, reason in batch.rejected:
                writer.reject(item.name, reason)
            yield

    writer = CodesWriter(out, header=header, resume=resume)
    return write_codes(writer, steps, listing, "an image", options)
