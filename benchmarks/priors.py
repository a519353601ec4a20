"""What a prior knows of CIFAR-10 codes, and what drawing from one costs.

python benchmarks/priors.py cifar10 runs/cifar10-small > benchmarks/results/DATE-priors.md

`cifar10` is a folder with `test/CLASS/*`; the run has the priors `pixelcnn` and `unconditional`
(docs/prior.md says how they are trained), and `vqtrt export` has exported it.
"""

import sys
from pathlib import Path

from report import heading, table, vqtrt

SHAPES = ("8x8", "32x32")
BATCHES = ("1", "16", "64")


def main() -> None:
    data, run = sys.argv[1:]
    heading(f"Priors of {Path(run).name} on {data}")
    kept = ("bits_per_code", "unigram_bits", "gain_bits", "prior_bits_per_dim", "rows")
    for prior in ("pixelcnn", "unconditional"):
        table(vqtrt("eval", f"{data}/test", "--model", run, "--prior", prior), kept)
    figures = []
    for shape in SHAPES:
        for batch in BATCHES:
            figures.append(vqtrt("bench", "sample", "--shape", shape, "--batch-size", batch))
    names = (
        "forward_passes",
        "seconds_per_batch",
        "forward_seconds",
        "naive_seconds",
        "naive_positions",
        "images_per_second",
    )
    print(f"| shape | batch | {' | '.join(names)} | naive / cached |")
    print("|---" * (len(names) + 3) + "|")
    for row in figures:
        shape = "x".join(str(side) for side in row["shape"])
        values = " | ".join(f"{row[name]:.4g}" for name in names)
        ratio = row["naive_seconds"] / row["seconds_per_batch"]
        print(f"| {shape} | {row['batch_size']} | {values} | {ratio:.0f} |")
    same = ("engine", "layers", "channels", "codebook_size")
    print("\n" + ", ".join(f"{name} {figures[0][name]}" for name in same))


if __name__ == "__main__":
    main()
