"""What drawing a batch from a PixelCNN costs, in full forward passes, and the naive loop beside it.

python benchmarks/sampling.py > benchmarks/results/DATE-sampling.md

15 layers of 64 channels, K 512, random weights: the cost does not depend on what was learnt.
"""

from report import heading, vqtrt

SHAPES = ("8x8", "32x32")
BATCHES = ("1", "16", "64")
FIGURES = (
    "forward_passes",
    "seconds_per_batch",
    "forward_seconds",
    "naive_seconds",
    "naive_positions",
    "images_per_second",
)


def main() -> None:
    heading("Sampling: cached against full passes, onnxruntime on the CPU")
    rows = []
    for shape in SHAPES:
        for batch in BATCHES:
            rows.append(vqtrt("bench", "sample", "--shape", shape, "--batch-size", batch))
    print(f"| shape | batch | {' | '.join(FIGURES)} | naive / cached |")
    print("|---" * (len(FIGURES) + 3) + "|")
    for row in rows:
        shape = "x".join(str(side) for side in row["shape"])
        values = " | ".join(f"{row[name]:.4g}" for name in FIGURES)
        ratio = row["naive_seconds"] / row["seconds_per_batch"]
        print(f"| {shape} | {row['batch_size']} | {values} | {ratio:.0f} |")


if __name__ == "__main__":
    main()
