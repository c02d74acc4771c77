"""If only some layers learn at a step, is that what is learned, and is the rest of the work really left out?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni import (
    BlockCadence,
    Layer,
    Layout,
    LocalLoss,
    Multirate,
    NoGradient,
    Only,
    Participation,
    Periodic,
    Quadrants,
    Rows,
    SyntheticGradient,
    TopOrAll,
    TrueGradient,
)
from pipeline import ConfigurationError, StageFailure, prepare, run_simulated
from pipeline.clock import VirtualClock
from pipeline.configuration.blocks import Draws, layout_of
from pipeline.configuration.config import Adam, Sgd
from pipeline.configuration.run import build_stage, make_feed, make_inbox
from pipeline.messages import Gradient, Send
from pipeline.virtual_time.simulator import simulate
from tests.executors import EXECUTORS, Case, each_executor
from tests.faults import FailAtUpdate
from tests.reference import Problem, assert_bit_equal, initial_model, state, summed_loss_loop
from tests.spawn import Ranks

PROBLEM = Problem(num_stages=4, batch_norm=False, steps=14)
HALF = TopOrAll(0.5, top="2.0")
"""The top is stages 2 and 3."""
ENDS = Only(("0.0", "4.0"))
LAYERS = tuple(f"{index}.0" for index in range(5))


def learning(problem: Problem, policy: Participation) -> list[Mapping[str, float]]:
    """Per step, the layers that learn."""
    return [policy.learning(step, Layout((LAYERS,)), Draws(problem.seed)) for step in range(problem.steps)]


def frozen_loop(problem: Problem, policy: Participation) -> dict[str, Tensor]:
    """Backprop, with what does not learn at a step frozen during it: the recipe of a script."""
    model = initial_model(problem).train()
    optimizer = problem.make_optimizer(model.parameters())
    loss = nn.CrossEntropyLoss(reduction="sum")
    for layers, (x, target) in zip(learning(problem, policy), problem.batches().start(0), strict=False):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[0] in layers)
        loss(model(x), target).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(len(x))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return state(model)


@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
@pytest.mark.parametrize("policy", [HALF, ENDS], ids=["probabilistic", "static"])
def test_every_executor_equals_a_script_that_freezes(executor: str, policy: Participation, ranks: Ranks) -> None:
    found = EXECUTORS[executor].run(Case(problem=PROBLEM, settings={"participation": policy}), ranks)
    assert_bit_equal(found.weights, frozen_loop(PROBLEM, policy))


@pytest.mark.parametrize("num_stages", [1, 2, 5])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_number_of_stages_makes_no_difference(num_stages: int, optimizer: str) -> None:
    problem = replace(PROBLEM, num_stages=num_stages, optimizer=optimizer)
    result = run_simulated(prepare(problem.config(participation=HALF)))
    assert_bit_equal(result.export(), frozen_loop(problem, HALF))


@pytest.mark.parametrize("stash", ["recompute", "weights", "graph"])
def test_other_stashes_leave_out_the_same(stash: str) -> None:
    """With one microbatch in flight no gradient is late, so all of them equal the script."""
    result = run_simulated(prepare(PROBLEM.config(participation=HALF, stash=stash, delay=(1,))))
    assert_bit_equal(result.export(), frozen_loop(PROBLEM, HALF))


@pytest.mark.parametrize("stash", ["hold", "recompute", "weights", "graph"])
def test_threads_equal_the_simulation_with_several_in_flight(stash: str, ranks: Ranks) -> None:
    settings = {
        "participation": TopOrAll(0.5, top=2, rescale="elapsed"),
        "blocks": (BlockCadence(Quadrants("1.0.weight"), Periodic(2)),),
        "stash": stash,
        "delay": (3,),
    }
    case = Case(problem=PROBLEM, settings=settings)
    outcomes = [EXECUTORS[name].run(case, ranks) for name in ("simulate", "threads")]
    assert_bit_equal(outcomes[0].weights, outcomes[1].weights)


def test_everybody_at_every_step_equals_the_loop_without_a_policy() -> None:
    result = run_simulated(prepare(PROBLEM.config(participation=TopOrAll(1.0))))
    assert_bit_equal(result.export(), summed_loss_loop(PROBLEM))


class SyncAtFullSteps:
    """The same draws as a sync policy: the other way to say it, in stages."""

    def reach(self, step: int, *, num_stages: int, generator: torch.Generator, quality: float | None = None) -> int:
        return num_stages if Draws(PROBLEM.seed)("top or all", step) < 0.5 else 2


def test_sparse_steps_by_stages_equal_syncs_above_sources_without_gradient() -> None:
    sources = run_simulated(prepare(PROBLEM.config(NoGradient(), sync=SyncAtFullSteps())))
    layers = run_simulated(prepare(PROBLEM.config(participation=TopOrAll(0.5, top=2, unit="stages"))))
    assert_bit_equal(layers.export(), sources.export())


@pytest.mark.parametrize("rescale", ["inverse", "elapsed"])
def test_rescaled_rates_equal_a_loop_with_an_optimiser_for_each_layer(rescale: Any) -> None:
    policy = TopOrAll(0.4, top="2.0", rescale=rescale)
    model = initial_model(PROBLEM).train()
    optimizers = {name: PROBLEM.make_optimizer(model.get_submodule(name).parameters()) for name in LAYERS}
    for layers, (x, target) in zip(learning(PROBLEM, policy), PROBLEM.batches().start(0), strict=False):
        (nn.CrossEntropyLoss(reduction="sum")(model(x), target)).backward()
        for name, rate in layers.items():
            for parameter in model.get_submodule(name).parameters():
                assert parameter.grad is not None
                parameter.grad.div_(len(x))
            optimizers[name].param_groups[0]["lr"] = 0.05 * rate
            optimizers[name].step()
        model.zero_grad()
    found = run_simulated(prepare(PROBLEM.config(participation=policy))).export()
    assert_bit_equal(found, state(model))


def test_part_of_a_weight_that_pauses_is_left_alone_while_the_others_learn() -> None:
    names = [f"1.0.weight[{rows},{columns}]" for rows in ("0:16", "16:32") for columns in ("0:12", "12:24")]
    policy = Only((names[0], names[3], "1.0", "4.0"))
    blocks = (BlockCadence(Quadrants("1.0.weight"), Periodic(2)),)
    problem = replace(PROBLEM, num_stages=2)
    found = run_simulated(prepare(problem.config(participation=policy, blocks=blocks))).export()
    model = initial_model(problem).train()
    weight, bias, top = model.get_parameter("1.0.weight"), model.get_parameter("1.0.bias"), model.get_submodule("4.0")
    quarters = [nn.Parameter(weight.data[:16, :12]), nn.Parameter(weight.data[16:, 12:])]
    slow, fast = problem.make_optimizer(quarters), problem.make_optimizer([bias, *top.parameters()])
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        for parameter in (bias, *top.parameters()):
            assert parameter.grad is not None
            parameter.grad.div_(len(x))
        fast.step()
        fast.zero_grad()
        if step % 2:
            assert weight.grad is not None
            for quarter, part in zip(quarters, (weight.grad[:16, :12], weight.grad[16:, 12:]), strict=True):
                quarter.grad = part / (2 * len(x))
            slow.step()
            weight.grad = None
    assert_bit_equal(found, state(model))


class InTurns:
    """The upper half of a weight learns at two steps in three, the lower at the third, the last layer always."""

    sets_rates = False
    forgets = False

    def check(self, layout: Layout) -> None:
        """It is made for one network."""

    def learning(self, step: int, layout: Layout, draw: object) -> Mapping[str, float]:
        return {"1.0.weight[16:32]" if step % 3 == 0 else "1.0.weight[0:16]": 1.0, "4.0": 1.0}


def test_parts_of_a_weight_accumulate_only_from_the_steps_at_which_they_learn() -> None:
    problem = replace(PROBLEM, num_stages=2, steps=12)
    blocks = (BlockCadence(Rows("1.0.weight"), Periodic(4)),)
    found = run_simulated(prepare(problem.config(participation=InTurns(), blocks=blocks))).export()
    model = initial_model(problem).train()
    weight, top = model.get_parameter("1.0.weight"), model.get_submodule("4.0")
    halves = [nn.Parameter(weight.data[:16]), nn.Parameter(weight.data[16:])]
    slow, fast = problem.make_optimizer(halves), problem.make_optimizer(top.parameters())
    sums, samples = [torch.zeros_like(half) for half in halves], [0, 0]
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        for parameter in top.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(len(x))
        fast.step()
        half = int(step % 3 == 0)
        assert weight.grad is not None
        sums[half] += weight.grad[16 * half : 16 * half + 16]
        samples[half] += len(x)
        model.zero_grad()
        if step % 4 == 3:
            for index, part in enumerate(halves):
                part.grad = sums[index] / samples[index]
            slow.step()
            sums, samples = [torch.zeros_like(part) for part in halves], [0, 0]
    assert_bit_equal(found, state(model))


def played(**settings: Any) -> tuple[list[str], list[str]]:
    """What the stages of a run did, and the gradients that were sent, as `2G0` from stage 2."""
    prepared = prepare(PROBLEM.config(**settings))
    clock = VirtualClock(prepared.config.costs.operation_s)
    stages = [build_stage(prepared, index, clock=clock) for index in range(prepared.num_stages)]
    gradients: list[str] = []

    def on_send(sender: int, send: Send) -> None:
        if isinstance(send.message, Gradient) and send.message.value is not None:
            gradients.append(f"{sender}G{send.message.step}")

    simulate(
        stages,
        make_feed(prepared).messages(),
        inboxes=[make_inbox(prepared, index) for index in range(prepared.num_stages)],
        clock=clock,
        costs=prepared.config.costs,
        on_drained=lambda stage, drain: None,
        on_send=on_send,
    )
    return [event.name(stage.index) for stage in stages for event in stage.recorder.take_events()], gradients


def test_stage_with_nothing_to_learn_builds_no_graph_and_is_sent_no_gradient() -> None:
    events, gradients = played(participation=HALF)
    full = [step for step, layers in enumerate(learning(PROBLEM, HALF)) if len(layers) == 5]
    assert 0 < len(full) < PROBLEM.steps
    for stage in range(4):
        pulled_back = [step for step in range(PROBLEM.steps) if f"{stage}B{step}" in events]
        assert pulled_back == (full if stage < 2 else list(range(PROBLEM.steps)))
        sent = [step for step in range(PROBLEM.steps) if f"{stage}G{step}" in gradients]
        assert sent == {0: [], 1: full, 2: full, 3: list(range(PROBLEM.steps))}[stage]


def test_graph_ends_at_the_lowest_layer_that_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: dict[str, list[bool]] = {name: [] for name in LAYERS}

    def model() -> nn.Module:
        network = PROBLEM.model()
        for name in LAYERS:
            network.get_submodule(name).register_forward_hook(
                lambda module, given, output, own=name: inputs[own].append(output.requires_grad)
            )
        return network

    config = replace(PROBLEM.config(participation=HALF, steps=6), model=model, num_stages=1)
    prepared = prepare(config)
    for each in inputs.values():
        each.clear()
    run_simulated(prepared)
    full = [len(layers) == 5 for layers in learning(PROBLEM, HALF)][:6]
    assert inputs["0.0"] == inputs["1.0"] == full
    assert inputs["2.0"] == inputs["4.0"] == [True] * 6


def test_source_that_learns_from_gradients_is_given_them_though_its_stage_pauses() -> None:
    """A boundary between two that learn has to pass the gradient on as well."""
    events, _ = played(participation=Only(("4.0",)), source=(TrueGradient(), SyntheticGradient(), TrueGradient()))
    assert sum(event.startswith("1L") for event in events) == PROBLEM.steps
    assert not any(event.startswith(("0B", "1B")) for event in events)
    events, _ = played(participation=Only(("0.0",)), source=TrueGradient())
    assert all(f"{stage}B{step}" in events for stage in range(4) for step in range(PROBLEM.steps))


def test_local_loss_below_asks_for_nothing_that_pauses_above() -> None:
    source = (LocalLoss(10), TrueGradient(), TrueGradient())
    events, _ = played(participation=Only(("0.0", "4.0")), source=source)
    assert not any(event.startswith(("1B", "2B")) for event in events)
    assert sum(event.startswith("0B") for event in events) == PROBLEM.steps


@pytest.mark.parametrize("choice", ["follow", "hold", "evaluate"])
@pytest.mark.parametrize("stash", ["hold", "recompute"])
def test_batch_norm_that_pauses_does_what_was_chosen(choice: str, stash: str) -> None:
    problem = replace(PROBLEM, batch_norm=True, num_stages=2)
    policy = TopOrAll(0.5, top="2.0")
    config = problem.config(participation=policy, idle_batch_norm=choice, stash=stash, delay=(1,))
    found = run_simulated(prepare(config)).export()
    model = initial_model(problem).train()
    optimizer = problem.make_optimizer(model.parameters())
    norms = [model.get_submodule(f"{index}.1") for index in range(2)]
    for layers, (x, target) in zip(learning(problem, policy), problem.batches().start(0), strict=False):
        full = "0.0" in layers
        for parameter in (*model[0].parameters(), *model[1].parameters()):
            parameter.requires_grad_(full)
        before = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
        for norm in norms:
            norm.train(full or choice != "evaluate")
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        for norm, old in zip(norms, before, strict=True):
            norm.train()
            if not full and choice == "hold":
                norm.load_state_dict(old, strict=False)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(len(x))
        optimizer.step()
        optimizer.zero_grad()
    assert_bit_equal(found, state(model))


class OneAfterTheOther:
    """Each layer for three steps, from the input up; its optimiser state is forgotten."""

    sets_rates = False
    forgets = True

    def check(self, layout: Layout) -> None:
        """Any network will do."""

    def learning(self, step: int, layout: Layout, draw: object) -> Mapping[str, float]:
        return {layout.blocks[step // 3 % len(layout.blocks)]: 1.0}


@pytest.mark.parametrize("cadence", [1, 2])
def test_layer_that_pauses_forgets_its_optimiser_state(cadence: int) -> None:
    problem = replace(PROBLEM, optimizer="adam", num_stages=2, steps=20)
    config = problem.config(participation=OneAfterTheOther(), cadence=(cadence,))
    prepared = prepare(config)
    assert prepared.blocks[0].blocks
    found = run_simulated(prepared).export()
    model = initial_model(problem).train()
    optimizer = problem.make_optimizer(model.parameters())
    samples: dict[str, int] = {}
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        name = LAYERS[step // 3 % 5]
        for each in LAYERS:
            model.get_submodule(each).requires_grad_(each == name)
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        samples[name] = samples.get(name, 0) + len(x)
        if (step + 1) % cadence == 0:
            for each, count in samples.items():
                for parameter in model.get_submodule(each).parameters():
                    assert parameter.grad is not None
                    parameter.grad.div_(count)
            optimizer.step()
            optimizer.zero_grad()
            samples = {}
            for each in LAYERS:
                if each != name:
                    for parameter in model.get_submodule(each).parameters():
                        optimizer.state.pop(parameter, None)
    assert_bit_equal(found, state(model))


def test_run_goes_on_in_the_middle(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "participation": TopOrAll(0.5, top="2.0", rescale="elapsed"),
        "blocks": (BlockCadence(Rows("0.0.weight"), Periodic(4)),),
        "checkpoint_every": 6,
        "source": (SyntheticGradient(), TrueGradient(), TrueGradient()),
    }
    config = PROBLEM.config(**settings)
    expected = run_simulated(prepare(config)).export()
    plain = PROBLEM.make_optimizer
    failing = replace(config, optimizer=(plain, plain, plain, FailAtUpdate(plain, 10)))
    with pytest.raises(StageFailure):
        run_simulated(prepare(failing), folder=tmp_path)
    resumed = run_simulated(prepare(config), folder=tmp_path, resume=True)
    assert resumed.summary["resumed_at"] == 6
    assert_bit_equal(resumed.export(), expected)


def momentum(parameters: Iterable[nn.Parameter], lr: float = 0.05) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9)


@pytest.mark.parametrize("executor", each_executor("simulate", "threads", "2 ranks"))
def test_multirate_with_drift_equals_the_rule_written_out(executor: str, ranks: Ranks) -> None:
    policy = Multirate(("0.0", "1.0"), every=3)
    settings = {"participation": policy, "blocks": policy.blocks, "optimizer": momentum}
    found = EXECUTORS[executor].run(Case(problem=PROBLEM, settings=settings), ranks)
    model = initial_model(PROBLEM).train()
    slow = [*model[0].parameters(), *model[1].parameters()]
    fast = [parameter for index in (2, 3, 4) for parameter in model[index].parameters()]
    velocity: dict[nn.Parameter, Tensor] = {}
    for step, (x, target) in zip(range(PROBLEM.steps), PROBLEM.batches().start(0), strict=False):
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        for parameter in slow if step % 3 == 0 else fast:
            assert parameter.grad is not None
            gradient = parameter.grad / len(x)
            before = velocity.get(parameter)
            velocity[parameter] = gradient if before is None else before * 0.9 + gradient
        model.zero_grad()
        with torch.no_grad():
            for parameter in slow if step % 3 == 0 else [*slow, *fast]:
                parameter.sub_(velocity[parameter], alpha=0.05)
    assert_bit_equal(found.weights, state(model))


def test_block_drifts_between_updates_of_all_it_has_accumulated() -> None:
    """A cadence of 4 with drift: each averaged gradient moves the block four times."""
    problem = replace(PROBLEM, num_stages=1)
    blocks = (BlockCadence(Layer("0.0"), Periodic(4), drifts=True),)
    found = run_simulated(prepare(problem.config(blocks=blocks, optimizer=momentum))).export()
    model = initial_model(problem).train()
    slow = list(model[0].parameters())
    fast = momentum(parameter for index in range(1, 5) for parameter in model[index].parameters())
    sums, samples = [torch.zeros_like(parameter) for parameter in slow], 0
    velocity: list[Tensor] = []
    for step, (x, target) in zip(range(problem.steps), problem.batches().start(0), strict=False):
        nn.CrossEntropyLoss(reduction="sum")(model(x), target).backward()
        samples += len(x)
        for index in range(1, 5):
            for parameter in model[index].parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(len(x))
        fast.step()
        for total, parameter in zip(sums, slow, strict=True):
            assert parameter.grad is not None
            total += parameter.grad
        model.zero_grad()
        if (step + 1) % 4 == 0:
            gradients = [total / samples for total in sums]
            velocity = [g if not velocity else velocity[i] * 0.9 + g for i, g in enumerate(gradients)]
            sums, samples = [torch.zeros_like(parameter) for parameter in slow], 0
        with torch.no_grad():
            for parameter, moved in zip(slow, velocity, strict=False):
                parameter.sub_(moved, alpha=0.05)
    with torch.no_grad():  # what is left is applied at the end
        for parameter, moved, total in zip(slow, velocity, sums, strict=True):
            parameter.sub_(moved * 0.9 + total / samples, alpha=0.05)
    assert_bit_equal(found, state(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"participation": Only(("7",))}, "no block '7' in the network; its blocks are 0.0, 1.0, 2.0, 3.0, 4.0"),
        ({"participation": Only(stages=(4,))}, "participation: there is no stage 4; the stages are 0 to 3"),
        ({"participation": TopOrAll(0.1, top="0.1")}, "no block '0.1' in the network"),
        (
            {"blocks": (BlockCadence(Layer("0.0"), Periodic(2), drifts=True),), "optimizer": Adam()},
            "0.0 drift along the momentum of SGD between their updates, and the optimiser is Adam",
        ),
        (
            {"blocks": (BlockCadence(Layer("0.0"), Periodic(2), drifts=True),), "optimizer": Sgd()},
            "SGD momentum=0.0, nesterov=False, maximize=False. Use torch.optim.SGD with momentum above 0",
        ),
        (
            {"blocks": (BlockCadence(Layer("0.0"), Periodic(2), drifts=True),), "rate_rule": "linear"},
            "rate_rule is linear, but blocks drift",
        ),
        ({"participation": 0.5}, r"takes a policy, as TopOrAll\(0.1, top=2\)"),
    ],
)
def test_what_cannot_be_is_refused_before_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        prepare(PROBLEM.config(**settings))


def test_layers_are_the_blocks_and_chosen_blocks_are_taken_out_of_them() -> None:
    blocks = (BlockCadence(Rows("1.0.weight"), Periodic(2)),)
    prepared = prepare(PROBLEM.config(participation=HALF, blocks=blocks))
    assert layout_of(prepared.blocks).stages == (
        ("0.0",),
        ("1.0.weight[0:16]", "1.0.weight[16:32]", "1.0"),
        ("2.0",),
        ("3.0", "4.0"),
    )


def test_blocks_are_counted_from_the_output_whichever_were_named() -> None:
    blocks = (BlockCadence(Rows("4.0.weight"), Periodic(2)),)
    run = prepare(replace(PROBLEM, num_stages=1).config(participation=TopOrAll(0.1, top=3), blocks=blocks))
    assert layout_of(run.blocks).blocks[-3:] == ("4.0.weight[0:5]", "4.0.weight[5:10]", "4.0")


def test_batch_norm_choice_without_a_policy_warns() -> None:
    with pytest.warns(UserWarning, match="idle_batch_norm is hold, but every layer learns"):
        prepare(PROBLEM.config(idle_batch_norm="hold"))
