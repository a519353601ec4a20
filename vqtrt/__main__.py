"""`python -m vqtrt`, which is also what `torchrun -m vqtrt train …` starts."""

from vqtrt.cli import main

main()
