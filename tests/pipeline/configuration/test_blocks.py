"""Do blocks with cadences of their own learn the same in every executor, and is what cannot be refused at the start?"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    BlockCadence,
    ByConfidence,
    ByFunction,
    Channels,
    Columns,
    Foreseen,
    Layer,
    NesterovLookahead,
    Parameter,
    Periodic,
    Phases,
    Quadrants,
    RandomCadence,
    Rows,
    Slice,
    Window,
)
from pipeline import ConfigurationError, StageFailure, prepare, run_simulated
from pipeline.configuration.blocks import Draws
from pipeline.configuration.config import Sgd
from pipeline.configuration.prepared import Prepared
from pipeline.configuration.run import stage_settings
from tests.executors import EXECUTORS, Case, each_executor
from tests.faults import FailAtUpdate
from tests.reference import Problem, assert_bit_equal, initial_model, state, summed_loss_loop
from tests.spawn import Ranks

PROBLEM = Problem(num_stages=4, batch_norm=False, steps=14)


def after_three(step: int, window: Window) -> bool:
    """A user's rule: every third microbatch since the last update."""
    return window.num_steps == 3


PERIODS = {
    "0.0.weight": (Quadrants("0.0.weight"), (Periodic(2), Periodic(3), Periodic(1), Periodic(5))),
    "1": (Layer("1"), Periodic(4)),
    "3.0": (Channels("3.0", 2), (Periodic(1), Periodic(2))),
}
"""Stage 1 has one block only, and stage 2 (layer 2) none."""
MIXED = (
    BlockCadence(Quadrants("0.0.weight"), (ByConfidence(warmup=1, longest=4), Periodic(3), Periodic(1), Periodic(5))),
    BlockCadence(Layer("1"), ByFunction(after_three)),
    BlockCadence(Rows("2.0.weight", 3), RandomCadence(0.4)),
    BlockCadence(Channels("3.0", 2), Phases((6,), (Periodic(1), ByConfidence(longest=3, warmup=2)))),
)


def blocks_of(chosen: Any) -> tuple[BlockCadence, ...]:
    return tuple(BlockCadence(selector, cadence) for selector, cadence in chosen)


def loop_with_an_optimizer_per_piece(problem: Problem, chosen: tuple[BlockCadence, ...]) -> dict[str, Tensor]:
    """Backprop through the whole network; whatever is cut off is learned by an optimiser of its own."""
    model = initial_model(problem).train()
    named = dict(model.named_parameters())
    shapes = {name: tuple(p.shape) for name, p in named.items()}
    pieces = [(piece, cadence) for each in chosen for block, cadence in each.pair(shapes) for piece in block.pieces]
    views = [(nn.Parameter(piece.of(named[piece.parameter].data)), piece, cadence) for piece, cadence in pieces]
    views += [(p, None, Periodic(1)) for name, p in named.items() if name not in {q.parameter for q, _ in pieces}]
    optimizers = [problem.make_optimizer([view]) for view, _, _ in views]
    sums, samples = [torch.zeros_like(view) for view, _, _ in views], [0] * len(views)
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        for index, (view, piece, _) in enumerate(views):
            whole = view if piece is None else named[piece.parameter]
            assert whole.grad is not None
            sums[index] += whole.grad if piece is None else piece.of(whole.grad)
            samples[index] += len(x)
        model.zero_grad()
        for index, (view, _, cadence) in enumerate(views):
            if cadence.due(step, Window("")) or step == problem.steps - 1:
                view.grad = sums[index] / samples[index]
                optimizers[index].step()
                view.grad = None
                sums[index], samples[index] = torch.zeros_like(view), 0
    return state(model)


@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_blocks_equal_a_loop_with_an_optimiser_for_each_piece(executor: str, ranks: Ranks) -> None:
    chosen = blocks_of(PERIODS.values())
    found = EXECUTORS[executor].run(Case(problem=PROBLEM, settings={"blocks": chosen}), ranks)
    assert_bit_equal(found.weights, loop_with_an_optimizer_per_piece(PROBLEM, chosen))


@pytest.mark.parametrize("cadence", [1, 4])
def test_slices_of_one_cadence_equal_the_loop_without_blocks(cadence: int) -> None:
    selectors = (Quadrants("0.0.weight"), Columns("1.0.weight", 3), Slice("3.0.weight", ((2, 9), (3, 5))))
    config = PROBLEM.config(blocks=tuple(BlockCadence(each, Periodic(cadence)) for each in selectors))
    result = run_simulated(prepare(replace(config, cadence=(cadence,))))
    assert_bit_equal(result.export(), summed_loss_loop(PROBLEM, cadence=cadence))


@pytest.mark.parametrize("stash", ["hold", "recompute", "weights", "graph"])
def test_cadences_that_cannot_be_foreseen_learn_the_same_in_threads(stash: str, ranks: Ranks) -> None:
    settings = {"blocks": MIXED, "stash": stash, "delay": (3,), "rate_rule": "sqrt"}
    outcomes = [
        EXECUTORS[name].run(Case(problem=PROBLEM, settings=settings), ranks) for name in ("simulate", "threads")
    ]
    assert_bit_equal(outcomes[0].weights, outcomes[1].weights)
    first = outcomes[0].summary["stages"][0]
    assert first["blocks"]["rest"]["updates"] == PROBLEM.steps
    confident = first["blocks"]["0.0.weight[0:12,0:32]"]
    assert PROBLEM.steps / 5 < confident["updates"] < PROBLEM.steps and confident["noise_scale"] > 0
    assert first["blocks"]["0.0.weight[12:24,32:64]"]["length_mean"] == pytest.approx(14 / 3)


@pytest.mark.parametrize("stash", ["hold", "recompute"])
def test_run_with_blocks_goes_on_from_the_middle_of_their_windows(stash: str, tmp_path: Path) -> None:
    config = PROBLEM.config(blocks=MIXED, checkpoint_every=7, delay=(2,), stash=stash)
    expected = run_simulated(prepare(config)).export()
    plain = PROBLEM.make_optimizer
    failing = replace(config, optimizer=(plain, plain, plain, FailAtUpdate(plain, 10)))
    with pytest.raises(StageFailure):
        run_simulated(prepare(failing), folder=tmp_path)
    resumed = run_simulated(prepare(config), folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == 7 and resumed.summary["resume_exact"]
    assert_bit_equal(resumed.export(), expected)


def test_metrics_name_every_block(tmp_path: Path) -> None:
    run_simulated(prepare(PROBLEM.config(blocks=MIXED, log_every=7)), folder=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics" / "stage-0.jsonl").read_text().splitlines()]
    name = "0.0.weight[0:12,0:32]"
    assert 6 <= lines[0]["block_updates/rest"] <= 7 and lines[0]["block_length/rest"] == 1.0
    measured = [line[f"block_noise_scale/{name}"] for line in lines if f"block_noise_scale/{name}" in line]
    assert (
        measured
        and all(map(math.isfinite, measured))
        and max(line.get(f"block_length/{name}", 0) for line in lines) > 1
    )
    plain = tmp_path / "metrics" / "stage-1.jsonl"
    assert "block_updates/1" in plain.read_text(), "a stage that is one named block tells of it too"


# What is known before the first step


def prepared(*chosen: BlockCadence, **more: Any) -> Prepared:
    return prepare(PROBLEM.config(blocks=chosen, **more))


def test_blocks_lie_in_the_stage_that_has_their_parameters() -> None:
    run = prepared(*blocks_of(PERIODS.values()))
    assert [list(stage.cadences) for stage in run.blocks] == [
        [
            "0.0.weight[0:12,0:32]",
            "0.0.weight[0:12,32:64]",
            "0.0.weight[12:24,0:32]",
            "0.0.weight[12:24,32:64]",
            "rest",
        ],
        ["1"],
        ["rest"],
        ["3.0[0:8]", "3.0[8:16]", "rest"],
    ]
    assert run.blocks[2].blocks == () and run.blocks[0].cadences["rest"] == Periodic(1)
    assert [run.mean_period(index) for index in range(4)] == [1.0, 4.0, 1.0, 1.0]


def test_block_that_spans_stages_is_divided_and_keeps_its_cadence() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 8)), nn.Linear(8, 10))

    config = PROBLEM.config(blocks=(BlockCadence(Layer("0"), RandomCadence(0.5)),))
    run = prepare(replace(config, model=model, at=("0.1",), num_stages=None))
    assert [list(stage.cadences) for stage in run.blocks] == [["0"], ["0", "rest"]]
    steps = [
        [stage.due(step) for step in range(20)]
        for stage in (run.foreseen[0], Foreseen((RandomCadence(0.5),), ("0",), 1, Draws(3)))
    ]
    assert steps[0] == steps[1] and 2 < sum(steps[0]) < 18, "drawn by name and step, in both stages alike"


def test_stages_above_know_when_an_update_below_falls_due_or_take_it_to_be_always() -> None:
    run = prepared(*blocks_of([PERIODS["1"], (Layer("2"), ByFunction(after_three))]), cadence=(2, 1, 1, 1))
    below = stage_settings(run, 3).cadences_below
    assert [[each.due(step) for step in range(4)] for each in below] == [
        [False, True, False, True],
        [False, False, False, True],
        [True, True, True, True],
    ]
    assert stage_settings(prepared(stash="recompute", delay=(1,)), 3).cadences_below == ()


def test_cadence_counts_the_microbatches_that_the_stage_gets() -> None:
    config = PROBLEM.config(blocks=(BlockCadence(Layer("1"), Periodic(2)),), send_every=(3, 1, 1))
    run = prepare(replace(config, steps=24))
    assert [step for step in range(24) if run.foreseen[1].due(step)] == [5, 11, 17, 23]
    assert run.mean_period(1) == pytest.approx(2.0, abs=0.01)


FUSED = partial(torch.optim.AdamW, fused=True)
REFUSED: dict[str, tuple[tuple[BlockCadence, ...], dict[str, Any], str]] = {
    "names nothing": (blocks_of([(Layer("7"), Periodic())]), {}, r"no layer .* '7'; there are 0, 0\.0, 1, 1\.0"),
    "overlapping": (blocks_of([(Layer("1"), Periodic()), (Rows("1.0.weight"), Periodic())]), {}, "must not overlap"),
    "outside": (blocks_of([(Slice("1.0.weight", ((0, 99),)), Periodic())]), {}, r"within its parameter .*\[0:99\]"),
    "never": (blocks_of([(Layer("1"), Periodic(15))]), {}, r"1 in stage 1 would never be updated: Periodic.*14 steps"),
    "never drawn": (blocks_of([(Layer("1"), RandomCadence(1e-9))]), {}, "would never be updated"),
    "not a block": ((Layer("1"),), {}, r"takes BlockCadence\(selector, cadence\)"),  # type: ignore[dict-item]
    "coasts": (
        blocks_of([(Layer("1"), Periodic())]),
        {"correction": NesterovLookahead(), "stash": "weights"},
        "a block that accumulates must not move",
    ),
    "Adafactor": (
        blocks_of([(Rows("1.0.weight"), Periodic())]),
        {"optimizer": torch.optim.Adafactor},
        r"1\.0\.weight\[0:16\] is a part of a weight, and Adafactor",
    ),
    "fused": (
        blocks_of([(Columns("1.0.weight"), Periodic())]),
        {"optimizer": FUSED},
        "fused AdamW writes wrong values into such slices .* Use fused=False",
    ),
    "LBFGS": ((), {"optimizer": torch.optim.LBFGS}, "LBFGS asks for a closure"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_starts(case: str) -> None:
    chosen, settings, message = REFUSED[case]
    with pytest.raises(ConfigurationError, match=message):
        prepared(*chosen, **settings)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_learns_whole_weights_and_no_parts_of_them() -> None:
    def config(selector: Any) -> Any:
        model = lambda: [nn.Linear(64, 16, bias=False), nn.Linear(16, 10, bias=False)]  # noqa: E731
        chosen = (BlockCadence(selector, Periodic(2)),)
        return replace(PROBLEM.config(blocks=chosen), model=model, optimizer=torch.optim.Muon, steps=4)

    assert run_simulated(prepare(config(Layer("0")))).summary["status"] == "finished"
    with pytest.raises(ConfigurationError, match=r"0\.weight\[0:8\] is a part of a weight, and Muon"):
        prepare(config(Rows("0.weight")))


def test_fused_optimiser_may_learn_rows_which_are_one_stretch_of_memory() -> None:
    chosen = blocks_of([(Rows("1.0.weight"), Periodic(2)), (Channels("3.0", 2), Periodic())])
    assert len(prepared(*chosen, optimizer=FUSED).blocks[1].blocks) == 3


def test_parameters_that_do_not_learn_are_not_there_to_be_named() -> None:
    def model() -> Any:
        stages = [nn.Linear(64, 16), nn.Linear(16, 10)]
        stages[0].bias.requires_grad_(False)
        return stages

    config = replace(PROBLEM.config(optimizer=Sgd()), model=model, steps=2)
    chosen = (BlockCadence(Layer("0"), Periodic()),)
    assert [piece.name for piece in prepare(replace(config, blocks=chosen)).blocks[0].pieces] == ["0.weight"]
    with pytest.raises(ConfigurationError, match="no parameter that learns"):
        prepare(replace(config, blocks=(BlockCadence(Parameter("0.bias"), Periodic()),)))
