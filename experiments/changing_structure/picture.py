"""How far above its baseline is each arm of a question, on each task?"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from experiments.changing_structure.arms import ARMS, FAMILIES, LENGTHS
from experiments.changing_structure.intervals import compared
from experiments.changing_structure.results import Run, cell_of, finals, screened

__all__ = ["draw", "picture_of"]


def picture_of(family: str) -> str:
    """The name of its file."""
    return f"{family}.png"


def draw(runs: Collection[Run], family: str, path: Path) -> None:
    """A row for each arm, a column for each task, and a mark for each length.

    Small and pale: held out, the screening's seed. Large, with a 95 % interval: test, the other seeds.
    """
    import matplotlib as mpl  # slow to load, and --check does without

    mpl.use("Agg")
    from matplotlib import pyplot

    own, first, last = FAMILIES[family], screened(runs), finals(runs)
    arms = [arm for arm in own.arms if arm != own.baseline]
    size = (2.5 + 2.6 * len(own.tasks), 1.2 + 0.26 * len(arms) * len(own.lengths))
    figure, columns = pyplot.subplots(1, len(own.tasks), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for task, axes in zip(own.tasks, columns[0], strict=True):
        for number, length in enumerate(own.lengths):
            for place, arm in enumerate(arms):
                cell, base = (cell_of(family, each, task, length) for each in (arm, own.baseline))
                row = place + 0.25 * number
                if cell in first and base in first:
                    axes.plot(first[cell].accuracy - first[base].accuracy, row, ".", color=f"C{number}", alpha=0.5)
                if (found := compared(last, [cell], [base])) is not None:
                    axes.errorbar(found.mean, row, xerr=found.half_width or 0.0, fmt="o", color=f"C{number}", capsize=2)
        axes.axvline(0, color="gray", linewidth=0.8)
        axes.set_title(task.title, fontsize="small")
        axes.set_xlabel("points over the baseline", fontsize="small")
    columns[0][0].set_yticks(range(len(arms)), [ARMS[arm].title for arm in arms], fontsize="small")
    columns[0][0].set_ylim(len(arms) - 0.5, -0.5)
    title = f"{own.title}: points over {ARMS[own.baseline].title}"
    if len(own.lengths) > 1:
        named = zip(own.lengths, ("blue", "orange"), strict=True)
        title += f" ({', '.join(f'{LENGTHS[length]}: {colour}' for length, colour in named)})"
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)
