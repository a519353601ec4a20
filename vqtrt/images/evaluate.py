"""How well a tokenizer keeps pictures, over a whole set, on any engine (`vqtrt eval`)."""

from collections import Counter
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from vqtrt.data.grid import check_png, pairs_grid, save_png, spread
from vqtrt.data.images.batches import read_batches
from vqtrt.data.images.source import Images, ImageSource
from vqtrt.data.rejects import reject_kind
from vqtrt.data.selection import add_kind
from vqtrt.images.tokenizer import ImageTokenizer
from vqtrt.jobs.encode import EncodeOptions
from vqtrt.jobs.loop import Steps, ignore, nothing_read, run_steps
from vqtrt.metrics import CodeUsage, ImageMetrics

_GRID_IMAGES = 64


def evaluate(
    tokenizer: ImageTokenizer,
    source: ImageSource,
    *,
    grid: Path | None = None,
    **options: Unpack[EncodeOptions],
) -> dict[str, Any]:
    """Encode and decode every image; the figures of `ImageMetrics` and `CodeUsage`.

    Keys: `mse` (pixels in [0, 1]), `nmse` (mse over the set's variance), `psnr` (dB), `ssim`,
    `perplexity` and `usage` (share of the codebook that occurs) over the whole set, `codes_used`,
    `unigram_bits` (entropy of the codes, bits), `images`, `rejected`, and
    `rejected_kinds` (how many of each suffix and reason). `grid` names a PNG to write: images of
    the whole set over their reconstructions. Raises `VqtrtError` before any work where it cannot be
    written.
    """
    if grid is not None:
        check_png(grid)
    metrics = ImageMetrics()
    usage = CodeUsage(tokenizer.codebook_size, tokenizer.num_codebooks)
    images = rejected = 0
    kinds = Counter[str]()
    total = sum(1 for _ in source.items())
    # Of the whole set, not of its first class alone.
    wanted = spread(total, _GRID_IMAGES) if grid else set()
    shown: list[tuple[Images, Images]] = []

    def steps() -> Steps:
        nonlocal images, rejected
        for batch in read_batches(
            source,
            options.get("preprocessing") or tokenizer.preprocessing,
            batch_size=tokenizer.batch_size,
            workers=options["workers"],
            on_error=options.get("on_error", "stop"),
        ):
            rejected += len(batch.rejected)
            for item, reason in batch.rejected:
                add_kind(kinds, reject_kind(item.name, reason))
            if batch.items:
                codes = tokenizer.encode(batch.images)
                decoded = tokenizer.decode(codes)
                metrics.update(batch.images, decoded)
                rows = [row for row in range(len(decoded)) if images + row in wanted]
                if rows:
                    shown.append((batch.images[rows], decoded[rows]))
                usage.update(codes)
                images += len(batch.items)
            yield images + rejected

    run_steps(steps(), total, options.get("progress", ignore))
    if not images:
        raise nothing_read(options["root"], total, "an image")
    if grid is not None:
        originals, decoded = (np.concatenate(part) for part in zip(*shown, strict=True))
        save_png(grid, pairs_grid(originals, decoded))
    return {
        **metrics.result(),
        **usage.result(),
        "images": images,
        "rejected": rejected,
        "rejected_kinds": dict(kinds),
    }
