"""Do real and synthetic gradients alternate as said, and does the table claim no more than its results?"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from experiments.expected import read_expected
from experiments.records import append_record
from experiments.shang2019_alternating import config, learning, results, run, table
from experiments.shang2019_alternating.config import ROWS, SMALL, Settings, injection, rate_schedule
from experiments.shang2019_alternating.model import ElementWise
from experiments.text import Words, wikitext2_words
from tests.experiments.checks import check

needs_data = pytest.mark.skipif(not os.environ.get("DNI_DATA"), reason="DNI_DATA names no folder with the texts")

TINY = replace(SMALL, embedding=16, hidden=8, cutoffs=(5, 12), batch_size=4, updates_per_epoch=1, num_epochs=12)
LOSSES = {
    "real": [9.365849, 9.382122, 9.347758, 8.227904],
    "synthetic_restarts": [9.365849, 9.330362, 9.149695, 8.749292],
    "alternating": [9.365849, 9.330362, 9.148969, 8.717701],
    "alternating_linear": [9.365849, 9.330362, 9.148969, 8.699804],
    "long_restarts": [9.36585, 9.33156, 9.113539, 8.901321],
}
"""In nats per word, of the first updates with seed 0 and epochs of a single update."""


def text() -> Words:
    """Words drawn at random, the first the most frequent."""
    drawn = torch.Generator().manual_seed(0)
    frequency = 1 / torch.arange(1, 21)
    parts = [torch.multinomial(frequency, size, replacement=True, generator=drawn) for size in (1500, 2100, 400)]
    return Words(train=parts[0], valid=parts[1], test=parts[2], num_types=20)


@pytest.fixture(scope="module")
def wikipedia() -> Words:
    """The training text; what is evaluated on is short."""
    return replace(wikitext2_words(), valid=torch.arange(2100) % 50)


@needs_data
@pytest.mark.experiment
@pytest.mark.parametrize("name", LOSSES)
def test_first_losses_are_those_written_down(name: str, wikipedia: Words) -> None:
    settings = replace(SMALL, updates_per_epoch=1, first_restart=2)
    found = islice(learning.train(ROWS[name], settings, wikipedia, seed=0), 4)
    assert [progress.loss for progress in found] == pytest.approx(LOSSES[name], rel=1e-4)


def losses_and_weights(row: str, settings: Settings, updates: int) -> tuple[list[float], list[torch.Tensor]]:
    """Of a run that is stopped."""
    made: list[learning.LanguageModel] = []

    def keep(settings: Settings, num_types: int, *, seed: int) -> learning.LanguageModel:
        made.append(original(settings, num_types, seed=seed))
        return made[-1]

    original = learning.make_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "make_model", keep)
        losses = [progress.loss for progress in islice(learning.train(ROWS[row], settings, text(), seed=1), updates)]
    return losses, [parameter.detach().clone() for parameter in made[0].parameters()]


@pytest.mark.experiment
def test_alternating_learns_to_the_bit_as_real_gradients_do_until_the_first_restart_and_not_after_it() -> None:
    settings = replace(TINY, rate=0.03, synthesizer_rate=0.1, injection=1.0)
    assert settings.restarts == (5, 10)
    for row in ("alternating", "alternating_linear"):
        losses, weights = losses_and_weights(row, settings, 5)
        real_losses, real_weights = losses_and_weights("real_restarts", settings, 5)
        assert losses == real_losses
        torch.testing.assert_close(weights, real_weights, rtol=0, atol=0)
        assert losses_and_weights(row, settings, 7)[0] != losses_and_weights("real_restarts", settings, 7)[0]


def test_synthetic_gradients_act_from_the_second_epoch_or_take_turns_at_restarts() -> None:
    settings = replace(SMALL, updates_per_epoch=10)
    assert settings.restarts == (50, 100, 200) and settings.num_updates == 400
    synthetic, alternating = (injection(ROWS[name], settings) for name in ("synthetic", "alternating"))
    assert [synthetic(step) for step in (0, 9, 10, 399)] == [0.0, 0.0, 0.1, 0.1]
    assert [alternating(step) for step in (0, 49, 50, 99, 100, 199, 200, 399)] == [0, 0, 0.1, 0.1, 0, 0, 0.1, 0.1]
    falling = rate_schedule(ROWS["alternating"], settings)
    assert [falling(step) for step in (0, 25, 50, 100, 150, 300)] == pytest.approx([1, 0.5, 1, 1, 0.5, 0.5])
    assert {rate_schedule(ROWS["synthetic"], settings)(step) for step in range(400)} == {1.0}


def test_rows_of_a_size_differ_in_their_gradients_and_rates_alone_and_every_row_is_expected() -> None:
    assert list(ROWS) == list(read_expected(results.EXPECTED))
    assert {row.settings for name, row in ROWS.items() if not row.full} == {SMALL}
    assert {row.settings for name, row in ROWS.items() if row.full} == {config.FULL}
    assert len(ROWS) == 2 * len([name for name, row in ROWS.items() if not row.full])


def test_element_wise_synthesizer_starts_at_zero_and_answers_every_number_of_the_state_alike() -> None:
    torch.manual_seed(0)
    synthesizer = ElementWise(hidden=5)
    rows = torch.randn(3, 4)
    assert not synthesizer(rows).any()
    torch.nn.init.normal_(synthesizer.map[2].weight)  # type: ignore[arg-type]
    found = synthesizer(rows)
    assert found.shape == (3, 4) and found.any()
    torch.testing.assert_close(synthesizer(rows.flip(1)).flip(1), found, rtol=0, atol=0)
    torch.testing.assert_close(synthesizer(rows[1:2, 2:3]), found[1:2, 2:3])


@pytest.mark.experiment
def test_cosine_is_that_of_the_synthesizer_with_the_gradient_of_the_next_span() -> None:
    settings, words = TINY, text()
    model = learning.make_model(settings, words.num_types, seed=0)
    learner = config.make_learner(ROWS["synthetic_linear"], settings, model, seed=0)
    streams = learning._streams(words.valid, 50)
    assert isinstance(learner, config.RecurrentDNI)
    learner.learn(model.embed(streams[:20]).detach(), learning._error_of(model, streams[1:21]))
    map = learner.synthesizer.networks[0].map  # type: ignore[union-attr]
    torch.nn.init.normal_(map.weight)  # type: ignore[union-attr, arg-type]
    before = [parameter.clone() for parameter in (*model.parameters(), *learner.synthesizer.parameters())]
    found = learning.boundary_cosine(model, learner, words.valid, settings)
    after = [*model.parameters(), *learner.synthesizer.parameters()]
    torch.testing.assert_close(after, before, rtol=0, atol=0)

    _, (h, c) = model(model.embed(streams[:20]))
    state = h.detach().requires_grad_(), c.detach().requires_grad_()
    y, _ = model(model.embed(streams[20:40]), state)
    true = torch.cat(torch.autograd.grad(model.error(y, streams[21:41]), state), dim=2)[0]
    predicted = map(torch.cat(state, dim=2)[0])  # type: ignore[operator]
    assert found == pytest.approx(torch.cosine_similarity(predicted.flatten(), true.flatten(), dim=0).item(), rel=1e-4)


@pytest.mark.experiment
def test_perplexity_of_a_model_that_knows_nothing_is_about_the_number_of_words() -> None:
    settings = replace(TINY, cutoffs=(19,))  # all but one in the head: nearly uniform
    model = learning.make_model(settings, 20, seed=0)
    torch.nn.init.zeros_(model.softmax.head.weight)
    assert learning.perplexity(model, torch.arange(400) % 19, num_streams=4, window=7) == pytest.approx(20.0)


@pytest.mark.experiment
def test_a_measured_run_says_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "ROWS", {name: replace(row, settings=TINY) for name, row in ROWS.items()})
    found = run.measure(run.Job(row="alternating", seed=2), text)
    assert (found.row, found.seed, found.updates, found.words) == ("alternating", 2, 12, 12 * 4 * 20)
    assert [update for update, _ in found.curve] == [update for update, _ in found.cosines] == [5, 10, 12]
    assert found.valid == min(valid for _, valid in found.curve) and 5 < found.test < 21
    assert found.synthesizer_parameters == 50 + 50 + 50 + 1 and found.settings["hidden"] == 8
    real = run.measure(run.Job(row="real", seed=2, epoch=2), text)
    assert (real.synthesizer_parameters, real.cosines, real.updates) == (0, [], 24)
    assert real.num_parameters == found.num_parameters


def test_rows_measured_before_are_skipped_and_unknown_ones_refused() -> None:
    options = run.Options(rows=("real", "alternating"), seeds=(0, 1))
    jobs = run.pending_jobs(options, {("real", 0)})
    assert [(job.row, job.seed) for job in jobs] == [("alternating", 0), ("real", 1), ("alternating", 1)]
    assert len(run.pending_jobs(run.Options(), set())) == 3 * len(ROWS) / 2
    assert len(run.pending_jobs(run.Options(full=True, seeds=(0,)), set())) == len(ROWS)
    with pytest.raises(ValueError, match=r"rows must be among real, .*; found nonsense\."):
        run.pending_jobs(run.Options(rows=("nonsense",)), set())
    with pytest.raises(ValueError, match="at least 1 update; found 0"):
        run.pending_jobs(run.Options(epoch=0), set())


def made_up(row: str, seed: int, test: float) -> results.Run:
    synthetic = ROWS[row].method != "real"
    return results.Run(
        row=row,
        seed=seed,
        test=test,
        valid=test + 5,
        curve=[(250, 2 * test), (500, test), (1000, test), (2000, test + 5)],
        cosines=[(update, 0.5) for update in (250, 500, 1000, 2000)] if synthetic else [],
        updates=2000,
        words=1_000_000,
        train_cpu_s=60.0,
        wall_s=90.0,
        num_parameters=2_000_000,
        synthesizer_parameters=151 if synthetic else 0,
        settings={},
        machine={"date": "d", "processor": "p", "cores": 2, "python": "3", "torch": "2", "commit": "c"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the experiment with made-up results, its tables rebuilt."""
    shutil.copy(results.FOLDER / "README.md", tmp_path)
    cells = [line.split(",") for line in results.EXPECTED.read_text().splitlines()]
    ours, seeds = cells[0].index("ours"), cells[0].index("seeds")
    for line in cells[1:]:
        line[ours], line[seeds] = ("103", "2") if line[0] == "alternating" else ("100", "0")
    (tmp_path / "expected.csv").write_text("\n".join(",".join(line) for line in cells) + "\n")
    for row, seed, test in (
        *(("real_restarts", 0, 100.0), ("real_restarts", 1, 100.0)),
        *(("alternating", 1, 104.0), ("alternating", 0, 101.0), ("alternating", 0, 102.0)),
    ):
        append_record(made_up(row, seed, test), tmp_path / "results.jsonl")
    assert table.main(folder=tmp_path) == 0
    return tmp_path


def test_check_accepts_tables_made_from_their_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(table, folder, capsys) == []
    readme = (folder / "README.md").read_text()
    assert "| alternating at warm restarts | 103.0 ± 1.4 | 108.0 ± 1.4 | +3.00 ± 1.41 % | 2 |" in readme
    assert "| real gradients, warm restarts | 100.0 ± 0.0 | 105.0 ± 0.0 |  | 2 |" in readme
    assert "| - cosine | 0.500 ± 0.000 |" in readme and "| real gradients | not run | | | |" in readme
    assert "| alternating at warm restarts | 60 ± 0 | 2,000,000 | 151 |" in readme


def test_check_names_a_row_outside_its_tolerance_without_seeds_or_without_an_expectation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append_record(made_up("alternating", 0, 300.0), folder / "results.jsonl")
    (line,) = [line for line in check(table, folder, capsys) if "lies outside" in line]
    assert line.startswith("alternating: 202.0 lies outside 103.0 ± ")
    (folder / "results.jsonl").unlink()
    assert "alternating: needs 2 seeds, has 0; run it" in check(table, folder, capsys)
    append_record(made_up("alternating_full", 0, 50.0), folder / "results.jsonl")
    text = (folder / "expected.csv").read_text().replace(",100,", ",,")
    (folder / "expected.csv").write_text(text)
    assert "alternating_full: expected.csv has no value of ours; the results give 50.0" in check(table, folder, capsys)
