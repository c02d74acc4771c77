"""What, beside its settings, decides the bits of a run?

A result is repeated to the bit only where all of this is the same, so each attempt of a run writes it down, and a
comparison is refused where it differs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline.configuration.loading import fingerprint
from pipeline.records.folder import processor, read_record

__all__ = ["Conditions"]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Where and with what a stage computes."""

    torch_version: str
    """Of PyTorch, with its build."""
    device: str
    """`cpu`, or `cuda` and the GPU's name."""
    processor: str
    """The CPU's name."""
    instructions: str
    """The vector instructions that PyTorch has chosen (ATEN_CPU_CAPABILITY can choose others)."""
    num_threads: int
    """Intra-op threads of the process."""
    config: str | None
    """SHA-256 of the configuration's file; None where there is none, as in a notebook."""

    @staticmethod
    def here(run: Path, device: torch.device) -> Conditions:
        """Those of this process, for a stage of `run` on `device`."""
        return Conditions(
            torch_version=torch.__version__,
            device=f"cuda {torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type,
            processor=processor(),
            instructions=torch.backends.cpu.get_cpu_capability(),
            num_threads=torch.get_num_threads(),
            config=_fingerprint(run),
        )

    def differences(self, here: Conditions) -> list[str]:
        """What is different `here`, in words; empty: the same bits are to be expected."""
        then, now = asdict(self), asdict(here)
        return [
            f"{words} was {then[name] or 'not recorded'}, here it is {now[name]}"
            for name, words in _WORDS.items()
            if then[name] != now[name]
        ]


_WORDS = {
    "torch_version": "the version of torch",
    "device": "the device",
    "processor": "the processor",
    "instructions": "the set of vector instructions",
    "num_threads": "num_threads",
    "config": "the SHA-256 of the configuration's file",
}


def _fingerprint(run: Path) -> str | None:
    """Read anew for each attempt, because the file may have changed since the run was started."""
    if not (run / "config.json").exists():
        return None
    try:
        return fingerprint(read_record(run).config)
    except OSError:
        return None
