"""What is measured: which network, how many samples, by which schemes?"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BATCH", "COMPARED", "FULL", "LARGE", "MEMORY", "Case"]

BATCH = 1000
"""Samples of the batch that the claim is about."""
_ALL = ("paper", "reference", "fast")


@dataclass(frozen=True, kw_only=True)
class Case:
    """Schemes that take turns with plain passes over the same samples."""

    network: str
    num_samples: int
    samples_at_once: int | None
    schemes: tuple[str, ...] = _ALL
    most_rounds: int = 100
    """Fewer for a case that takes long."""
    plain_passes: int = 3
    """Before a scheme's turn, and as many after it."""


COMPARED = (
    Case(network="lenet", num_samples=BATCH, samples_at_once=None),
    Case(network="lenet", num_samples=BATCH, samples_at_once=100),
    Case(network="vgg", num_samples=20, samples_at_once=None),
    Case(network="mlp", num_samples=50, samples_at_once=None),
    Case(network="resnet", num_samples=50, samples_at_once=None),
)
"""The paper's scheme takes 8 minutes a round for the whole batch of VGG-11' and 3 for that of the MLP, so there it is
compared on some of the samples."""
LARGE = tuple(
    Case(network=network, num_samples=BATCH, samples_at_once=50, schemes=("fast",), most_rounds=rounds, plain_passes=1)
    for network, rounds in (("mlp", 2), ("resnet", 2), ("vgg", 1))
)
"""The fast path alone on the whole batch."""
FULL = tuple(
    Case(network=network, num_samples=BATCH, samples_at_once=50, most_rounds=3, plain_passes=1)
    for network in ("vgg", "mlp", "resnet")
)
"""All schemes on the whole batch; what `LARGE` gives of the fast one stands in the same row of the table."""
MEMORY = (
    *COMPARED,
    Case(network="vgg", num_samples=100, samples_at_once=None, schemes=("fast",)),
    Case(network="mlp", num_samples=BATCH, samples_at_once=None, schemes=("fast",)),
    Case(network="resnet", num_samples=BATCH, samples_at_once=50, schemes=("fast",)),
)
"""A process for each scheme of each."""
