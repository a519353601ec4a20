"""What a CIFAR-10 tokenizer keeps, whether its files agree with torch, and how fast it encodes.

python benchmarks/images.py cifar10 runs/cifar10-small > benchmarks/results/DATE-images.md

`cifar10` is a folder with `train/CLASS/*` and `test/CLASS/*`; the run is one that
`vqtrt train cifar10-small --data cifar10/train` made, and that `vqtrt export` has exported.
"""

import sys
from pathlib import Path
from typing import Any

from report import heading, table, vqtrt


def main() -> None:
    data, run = sys.argv[1:]
    heading(f"Images: {Path(run).name} on {data}")
    kept = ("nmse", "mse", "psnr", "ssim", "perplexity", "usage", "codes_used", "images")
    table(vqtrt("eval", f"{data}/test", "--model", run), kept)
    agreed = (
        "code_agreement",
        "code_agreement_beyond_margin",
        "mismatches",
        "max_mismatch_margin",
        "decoder_max_abs_diff",
        "batch_invariance",
        "images",
        "codes",
    )
    table(vqtrt("verify", run, f"{data}/test"), agreed)
    rates = (
        "decode_images_per_second",
        "engine_images_per_second",
        "end_to_end_images_per_second",
        "bound_images_per_second",
        "eager_loop_images_per_second",
        "peak_rss_bytes",
        "images",
    )
    small = vqtrt("bench", "encode", f"{data}/test", "--model", run)
    small["end to end / bound"] = _ratio(small, "bound_images_per_second")
    small["end to end / eager loop"] = _ratio(small, "eager_loop_images_per_second")
    table(small, (*rates, "end to end / bound", "end to end / eager loop"))
    large = vqtrt("bench", "encode", data, "--model", run, "--repeat", "1", "--no-eager")
    large["more than for the test set, MiB"] = (
        large["peak_rss_bytes"] - small["peak_rss_bytes"]
    ) / 2**20
    table(large, (*rates, "more than for the test set, MiB"))


def _ratio(figures: dict[str, Any], other: str) -> float:
    return float(figures["end_to_end_images_per_second"] / figures[other])


if __name__ == "__main__":
    main()
