"""`python -m pipeline`, which `torchrun -m pipeline` runs on every rank."""

from pipeline.cli import main

main()
