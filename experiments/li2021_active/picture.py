"""What do the results look like: where the active parameters are, and what putting them back costs?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from experiments.li2021_active.config import NUM_LAYERS, SETS, SETTINGS
from experiments.li2021_active.results import Run

__all__ = ["PICTURE", "draw"]

PICTURE = "active.png"
_LOCATED = 0.01


def draw(runs: Mapping[int, Sequence[Run]], path: Path) -> None:
    """Share and density against width for each layer, and accuracy against the share put back for the widest."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (shares, densities, resets) = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    widths = sorted(runs)
    for layer in range(NUM_LAYERS):
        active = [[_active(run)[layer] for run in runs[width]] for width in widths]
        totals = [sum(_active(runs[width][0])) for width in widths]
        sizes = [runs[width][0].layer_sizes for width in widths]
        style = {"color": f"C{layer}", "marker": "o"}
        shares.plot(
            widths, [mean(a) / t for a, t in zip(active, totals, strict=True)], label=f"layer {layer + 1}", **style
        )
        shares.plot(widths, [size[layer] / sum(size) for size in sizes], color=f"C{layer}", linestyle=":")
        densities.plot(widths, [mean(a) / size[layer] for a, size in zip(active, sizes, strict=True)], **style)
    densities.axhline(_LOCATED, color="gray", linestyle=":")
    shares.set(xscale="log", xlabel="width", title=f"share of the active {_LOCATED:.0%}, by layer")
    shares.legend(title="dotted: of all parameters", fontsize="small")
    densities.set(xscale="log", yscale="log", xlabel="width", title="part of a layer that is active")
    own = runs[widths[-1]]
    for which in SETS:
        found = [
            mean(reset.test_accuracy for run in own if (reset := run.reset(which, unit="absolute", share=share)))
            for share in SETTINGS.reset_shares
        ]
        resets.plot(SETTINGS.reset_shares, found, marker="o", label=which.replace("_", " "))
    resets.axhline(mean(run.test_accuracy for run in own), color="gray", linestyle=":")
    resets.set(xlabel="share put back", title=f"test accuracy, width {widths[-1]}")
    resets.legend(fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _active(run: Run) -> list[int]:
    return run.num_active["absolute"][SETTINGS.shares.index(_LOCATED)]
