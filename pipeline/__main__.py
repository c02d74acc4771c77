"""`python -m pipeline`, which `torchrun -m pipeline` runs on every rank."""

import gc
import os

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is loaded: a lost store is told by us

from pipeline.commands.cli import main

try:
    main()
finally:
    gc.freeze()  # spares the collector a walk of a second through all of PyTorch when the interpreter ends
