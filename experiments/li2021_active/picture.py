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
_STYLES = ("C3o-", "C0s-", "C2x--", "C1^-")
"""Of SETS; lazy and random lie upon each other, so one is dashed."""
_NAMES = {"random_in_layers": "random, as many in each layer"}


def draw(runs: Mapping[int, Sequence[Run]], path: Path) -> None:
    """Share and density against width for each layer, and accuracy against the share put back for the widest."""
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (shares, densities, resets) = pyplot.subplots(1, 3, figsize=(13, 4), layout="constrained")
    widths = sorted(runs)
    for layer in range(NUM_LAYERS):
        active = [[_active(run)[layer] for run in runs[width]] for width in widths]
        totals = [sum(_active(runs[width][0])) for width in widths]
        sizes = [runs[width][0].layer_sizes for width in widths]
        style = {"color": f"C{layer}", "marker": "o"}
        found = [100 * mean(a) / total for a, total in zip(active, totals, strict=True)]
        shares.plot(widths, found, **style)
        shares.plot(widths, [100 * size[layer] / sum(size) for size in sizes], color=f"C{layer}", linestyle=":")
        found = [100 * mean(a) / size[layer] for a, size in zip(active, sizes, strict=True)]
        densities.plot(widths, found, label=f"layer {layer + 1}", **style)
    densities.axhline(100 * _LOCATED, color="gray", linestyle=":")
    shares.set(
        title=f"where the active {_LOCATED:.0%} lie\n(dotted: where all parameters lie)", ylabel="%", ylim=(0, 100)
    )
    densities.set(title="part of each layer that is active\n(dotted: anywhere alike)", ylabel="%", yscale="log")
    densities.yaxis.set_major_formatter("{x:g}")
    densities.legend(loc="center right", bbox_to_anchor=(1.0, 0.68), fontsize="small")
    for axes in (shares, densities):
        axes.set(xscale="log", xlabel="width")
        axes.set_xticks(widths, labels=[str(width) for width in widths])
        axes.minorticks_off()
    own = runs[widths[-1]]
    for which, style in zip(SETS, _STYLES, strict=True):
        found = [
            100 * mean(reset.test_accuracy for run in own if (reset := run.reset(which, unit="absolute", share=share)))
            for share in SETTINGS.reset_shares
        ]
        resets.plot([100 * share for share in SETTINGS.reset_shares], found, style, label=_NAMES.get(which, which))
    resets.axhline(100 * mean(run.test_accuracy for run in own), color="gray", linestyle=":")
    resets.set(
        xlabel="put back, % of all parameters",
        ylabel="%",
        title=f"test accuracy at width {widths[-1]}, not retrained\n(dotted: nothing put back)",
    )
    resets.legend(fontsize="small")
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _active(run: Run) -> list[int]:
    return run.num_active["absolute"][SETTINGS.shares.index(_LOCATED)]
