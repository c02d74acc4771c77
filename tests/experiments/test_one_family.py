"""Does every source train as it did, is its cost counted rightly, and does the table claim no more than its results?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import (
    ConditionalSyntheticGradient,
    DirectFeedbackAlignment,
    GradientSource,
    NoGradient,
    Signal,
    TrueGradient,
    agreement,
    convert_to_feedback_alignment,
)
from experiments.one_family import config as settings
from experiments.one_family import cost, speed, table
from experiments.one_family.config import RATES, ROWS, TASKS, Split, Task, bare_config
from experiments.one_family.results import ALWAYS, NUM_FINALISTS, Run, best_rates, counted, finalists
from experiments.one_family.run import Job, Options, final_jobs, measure, rate_jobs, screening_jobs
from experiments.one_family.watch import Watched
from pipeline import Config, Data, KeyedBatches, prepare, run_simulated

LOSSES = {
    "backprop": 1.342415,
    "late_hold": 1.342415,
    "late_weights": 1.864631,
    "late_recompute": 1.864393,
    "late_graph": 1.863695,
    "late_shrunk": 1.864642,
    "late_predicted": 1.783503,
    "synthetic": 2.263012,
    "synthetic_hidden": 2.256283,
    "conditional": 2.252995,
    "conditional_sync": 1.852193,
    "alternating": 1.574644,
    "mixed": 1.648906,
    "critic": 2.317597,
    "sobolev": 2.317564,
    "virtual": 2.209873,
    "local": 2.269678,
    "local_predsim": 2.338547,
    "feedback": 2.312704,
    "sign_symmetric": 1.760280,
    "direct_feedback": 2.249673,
    "kickback": 2.303571,
    "zero": 2.274770,
    "none": 2.274770,
}
"""Of the sixth microbatch, on random pictures, with seed 0."""


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random pictures instead of the data sets."""

    def small(task: Task) -> Split:
        x, y = bare_config("backprop", task[0], steps=1).data().train.peek()
        x, y = torch.cat([x, x]), torch.cat([y, y])
        return Split(train_x=x, train_y=y, held_out_x=x, held_out_y=y, test_x=x, test_y=y)

    monkeypatch.setattr(settings, "split", small)
    monkeypatch.setattr("experiments.one_family.run.split", small)


@pytest.mark.experiment
@pytest.mark.parametrize("row", ROWS)
def test_row_has_the_loss_written_down_after_six_steps(row: str) -> None:
    losses: dict[int, float | None] = {}
    drawn = torch.Generator().manual_seed(0)
    x, target = torch.randn(128, 784, generator=drawn), torch.randint(10, (128,), generator=drawn)
    config = replace(bare_config(row, "fcn", steps=6), data=lambda: pictures(x, target, 32), log_every=1)
    run_simulated(prepare(config), on_status=lambda statuses: losses.update({statuses[-1].step: statuses[-1].loss}))
    assert losses[5] == pytest.approx(LOSSES[row], rel=1e-4)


def pictures(x: Tensor, target: Tensor, batch_size: int) -> Data:
    return Data(train=KeyedBatches(x, target, batch_size=batch_size))


def test_rows_that_should_be_equal_are() -> None:
    for row, its in ROWS.items():
        assert not its.twin or LOSSES[row] == LOSSES[its.twin]
    assert LOSSES["zero"] == LOSSES["none"]


@pytest.mark.experiment
def test_measured_run_says_how_close_the_gradient_was(noise: None) -> None:
    def run(row: str) -> Run:
        return measure(Job(row=row, task=("fcn", "mnist"), rate=1e-3, seed=0, steps=10))

    late, feedback, none = map(run, ("late_graph", "feedback", "none"))
    for blind in (late, feedback):
        assert blind.probe_cosines == pytest.approx([1.0] * 5, abs=1e-4)
    assert late.used_cosine is not None and feedback.used_cosine is not None
    assert 0.99 > late.used_cosine > 0.5 > abs(feedback.used_cosine)
    assert none.probe_cosines == () and none.used_cosine is None
    assert all(run.test_error is not None for run in (late, feedback, none))


@pytest.mark.experiment
def test_convolutional_network_is_measured_too(noise: None) -> None:
    run = measure(Job(row="zero", task=("cnn", "fashion"), rate=1e-3, seed=0, steps=2))
    assert run.refused is None and run.test_error is not None and run.steps == 2
    assert set(run.probe_cosines) == set(run.probe_weight_cosines) == {0.0} and run.used_cosine == 0.0


@pytest.mark.experiment
def test_row_that_cannot_serve_is_recorded_as_refused(noise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config) -> Config:
        return replace(config, source=DirectFeedbackAlignment(3))

    monkeypatch.setattr(settings, "ROWS", {**ROWS, "zero": replace(ROWS["zero"], make=refuse)})
    run = measure(Job(row="zero", task=("fcn", "mnist"), rate=1e-3, seed=0, steps=5))
    assert run.refused is not None and "Set num_outputs to 10" in run.refused
    assert run.test_error is None and run.probe_cosines == () and run.used_cosine is None


@pytest.mark.parametrize("mode", ["random", "sign"])
def test_watcher_takes_plain_backprop_through_the_stages_above_for_the_truth(mode: str) -> None:
    torch.manual_seed(0)
    above = nn.Linear(5, 3)
    plain = nn.Linear(5, 3)
    convert_to_feedback_alignment(above, generator=torch.default_generator, mode=mode)  # type: ignore[arg-type]
    h, target = torch.randn(8, 5), torch.randint(3, (8,))
    leaf = h.clone().requires_grad_()
    (through_b,) = torch.autograd.grad(F.cross_entropy(above(leaf), target, reduction="sum"), leaf)
    error = F.softmax(F.linear(h, above.weight, above.bias), dim=1) - F.one_hot(target, 3)
    watched = Watched(TrueGradient(), [above], [plain], first=2, every=3)
    for step in range(8):
        used = watched.estimate(h, Signal(step=step, target=target, gradient=through_b))
        assert used is through_b
    expected = agreement([through_b], [error @ above.weight])["cosine"]
    assert watched.cosines == pytest.approx([expected] * 2) and expected < 0.99  # at steps 3 and 6


def small_config(stages: list[nn.Module], x: Tensor, source: GradientSource) -> Config:
    target = torch.arange(len(x)) % 3
    return Config(
        model=lambda: stages,
        data=lambda: pictures(x, target, 4),
        loss=nn.CrossEntropyLoss(),
        source=source,
        steps=2,
        delay=(1,),
    )


@pytest.mark.parametrize(
    ("source", "learned", "fixed", "flops", "sent"),
    [
        # forward and to the weights 2 x (24 + 12) each, to the input of the second stage 2 x 12
        (TrueGradient(), 0, 0, 168, (24, 16, 0)),
        # a 7 x 4 matrix: once to estimate, twice to learn (its input is nobody's output)
        (ConditionalSyntheticGradient(3), 32, 0, 168 + 6 * 28, (24, 16, 0)),
        # a 3 x 4 matrix instead of the way through the second stage
        (DirectFeedbackAlignment(3), 0, 12, 168 - 24 + 24, (24, 0, 12)),
        # forwards, and the weights of the second stage
        (NoGradient(), 0, 0, 72 + 24, (24, 0, 0)),
    ],
    ids=["true", "conditional", "direct feedback", "none"],
)
def test_cost_is_what_is_counted_by_hand(
    source: GradientSource, learned: int, fixed: int, flops: int, sent: tuple[int, int, int]
) -> None:
    config = small_config([nn.Linear(6, 4), nn.Linear(4, 3)], torch.randn(8, 6), source)
    found = cost.measure(config, batch_size=4)
    assert (found.learned, found.fixed, found.flops) == (learned, fixed, flops)
    assert (found.up_bytes, found.down_bytes, found.error_bytes) == sent  # up: 4 numbers and the label
    sources = {ConditionalSyntheticGradient: 6 * 28, DirectFeedbackAlignment: 24}
    assert found.source_flops == sources.get(type(source), 0)


def test_cost_of_a_convolution_and_of_weights_of_the_way_back_is_counted() -> None:
    first = nn.Conv2d(1, 2, 3, padding=1)
    second = nn.Sequential(nn.Flatten(), nn.Linear(50, 3))
    convert_to_feedback_alignment(second, generator=torch.Generator(), mode="random")
    found = cost.measure(small_config([first, second], torch.randn(8, 1, 5, 5), TrueGradient()), batch_size=4)
    assert found.flops == 2 * 2 * (25 * 9 * 2) + 3 * 2 * 150  # no gradient to the pixels
    assert (found.learned, found.fixed) == (0, 150)


@pytest.mark.experiment
@pytest.mark.parametrize("row", [speed.LOOP, "backprop", "conditional"])
def test_speed_is_measured(row: str) -> None:
    assert speed.samples_per_s(row, "fcn", steps=2) > 0


def run_of(row: str, task: Task, *, error: float | None = 0.1, seed: int = 0, **more: object) -> Run:
    fields: dict[str, object] = {
        "row": row,
        "net": task[0],
        "data": task[1],
        "rate": RATES[0],
        "seed": seed,
        "steps": 1,
        "refused": None,
        "held_out_error": error,
        "test_error": None if error is None else error / 2,
        "probe_cosines": (0.25, 0.75),
        "probe_weight_cosines": (0.5, 1.0),
        "used_cosine": 0.125,
        "wall_s": 1.0,
        "machine": {"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    }
    return Run(**{**fields, **more})  # type: ignore[arg-type]


def screened() -> list[Run]:
    """Every row on every task, the later ones the better."""
    return [run_of(row, task, error=0.5 - 0.01 * index) for index, row in enumerate(ROWS) for task in TASKS]


def test_rate_is_the_better_one_on_held_out_samples_and_the_other_data_get_it() -> None:
    options = Options(only=("zero",), nets=("cnn",))
    jobs = rate_jobs(options, ())
    assert [(job.task, job.rate, job.seed) for job in jobs] == [(("cnn", "fashion"), rate, 0) for rate in RATES]
    runs = [run_of("zero", ("cnn", "fashion"), rate=RATES[0], error=0.3), run_of("zero", ("cnn", "mnist"))]
    assert [job.rate for job in rate_jobs(options, runs)] == [RATES[1]]
    runs.append(run_of("zero", ("cnn", "fashion"), rate=RATES[1], error=0.2))
    assert best_rates(runs) == {("zero", "cnn"): RATES[1]}
    (job,) = screening_jobs(options, runs)
    assert (job.task, job.rate) == (("cnn", "mnist"), RATES[1])
    with pytest.raises(ValueError, match="found nonsense"):
        rate_jobs(Options(only=("nonsense",)), ())


def test_finalists_have_the_lowest_held_out_error_and_are_run_with_all_seeds() -> None:
    runs = screened()
    assert finalists(runs[1:]) == [] and final_jobs(Options(), runs[1:]) == []
    best = finalists(runs)
    assert best == [*ALWAYS, *list(ROWS)[: -NUM_FINALISTS - 1 : -1]]
    assert len(final_jobs(Options(), runs)) == 2 * len(TASKS) * len(best)
    worst = replace(runs[-1], held_out_error=None)
    assert "none" not in finalists([*runs[:-1], worst])


def test_table_shows_seeds_cosines_what_diverged_and_what_was_not_run() -> None:
    task = ("fcn", "fashion")
    runs = [run_of("conditional", task, seed=seed, error=0.2 + seed / 5) for seed in (0, 1)]
    runs += [run_of("late_graph", task), run_of("none", task, error=None), run_of("zero", task, refused="why")]
    part = table.render(runs, (), ())["fcn fashion"]
    assert "| conditional, linear | 15.00 ± 7.07 | 30.00 ± 14.14 | 0.50 | 0.75 | 0.001 |" in part
    assert "| today's weights, old activations | 5.00 | 10.00 | 0.12 † |  | 0.001 |" in part
    assert "| none | diverged (1 of 1) | diverged (1 of 1) |" in part
    assert "| zero | refused: why |" in part and "| backprop | not run |" in part


def test_table_shows_costs_and_medians_of_the_newest_times() -> None:
    names = ("learned", "fixed", "source_flops", "flops", "up_bytes", "down_bytes", "error_bytes")
    where = run_of("zero", TASKS[0]).machine
    costs = [{"row": "backprop", "net": "fcn", **dict.fromkeys(names, 2_000_000), "machine": where}]
    costs += [{**costs[0], "row": "critic", "flops": 3_000_000, "down_bytes": 0}]
    speeds = [
        {"run": run, "row": row, "net": "fcn", "samples_per_s": rate * (1 + repeat), "machine": where}
        for run, repeat in (("old", 6), ("new", 0), ("new", 1), ("new", 2))
        for row, rate in (("backprop", 100.0), ("critic", 50.0), (speed.LOOP, 200.0))
    ]
    part = table.render([], costs, speeds)["fcn cost"]
    assert (
        "| critic | 2,000,000 | 2,000,000 | 2.00 M | 3.00 M | 1.50 | 2,000,000 | 0 | 2,000,000 | 100 | 0.50 | 0.25 |"
        in part
    )
    assert "| *a plain loop* | | | | | | | | | 400 | 2.00 | 1.00 |" in part


def test_check_names_what_is_missing_and_what_is_not_its_twin() -> None:
    runs = screened()
    missing = list(table.failures(runs, ()))
    assert "none, cnn mnist: needs 3 seeds, has 1" in missing
    assert "late_hold, fcn mnist: must equal backprop" in missing
    assert len(missing) == len(TASKS) * (len(ALWAYS) + NUM_FINALISTS + 1)
    assert list(table.failures([], ())) == []
    own = counted(runs)
    equal = [replace(run, held_out_error=own["backprop", run.task][0].held_out_error) for run in runs]
    equal = [replace(run, test_error=own["backprop", run.task][0].test_error) for run in equal]
    assert not any("must equal" in text for text in table.failures(equal, ()))
