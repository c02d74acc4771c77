"""What do the tests of the runtime share?"""

from __future__ import annotations

import torch

torch.set_num_threads(1)  # as the configuration's default; results on CPU depend on it
