"""Bits per dimension of VAE, VQ-VAE and VIMCO on CIFAR-10: the same network, data and batches.

    python benchmarks/likelihood.py cifar10 work --plot docs/images/likelihood.png > table.md

`cifar10` is a folder with `train/CLASS/*` and `test/CLASS/*`. The runs go to the folder `work`,
and runs that are there already are not trained again. This is the paper's comparison (section
4.1) at a size for two cores; `--scale` multiplies all steps. The recipes
`cifar10-likelihood-vqvae`, `-vae` and `-vimco` have the paper's own size, for a GPU.

The number of codes was chosen before the test set was looked at: two at each position cost as
many bits as the KL of the VAE in a trial of 2,500 steps.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from report import heading

SMALL = {
    "model.hidden": 64,
    "model.residual_hidden": 64,
    "model.quantizer.kind": "ema",
    "model.quantizer.dim": 16,
    "model.likelihood.positions": 128,
    "train.batch_size": 32,
    "train.learning_rate": 2e-3,
    "train.schedule": "cosine",
}
PRIOR = {
    "prior.layers": 8,
    "data.conditional": False,
    "train.evaluate_every": 1000,
}


class Kind(NamedTuple):
    """A row of the table."""

    name: str
    recipe: str
    steps: int
    codebooks: int
    prior_steps: int
    samples: int


KINDS = (
    # The slowest first: two train at a time.
    Kind("VIMCO, 8x8x2", "vimco", 2_000, 2, 0, 50),
    Kind("VAE, 8x8x32 Gaussians", "vae", 12_000, 2, 0, 50),
    Kind("VQ-VAE, 8x8x2", "vqvae", 12_000, 2, 2_000, 1),
    Kind("VQ-VAE, 8x8x10", "vqvae", 12_000, 10, 2_000, 1),
)


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="of all steps")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--plot", type=Path, help="a PNG of the bounds over the steps")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    some = tenth(options.data / "test", options.work / "tenth.txt")
    pairs = [(kind, seed) for seed in range(options.seeds) for kind in KINDS]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda pair: measured(pair[0], pair[1], options, some), pairs))
    heading(f"Bits per dimension on CIFAR-10, {options.scale:g} of the steps of the benchmark")
    print(
        "| model | seed | steps | seconds of a core | reconstruction | latents | bound, 1 sample "
        "| standard error | 50 samples | trained prior |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    for row in rows:
        print("| " + " | ".join(row["cells"]) + " |")
    if options.plot:
        plot(rows, options.plot)


def tenth(folder: Path, list_file: Path) -> str:
    """A list of every tenth test image: bounds of 50 samples take long."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())[::10]
    list_file.write_text("".join(f"{path}\n" for path in files))
    return f"@{list_file}"


def measured(kind: Kind, seed: int, options: Any, some: str) -> dict[str, Any]:
    """Train a row's model and its prior, and measure it on the test set."""
    run = options.work / f"{kind.recipe}-{kind.codebooks}-{seed}"
    steps = max(1, round(kind.steps * options.scale))
    sets: dict[str, Any] = SMALL | {
        "model.quantizer.num_codebooks": kind.codebooks,
        "model.likelihood.samples": 10,
        "train.steps": steps,
        "train.seed": seed,
        "train.evaluate_every": max(1, steps // 10),
        "train.checkpoint_every": max(1, steps // 4),
    }
    if kind.recipe == "vimco":
        sets["train.batch_size"] = 16
    train = [f"cifar10-likelihood-{kind.recipe}", "--data", str(options.data / "train")]
    began = time.monotonic()
    vqtrt("train", *train, "--out", str(run), "--resume", *as_options(sets))
    seconds = time.monotonic() - began
    test = str(options.data / "test")
    found = bits(test, run)
    many = bits(some, run, "--samples", str(kind.samples)) if kind.samples > 1 else {}
    if kind.prior_steps:
        told = PRIOR | {"train.steps": max(1, round(kind.prior_steps * options.scale))}
        vqtrt(
            "train-prior",
            *("pixelcnn", "--data", str(options.data / "train"), "--model", str(run)),
            *("--name", "pixelcnn", "--resume", *as_options(told)),
        )
        found |= bits(test, run, "--prior", "pixelcnn")
    cells = [kind.name, str(seed), f"{steps:,}", f"{seconds:,.0f}"]
    cells += [f"{found[key]:.3f}" for key in ("reconstruction_bits", "latent_bits", "bits_per_dim")]
    cells.append(f"{found['standard_error']:.3f}")
    tight, prior = many.get("bits_per_dim_multi"), found.get("prior_bits_per_dim")
    cells.append("-" if tight is None else f"{tight:.3f} (of {many['bits_per_dim']:.3f})")
    cells.append("-" if prior is None else f"{prior:.3f}")
    return {"cells": cells, "run": run, "name": f"{kind.name}, seed {seed}"}


def bits(data: str, run: Path, *more: str) -> dict[str, Any]:
    """What `vqtrt eval --bits-per-dim` gives."""
    told = ("eval", data, "--model", str(run), "--bits-per-dim", "--json", *more)
    found: dict[str, Any] = json.loads(vqtrt(*told))
    return found


def as_options(settings: dict[str, Any]) -> list[str]:
    """Settings as `--set` options."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def vqtrt(*arguments: str) -> str:
    """Run a command with one thread; its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "vqtrt", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"vqtrt {' '.join(arguments)}: exit status {done.returncode}")
    return done.stdout


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """The bounds on held-out images over the steps, a line for each run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for row in rows:
        lines = (row["run"] / "metrics.jsonl").read_text().splitlines()
        points = [entry for entry in map(json.loads, lines) if "evaluation" in entry]
        steps = [point["step"] for point in points]
        axes.plot(
            [step / steps[-1] for step in steps],
            [point["evaluation"]["bits_per_dim"] for point in points],
            marker=".",
            label=f"{row['name']} ({steps[-1]:,} steps)",
        )
    axes.set(xlabel="share of the run's steps", ylabel="bits per dimension, held-out images")
    axes.legend(frameon=False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
