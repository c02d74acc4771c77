"""Does the recorded order of a run, executed again on one thread, end in the same bits?

Letters: N samples, F features.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dni import (
    At,
    Bernoulli,
    ConditionalSyntheticGradient,
    Count,
    DirectFeedbackAlignment,
    DiscrepancyCorrection,
    Event,
    Every,
    LocalLoss,
    NesterovLookahead,
    Never,
    NoGradient,
    PruneUnits,
    ReceivedInput,
    ShrunkGradient,
    SobolevCritic,
    SyntheticGradient,
    SyntheticInput,
    TrueGradient,
    WeightPrediction,
    WhenWorse,
)
from pipeline import (
    Config,
    ConfigurationError,
    CostModel,
    Data,
    KeyedBatches,
    Replay,
    ReplayError,
    RunError,
    StageFailure,
    partition,
    prepare,
    run_simulated,
    train,
)
from pipeline.executors.distributed import run_rank
from pipeline.executors.threaded import run_threaded
from pipeline.records.manifest import saved_steps
from pipeline.records.order import read_order
from pipeline.replay.replay import replay
from pipeline.transports.control import Control, World
from tests.faults import FailAt, Fault
from tests.pipeline.chain import WIDTH, features, labels
from tests.reference import Problem, assert_bit_equal
from tests.spawn import Ranks

SOURCES: dict[str, Callable[[], Any]] = {
    "true": TrueGradient,
    "synthetic": SyntheticGradient,
    "conditional": lambda: ConditionalSyntheticGradient(WIDTH),
    "none": NoGradient,
    "shrunk": lambda: ShrunkGradient(0.5),
    "local": lambda: LocalLoss(WIDTH),
    "direct feedback": lambda: DirectFeedbackAlignment(WIDTH),
    "critic": lambda: SobolevCritic(WIDTH),
}
SYNCS = {
    "never": Never(),
    "some": Bernoulli(0.4),
    "every third": Every(3),
    "top two": Bernoulli(0.5, top=2),
    "reported": WhenWorse(0.0, probe_every=3),
}
INPUTS = [ReceivedInput(), SyntheticInput(), SyntheticInput(update_probability=0.5)]
CORRECTIONS = [None, WeightPrediction(), DiscrepancyCorrection(anneal=6), NesterovLookahead(momentum=0.5)]


def block(seed: int) -> nn.Module:
    """Everything that has a state or draws: normalisation and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh(), nn.Dropout(0.2))


def data(batch_size: int = 4) -> Data:
    x, target = features(0, num_samples=18), labels(0, num_samples=18)
    return Data(train=KeyedBatches(x, target, batch_size=batch_size, drop_last=True), test=[(x, target)])


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Runs whose order depends on how long everything takes."""
    num_stages = draw(st.integers(2, 4))
    boundaries = num_stages - 1

    def each(values: st.SearchStrategy[Any], count: int) -> tuple[Any, ...]:
        return tuple(draw(st.lists(values, min_size=count, max_size=count)))

    seconds = st.sampled_from([0.0, 0.3, 1.0, 2.7])
    arrival = draw(st.sampled_from(["ready", "ready", "ready", "fixed"]))
    inputs = each(st.sampled_from(INPUTS), boundaries)
    policies = ["block", "latest", "drop_oldest"] if arrival == "ready" else ["block"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Config(
            model=lambda: [block(index) for index in range(num_stages)],
            data=data,
            loss=nn.CrossEntropyLoss(),
            source=tuple(SOURCES[name]() for name in each(st.sampled_from(sorted(SOURCES)), boundaries)),
            inputs=inputs,
            sync=SYNCS[draw(st.sampled_from(sorted(SYNCS)))],
            steps=draw(st.integers(4, 12)),
            cadence=each(st.integers(1, 3), num_stages),
            update_probability=each(st.sampled_from([1.0, 0.6]), num_stages),
            arrival=arrival,
            max_in_flight=each(st.integers(1, 4), boundaries),
            prefer=draw(st.sampled_from(["gradients", "activations"])),
            stash=draw(st.sampled_from(["hold", "recompute", "weights", "graph"])),
            correction=draw(st.sampled_from(CORRECTIONS)),
            max_staleness=draw(st.sampled_from([None, None, 1, 2])),
            at_max_staleness=draw(st.sampled_from(["wait", "drop"])),
            queue=tuple(
                "block" if any(isinstance(above, SyntheticInput) for above in inputs[lower:]) else policy
                for lower, policy in enumerate(each(st.sampled_from(policies), boundaries))
            ),
            queue_size=each(st.integers(1, 2), boundaries),
            costs=CostModel(
                **{f"{name}_s": draw(seconds) for name in ("forward", "backward", "learn", "input", "message")}
            ),
            evaluate_every=draw(st.sampled_from([0, 3])),
            checkpoint_every=draw(st.sampled_from([0, 2, 3])),
            keep_last=100,
            log_every=100,
        )


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs(), further=st.sampled_from([0, 0, 5]), choice=st.integers(0, 9))
@pytest.mark.filterwarnings("ignore:a setting has no effect")
def test_any_simulated_run_is_replayed_to_the_same_bits(
    config: Config,
    further: int,
    choice: int,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    folder = tmp_path_factory.mktemp("run")
    try:
        prepared = prepare(config)
    except ConfigurationError:
        assume(False)
    result = run_simulated(prepared, folder=folder)
    if further:  # from its end, where it has not ended then
        result = run_simulated(prepare(replace(config, steps=config.steps + further)), folder=folder, resume=True)
    starts = saved_steps(folder / "checkpoints")[:-1] or [0]
    for start in {0, starts[choice % len(starts)]}:
        again = Replay(prepare(config), folder, start=start)
        again.run()
        assert again.comparison.equal, again.comparison.lines()
        assert again.ends() == []
        tensors = {name: value for stage in again.stages for name, value in stage.named_tensors().items()}
        assert_bit_equal(tensors, result.export())
    shutil.rmtree(folder)


PROBLEM = Problem(optimizer="adam", batch_size=48, steps=30)


class Turned(nn.Module):
    """Hands its input on with other strides, as a network in channels-last format does."""

    def forward(self, h: Tensor) -> Tensor:
        return h.contiguous(memory_format=torch.channels_last)


def convolutions() -> list[nn.Module]:
    """Four stages, whose kernels care for strides: a dropout mask is drawn in the order of the memory."""
    return [
        nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Turned()),
        nn.Sequential(nn.Dropout(0.1), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), Turned()),
        nn.Sequential(nn.Dropout(0.1), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Turned()),
        nn.Sequential(nn.Flatten(), nn.Linear(16, 10)),
    ]


def ready(num_stages: int = 4, **more: Any) -> Config:
    """Normalisation, dropout, synthetic gradients and syncs, in whatever order messages come."""
    config = PROBLEM.config(ConditionalSyntheticGradient(num_classes=10))
    starts = [str(index) for index in range(5 - num_stages, 4)]
    own: dict[str, Any] = {
        "model": lambda: partition(nn.Sequential(*convolutions()), at=starts),
        "arrival": "ready",
        "sync": Bernoulli(0.2),
        "checkpoint_every": 10,
    }
    return replace(config, **own | more)


def train_ranks(world: World, folder: str, config: Callable[..., Config], settings: dict[str, Any]) -> str:
    """This rank's part of a run; returns how it failed."""
    try:
        run_rank(prepare(config(**settings), num_ranks=world.world_size), Control(world), folder=Path(folder))
    except RunError as error:
        return str(error)
    return ""


def replayed(config: Config, folder: Path, *, start: int = 0, until: int | None = None) -> Replay:
    again = Replay(prepare(config), folder, start=start)
    again.run(until=until)
    return again


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("num_stages", "more"),
    [
        (2, {"stash": "weights", "cadence": (2,)}),
        (4, {}),
        (4, {"source": TrueGradient(), "stash": "recompute", "queue": ("latest",)}),
    ],
)
def test_run_of_several_processes_is_replayed_to_the_same_bits(
    num_stages: int, more: dict[str, Any], ranks: Ranks, tmp_path: Path
) -> None:
    settings = {"num_stages": num_stages, **more}
    assert ranks.run(train_ranks, str(tmp_path), ready, settings, world_size=2) == ["", ""]
    for start in (0, 20):
        again = replayed(ready(**settings), tmp_path, start=start)
        assert again.comparison.equal, again.comparison.lines()
        assert again.ends() == []
        assert [step for step, _ in again.comparison.num_tensors][::num_stages] == (
            [10, 20, 30] if start == 0 else [30]
        )


def test_run_of_several_threads_is_replayed_to_the_same_bits(tmp_path: Path) -> None:
    run_threaded(prepare(ready()), folder=tmp_path)
    assert replayed(ready(), tmp_path).comparison.equal


def failing(num_stages: int = 4, *, stage: int = 2, step: int = 17, fault: Fault = "raise") -> Config:
    config = ready(num_stages)

    def model() -> Any:
        blocks = list(config.model().stages)  # type: ignore[union-attr]
        blocks[stage] = nn.Sequential(FailAt(step, fault), blocks[stage])
        return blocks

    return replace(config, model=model)


@pytest.mark.distributed
def test_failure_of_a_rank_comes_again_at_the_same_message_once_all_else_is_replayed(
    ranks: Ranks, tmp_path: Path
) -> None:
    for message in ranks.run(train_ranks, str(tmp_path), failing, {}, world_size=2):
        assert "stage 2 failed at step 17 in forward: ArithmeticError: scripted fault" in message
    again = Replay(prepare(failing()), tmp_path)
    assert again.failure is not None and again.failure.step == 17
    left_then = []
    with pytest.raises(StageFailure, match="stage 2 failed at step 17 in forward: ArithmeticError") as caught:
        again.run(before_failure=lambda: left_then.append(again.ends()))
    assert isinstance(caught.value.__cause__, ArithmeticError)
    assert again.comparison.equal and {step for step, _ in again.comparison.num_tensors} == {10}
    (left,) = left_then
    assert "stage 2: 1 messages are left, from A17 on" in left
    orders = [read_order(tmp_path, index)[0].messages for index in range(4)]
    assert orders[2][-1] == "A17"
    assert f"stage 0: its record ends with {orders[0][-1]}" in left


def test_failure_that_is_gone_is_not_raised(tmp_path: Path) -> None:
    with pytest.raises(StageFailure):
        run_simulated(prepare(failing()), folder=tmp_path)
    again = replayed(failing(step=99), tmp_path)
    assert again.failure is not None and again.comparison.equal
    assert "stage 2: its record ends with A17" in again.ends()


def test_failure_to_read_the_data_comes_again(tmp_path: Path) -> None:
    class Torn(KeyedBatches):
        def start(self, step: int) -> Iterator[Any]:
            for number, batch in enumerate(super().start(step), step):
                if number == 13:
                    raise OSError("a torn file")
                yield batch

    whole = PROBLEM.batches()
    config = ready(data=lambda: Data(train=Torn(whole.x, whole.target, batch_size=48)))
    for attempt in (lambda: run_simulated(prepare(config), folder=tmp_path), lambda: replayed(config, tmp_path)):
        with pytest.raises(StageFailure, match="stage 0 failed at step 13 in data: OSError: a torn file"):
            attempt()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 30 steps, saved after 10, 20 and 30."""
    folder = tmp_path_factory.mktemp("recorded")
    run_simulated(prepare(ready(evaluate_every=15, data=_tested)), folder=folder)
    return folder


def _tested() -> Data:
    train = PROBLEM.batches()
    return Data(train=train, test=[(train.x[:40], train.target[:40]), (train.x[40:60], train.target[40:60])])


@pytest.fixture
def run(recorded: Path, tmp_path: Path) -> Path:
    """A copy of that run, to be changed."""
    return Path(shutil.copytree(recorded, tmp_path / "run"))


def again(run: Path, **more: Any) -> Replay:
    return replayed(ready(evaluate_every=15, data=_tested), run, **more)


def test_replay_stops_before_a_step_and_goes_on(run: Path) -> None:
    stopped = again(run, until=14)
    assert {step for step, _ in stopped.comparison.num_tensors} == {10}
    assert all("from A14 on" in line for line in stopped.ends()) and len(stopped.ends()) == 4
    assert max(stage.version for stage in stopped.stages) == 14
    stopped.run(until=15)
    stopped.run()
    assert stopped.comparison.equal and stopped.ends() == []
    assert {step for step, _ in stopped.comparison.num_tensors} == {10, 20, 30}


def test_replay_from_a_checkpoint_until_a_step(run: Path) -> None:
    part = again(run, start=10, until=20)
    assert part.comparison.equal and {step for step, _ in part.comparison.num_tensors} == {20}
    assert part.num_steps == 20, "to the end of the run"


def test_checkpoint_that_is_gone_is_not_compared_with(run: Path) -> None:
    shutil.rmtree(run / "checkpoints" / "step-000000020")
    found = again(run).comparison
    assert found.equal and {step for step, _ in found.num_tensors} == {10, 30}
    shutil.rmtree(run / "checkpoints")
    found = again(run).comparison
    assert not found.equal and found.lines() == ["not compared: no checkpoint of a step that was replayed is left"]


def test_replay_from_where_there_is_no_checkpoint_is_refused(run: Path) -> None:
    with pytest.raises(ConfigurationError, match="recorded from step 0, 10, 20 on"):
        again(run, start=15)
    with pytest.raises(ConfigurationError, match="no step from step 30 on: there is nothing to replay"):
        again(run, start=30)
    shutil.rmtree(run / "checkpoints" / "step-000000010")
    with pytest.raises(
        ConfigurationError, match=r"no checkpoint of step 10 any more .* there are those of step 20, 30, and"
    ):
        again(run, start=10)


def test_checkpoint_that_was_changed_is_named_with_the_tensor(run: Path) -> None:
    folder = run / "checkpoints" / "step-000000020"
    state = torch.load(folder / "stage-1.pt", weights_only=True)
    name, weight = next((n, w) for n, w in state["module"].items() if n.endswith("1.weight"))
    weight[0, 1, 0, 0] += 0.25
    torch.save(state, folder / "stage-1.pt")
    damaged = again(run).comparison
    assert not damaged.equal and {step for step, _ in damaged.num_tensors} == {10, 30}
    assert damaged.lines()[-1].endswith("stage-1.pt was changed (its SHA-256 is another).")

    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / "stage-1.pt").read_bytes()
    manifest["files"]["stage-1.pt"] = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    different = again(run).comparison
    assert not different.equal and list(different.differences) == [(20, 1)]
    assert different.lines() == [
        f"different: stage 1 at the checkpoint of step 20: module/{name} differs in 1 of {weight.numel()} elements, by "
        "up to 0.25 (0 more of this stage differ; equal up to the checkpoint of step 10)"
    ]


def test_other_weights_to_begin_with_are_different(run: Path) -> None:
    stages = convolutions()  # before the run's seed is set
    other = replayed(ready(evaluate_every=15, data=_tested, model=lambda: stages), run)
    assert not other.comparison.equal and min(other.comparison.differences) == (10, 0)
    assert "none was equal before" in other.comparison.lines()[0]


def change(run: Path, stage: int, edit: Callable[[list[str]], object]) -> None:
    """Edit the messages that a stage has recorded."""
    path = run / "order" / f"stage-{stage}.txt"
    start, *messages = path.read_text().splitlines()
    edit(messages)
    path.write_text("".join(f"{line}\n" for line in [start, *messages]))


@pytest.mark.parametrize(
    ("stage", "edit"),
    [
        pytest.param(1, lambda m: m.remove("A12"), id="a message is missing"),
        pytest.param(2, lambda m: m.remove("G12"), id="a gradient is missing"),
        pytest.param(0, lambda m: m.remove("A12"), id="a step is missing"),
        pytest.param(1, lambda m: m.insert(m.index("A12"), "A12"), id="a message is there twice"),
        pytest.param(1, lambda m: m.insert(m.index("A12"), "G12"), id="an answer before the question"),
        pytest.param(2, lambda m: m.insert(0, m.pop(m.index("A12"))), id="a message moved to the front"),
        pytest.param(0, lambda m: m.insert(0, m.pop(m.index("G12"))), id="a gradient moved to the front"),
        pytest.param(3, lambda m: m.insert(m.index("D10s"), "G9"), id="an answer that the last stage never gave"),
        pytest.param(1, lambda m: m.__setitem__(m.index("D10s"), "D10"), id="a drain that did not save"),
        pytest.param(0, lambda m: m.insert(m.index("E1"), "E2"), id="an evaluation batch that is not there"),
        pytest.param(0, lambda m: m.append("A30"), id="a step after the end"),
        pytest.param(1, lambda m: m.insert(m.index("A12"), "X12"), id="dropped, and handled all the same"),
    ],
)
def test_order_that_was_changed_is_refused(run: Path, stage: int, edit: Callable[[list[str]], object]) -> None:
    change(run, stage, edit)
    with pytest.raises(ReplayError, match=f"stage {stage}|stage {stage + 1}"):
        again(run)


def test_records_that_end_early_are_replayed_as_far_as_they_reach(run: Path) -> None:
    """As after a crash of the machine: the newest lines of some stages have not reached the disk."""

    def cut(messages: list[str]) -> None:
        del messages[messages.index("A17") :]

    change(run, 2, cut)
    part = again(run)
    assert part.comparison.equal and {step for step, _ in part.comparison.num_tensors} == {10}
    assert [line.split(":")[0] for line in part.ends()] == ["stage 0", "stage 1", "stage 2", "stage 3"]
    assert "stage 2: its record ends with" in part.ends()[2] and "from A17 on" in part.ends()[3]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("torch_version", "2.0.0", "the version of torch was 2.0.0, here it is 2"),
        ("device", "cuda NVIDIA H200", "the device was cuda NVIDIA H200, here it is cpu"),
        ("processor", "abacus", "the processor was abacus"),
        ("instructions", "", "the set of vector instructions was not recorded"),
        ("num_threads", 7, "num_threads was 7, here it is 1"),
        ("config", "0abc", "the SHA-256 of the configuration's file was 0abc, here it is None"),
    ],
)
def test_under_other_conditions_weights_are_not_compared(run: Path, name: str, value: object, words: str) -> None:
    path = run / "order" / "stage-2.txt"
    start, *messages = path.read_text().splitlines(keepends=True)
    path.write_text(f"# {json.dumps(json.loads(start[1:]) | {name: value})}\n" + "".join(messages))
    other = again(run)
    assert other.ends() == [] and not other.comparison.equal and not other.comparison.num_tensors
    (line,) = other.comparison.lines()
    assert line.startswith(f"not compared: {words}") and line.endswith("(stage 2)")


def test_weights_learned_from_data_that_is_not_keyed_are_not_compared(tmp_path: Path) -> None:
    batches = list(itertools.islice(PROBLEM.batches().start(0), 5))
    config = ready(data=lambda: Data(train=batches))
    result = run_simulated(prepare(config), folder=tmp_path)
    other = replayed(config, tmp_path)
    assert other.comparison.lines() == [
        "not compared: the data is read, not keyed by the step, and may not come again as it was; KeyedBatches does"
    ]
    tensors = {name: value for stage in other.stages for name, value in stage.named_tensors().items()}
    assert_bit_equal(tensors, result.export())  # here it did


def test_run_of_a_notebook_is_replayed_with_what_train_was_given(tmp_path: Path) -> None:
    def stages() -> list[nn.Module]:
        return [block(0), block(1)]

    given: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "source": SyntheticGradient(), "arrival": "ready"}
    result = train(stages(), data().train, steps=12, folder=tmp_path, **given)
    other = replay(tmp_path, stages(), data().train, **given)
    assert other.comparison.equal and other.ends() == []
    tensors = {name: value for stage in other.stages for name, value in stage.named_tensors().items()}
    assert_bit_equal(tensors, result.export())
    assert replay(tmp_path, stages(), data().train, until=5, **given).stages[0].version == 5


def test_run_whose_structure_changed_is_replayed_without_saying_how_long_it_was(tmp_path: Path) -> None:
    events = (Event(At(4), PruneUnits(layers=("0.0",), amount=Count(1))),)
    given: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "source": SyntheticGradient(), "events": events}
    train([block(0), block(1)], data().train, steps=12, folder=tmp_path, **given)
    other = replay(tmp_path, [block(0), block(1)], data().train, **given)
    assert other.comparison.equal and other.ends() == []


class NoisyBackward(torch.autograd.Function):
    """Draws in its backward, from the process-wide generator."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient + 0.01 * torch.randn(gradient.shape)


class Noisy(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return NoisyBackward.apply(h)  # type: ignore[no-any-return,no-untyped-call]


class Langevin(torch.optim.SGD):
    """Draws in its step."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad += 0.01 * torch.randn(parameter.shape)
        return super().step(closure)


class Careless(SyntheticGradient):
    """Draws while it is built, though it was given a generator."""

    def build(self, h: Any, *, generator: torch.Generator) -> None:
        super().build(h, generator=torch.Generator().manual_seed(int(torch.randint(99, ()))))


def test_whatever_a_stage_draws_is_drawn_again(tmp_path: Path) -> None:
    """In 0.1, the draws of a backward, an optimiser or a source's build depended on who had drawn before."""
    config = ready(
        model=lambda: [nn.Sequential(Noisy(), block(index)) for index in range(3)],
        data=data,
        source=(Careless(), TrueGradient()),
        optimizer=lambda parameters: Langevin(parameters, lr=0.05),
    )
    run_simulated(prepare(config), folder=tmp_path)
    assert replayed(config, tmp_path).comparison.equal
