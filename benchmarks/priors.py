"""What priors know of CIFAR-10 codes that they have not seen.

python benchmarks/priors.py cifar10 runs/cifar10-small > benchmarks/results/DATE-priors.md

`cifar10` is a folder with `test/CLASS/*`; the run has the priors `pixelcnn` and `unconditional`
(docs/prior.md says how they are trained), and `vqtrt export` has exported it.
"""

import sys
from pathlib import Path

from report import heading, table, vqtrt


def main() -> None:
    data, run = sys.argv[1:]
    heading(f"Priors of {Path(run).name} on {data}")
    figures = ("bits_per_code", "unigram_bits", "gain_bits", "prior_bits_per_dim", "rows")
    for prior in ("pixelcnn", "unconditional"):
        table(vqtrt("eval", f"{data}/test", "--model", run, "--prior", prior), figures)


if __name__ == "__main__":
    main()
