"""What a CIFAR-10 tokenizer keeps, whether its files agree with torch, and how fast it encodes.

python benchmarks/images.py cifar10 runs/cifar10-small > benchmarks/results/DATE-images.md

`cifar10` is a folder with `train/CLASS/*` and `test/CLASS/*`; the run is one that
`vqtrt train cifar10-small --data cifar10/train` made, and that `vqtrt export` has exported.
"""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    data, run = sys.argv[1:]
    print(f"# Images: {Path(run).name} on {data}\n")
    print(f"{_machine()}\n")
    kept = ("nmse", "mse", "psnr", "ssim", "perplexity", "usage", "codes_used", "images")
    _table(_vqtrt("eval", f"{data}/test", "--model", run), kept)
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
    _table(_vqtrt("verify", run, f"{data}/test"), agreed)
    rates = (
        "decode_images_per_second",
        "engine_images_per_second",
        "end_to_end_images_per_second",
        "bound_images_per_second",
        "eager_loop_images_per_second",
        "peak_rss_bytes",
        "images",
    )
    small = _vqtrt("bench", "encode", f"{data}/test", "--model", run)
    small["end to end / bound"] = _ratio(small, "bound_images_per_second")
    small["end to end / eager loop"] = _ratio(small, "eager_loop_images_per_second")
    _table(small, (*rates, "end to end / bound", "end to end / eager loop"))
    large = _vqtrt("bench", "encode", data, "--model", run, "--repeat", "1", "--no-eager")
    large["more than for the test set, MiB"] = (
        large["peak_rss_bytes"] - small["peak_rss_bytes"]
    ) / 2**20
    _table(large, (*rates, "more than for the test set, MiB"))


def _ratio(figures: dict[str, Any], other: str) -> float:
    return float(figures["end_to_end_images_per_second"] / figures[other])


def _vqtrt(*arguments: str) -> dict[str, Any]:
    """Run a command with --json; print it as the heading of its figures."""
    command = ["vqtrt", *arguments, "--json"]
    print(f"`{' '.join(command)}`\n", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def _table(figures: dict[str, Any], names: tuple[str, ...]) -> None:
    print("| figure | value |\n|---|---|")
    for name in names:
        value = figures[name]
        print(f"| {name} | {f'{value:.5g}' if isinstance(value, float) else value} |")
    print(flush=True)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    cores = Path("/proc/cpuinfo").read_text(encoding="utf-8").count("processor\t")
    return f"Machine: {cores} cores, {model}, no GPU; Python {platform.python_version()}."


if __name__ == "__main__":
    main()
