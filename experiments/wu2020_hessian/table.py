"""Do the results say what the README says they say?

Rebuilds the README's tables and the pictures from results.jsonl and pairs.jsonl; with --check only compares, and names
what is wrong.

    python -m experiments.wu2020_hessian.table [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from statistics import mean

import tyro

from experiments.expected import Expected, read_expected
from experiments.machine import described
from experiments.readme import rebuild, report
from experiments.spread import spread
from experiments.wu2020_hessian.config import ARMS, NETWORKS, NUM_CLASSES
from experiments.wu2020_hessian.layer import Look
from experiments.wu2020_hessian.pictures import draw
from experiments.wu2020_hessian.results import FOLDER, PAIRS, RESULTS, Model, Pair, read_models, read_pairs
from experiments.wu2020_hessian.summary import (
    MEASURES,
    by_seed,
    measured,
    num_along_mean,
    num_outliers,
    of_arm,
    pair_of,
    peak,
)

__all__ = ["main", "render"]

_ROWS: Mapping[str, str] = {
    "outliers": "eigenvalues before the largest gap",
    "rank_one": "rank-one share of the top c directions",
    "alignment": "their input direction, \\|cos\\| with E[x]",
    "kronecker_cosine": "cos of H and E[M] ⊗ E[x xᵀ]",
    "kronecker_overlap": "overlap of their top c directions",
}


def render(models: Collection[Model], pairs: Collection[Pair], expected: Mapping[str, Expected]) -> dict[str, str]:
    """The generated parts of the README, by the names of their markers."""
    lines = [model.machine for model in models] + [pair.machine for pair in pairs]
    return {
        "claims": _claims(expected, measured(models, pairs)),
        "models": _models(models),
        "layers": _layers(models, pairs),
        "peaks": _peaks(models, pairs),
        "arms": _arms(models),
        "between": _between(pairs),
        "cost": _cost(models),
        "machine": "\n".join(described(lines)) or "not run",
    }


def main(*, check: bool = False, folder: Path = FOLDER) -> int:
    """Rebuild the README's tables and the pictures from the results.

    Args:
        check: change nothing; end with 1 and say what is wrong if the README or a tolerance is not met.
        folder: where README.md, expected.csv and the results lie.
    """
    models, pairs = read_models(folder / RESULTS), read_pairs(folder / PAIRS)
    expected = read_expected(folder / "expected.csv")
    wrong = rebuild(folder / "README.md", render(models, pairs, expected), check=check)
    if check:
        wrong += _failures(expected, measured(models, pairs)) if models else []
    elif models:
        draw(models, pairs, folder)
    return report(wrong)


def _failures(expected: Mapping[str, Expected], found: Mapping[str, list[float]]) -> list[str]:
    wrong = []
    for name, row in expected.items():
        if len(found[name]) < row.seeds:
            wrong.append(f"{name}: needs {row.seeds} values, has {len(found[name])}; run it")
        elif found[name]:
            wrong += row.misses(mean(found[name]), digits=3)
    return wrong


def _claims(expected: Mapping[str, Expected], found: Mapping[str, list[float]]) -> str:
    lines = ["| row | what is measured | the paper | ours |", "|---|---|---|---:|"]
    for name, row in expected.items():
        ours = spread(found[name], ".2f") if found[name] else "not run"
        metric = row.metric.replace("|", "\\|")
        lines.append(f"| {name} | {metric} | {row.source} | {ours} |")
    return "\n".join(lines)


def _models(models: Collection[Model]) -> str:
    lines = [
        "| network | trained by | models | steps | loss looked at | test accuracy, % |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for network, arm, own in _groups(models):
        title = f"{NETWORKS[network].title} | {ARMS[arm].title}"
        losses, accuracies = [m.loss for m in own], [100 * m.test_accuracy for m in own]
        lines.append(
            f"| {title} | {len(own)} | {own[0].steps} | {spread(losses, '.3f')} | {spread(accuracies, '.1f')} |"
        )
    return "\n".join(lines)


def _layers(models: Collection[Model], pairs: Collection[Pair]) -> str:
    """Of models trained by backprop, layer by layer."""
    names = list(_ROWS.values())
    title = [
        "layer",
        "m x n",
        *names,
        "overlap of two models at c",
        "at m",
        "by chance at m",
        "peak at k",
        "by the factors",
    ]
    lines = [f"| {' | '.join(title)} |", "|---|---|" + "---:|" * (len(title) - 2)]
    for network in NETWORKS:
        own = of_arm(models, network, "bp")
        for layer in range(len(own[0].looks) if own else 0):
            look = own[0].looks[layer]
            cells = [spread(by_seed(own, layer, MEASURES[name]), ".2f") for name in _ROWS]
            pair = pair_of(pairs, network, "bp", "bp", layer, same_seed=False)
            between = ["not compared"] * 3
            if pair is not None:
                between = [
                    spread(pair.at_classes, ".2f"),
                    spread(pair.at_rows, ".2f"),
                    f"{1 / pair.columns:.4f}",
                ]
            lines.append(f"| {network} {layer} | {look.rows} x {look.columns} | {' | '.join([*cells, *between])} |")
    return "\n".join(lines)


def _peaks(models: Collection[Model], pairs: Collection[Pair]) -> str:
    """By arm, where the overlap of models with different seeds stands highest over chance."""
    lines = [f"| layer | m | {' | '.join(arm.title for arm in ARMS.values())} |", "|---|---:|" + "---|" * len(ARMS)]
    for network in NETWORKS:
        for layer in sorted({pair.layer for pair in pairs if pair.network == network}):
            found = {arm: pair_of(pairs, network, arm, arm, layer, same_seed=False) for arm in ARMS}
            known = {arm: pair for arm, pair in found.items() if pair is not None}
            cells = [
                f"{peak(pair)}: {pair.curve[peak(pair) - 1]:.2f} "
                f"({spread(by_seed(of_arm(models, network, arm), layer, num_along_mean), '.0f')})"
                for arm, pair in known.items()
            ]
            lines.append(f"| {network} {layer} | {next(iter(known.values())).rows} | {' | '.join(cells)} |")
    return "\n".join(lines)


_SIZES: Mapping[str, Callable[[Look], float]] = {
    "largest eigenvalue": lambda look: look.values[0],
    "trace": lambda look: look.trace,
    "share of the trace in the top c": lambda look: sum(look.values[:NUM_CLASSES]) / look.trace,
    "eigenvalues before the largest gap": num_outliers,
    "rank-one share, top c": MEASURES["rank_one"],
    "\\|cos\\| with E[x]": MEASURES["alignment"],
    "cos of H and E[M] ⊗ E[x xᵀ]": MEASURES["kronecker_cosine"],
    "\\|E[x]\\|² / E\\|x\\|²": lambda look: look.mean_share,
    "1000 x trace of E[M]": lambda look: 1000 * sum(look.output_values),
    "trace / trace of E[M]": lambda look: look.trace / sum(look.output_values),
}


def _arms(models: Collection[Model]) -> str:
    lines = [f"| layer | trained by | {' | '.join(_SIZES)} |", "|---|---|" + "---:|" * len(_SIZES)]
    for network in NETWORKS:
        groups = {arm: own for other, arm, own in _groups(models) if other == network}
        for layer in range(len(next(iter(groups.values()))[0].looks) if groups else 0):
            for arm, own in groups.items():
                cells = [_size(by_seed(own, layer, measure)) for measure in _SIZES.values()]
                lines.append(f"| {network} {layer} | {ARMS[arm].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _size(values: list[float]) -> str:
    """Two digits behind the point, fewer for large numbers."""
    return spread(
        values,
        ".0f" if mean(values) >= 100 else ".1f" if mean(values) >= 10 else ".2f" if mean(values) >= 0.1 else ".3f",
    )


def _between(pairs: Collection[Pair]) -> str:
    """Overlap at k = m of every two arms; with backprop's own first."""
    lines = [
        f"| layer | {' | '.join(f'backprop and: {ARMS[arm].title}' for arm in _OTHERS)} | "
        f"{' | '.join(f'same seed: {ARMS[arm].title}' for arm in _OTHERS if arm != 'bp')} | "
        "two by synthetic gradients |",
        "|---|" + "---:|" * (2 * len(_OTHERS)),
    ]
    for network in NETWORKS:
        layers = sorted({pair.layer for pair in pairs if pair.network == network})
        for layer in layers:
            wanted = [("bp", arm, False) for arm in _OTHERS]
            wanted += [("bp", arm, True) for arm in _OTHERS if arm != "bp"]
            wanted += [("never", "never", False)]
            found = [pair_of(pairs, network, a, b, layer, same_seed=same) for a, b, same in wanted]
            cells = ["" if pair is None else spread(pair.at_rows, ".2f") for pair in found]
            lines.append(f"| {network} {layer} | {' | '.join(cells)} |")
    return "\n".join(lines)


_OTHERS = ("bp", "sync", "never", "early", "init")


def _cost(models: Collection[Model]) -> str:
    if not models:
        return "not run"
    train, look = (sum(getattr(model, name) for model in models) / 60 for name in ("train_s", "look_s"))
    return f"{len(models)} models: {train:.1f} minutes of a core to train them, {look:.1f} to look at them."


def _groups(models: Collection[Model]) -> Iterator[tuple[str, str, list[Model]]]:
    """By network and arm, those that there are."""
    for network in NETWORKS:
        for arm in ARMS:
            if own := of_arm(models, network, arm):
                yield network, arm, own


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
