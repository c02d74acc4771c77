"""Do draws depend on (seed, name, step) and nothing else?"""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import get_args

import pytest
import torch

from pipeline.errors import RunError
from pipeline.randomness.keyed import Generators, Phase, generator, key, seeded, undisturbed
from pipeline.randomness.turns import Turns

CPU = torch.device("cpu")


def test_key_is_the_same_on_every_machine() -> None:
    assert key(0, "shuffle", 0) == 5846905486456240468  # unlike hash("shuffle"), which differs from process to process


def test_key_differs_for_every_seed_name_and_step() -> None:
    cases = list(itertools.product((-1, 0, 1, 12), ("a", "b", "a/1", "a/12"), (0, 1, 2, 21)))
    keys = [key(*case) for case in cases]
    assert len(set(keys)) == len(cases)
    assert all(0 <= k < 2**63 for k in keys)


def test_generator_is_fresh_at_each_call() -> None:
    first, second = generator(1, "x", 2), generator(1, "x", 2)
    drawn = torch.rand(3, generator=first)
    assert torch.equal(drawn, torch.rand(3, generator=second))
    assert not torch.equal(drawn, torch.rand(3, generator=first))


def test_seeded_starts_the_global_generator_at_the_key() -> None:
    draws = []
    for step in (4, 5, 4):
        torch.rand(step)
        seeded(0, "forward/1", step, device=CPU)
        draws.append(torch.rand(2))
    assert torch.equal(draws[0], draws[2]) and not torch.equal(draws[0], draws[1])


def test_undisturbed_gives_the_global_generator_back_even_after_an_exception() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    with undisturbed():
        torch.rand(9)
    assert torch.equal(torch.rand(2), expected)
    torch.manual_seed(5)
    with contextlib.suppress(RuntimeError), undisturbed():
        torch.rand(9)
        raise RuntimeError
    assert torch.equal(torch.rand(2), expected)


def _state() -> list[int]:
    return torch.default_generator.get_state().tolist()


def test_stage_alone_in_its_process_starts_the_generator_at_its_key_where_it_may_draw() -> None:
    """In 0.1, a backward or an optimiser that draws got numbers that depended on which stages shared a process."""
    generators = Generators(seed=3, stage=1, device=CPU)
    for phase in get_args(Phase):
        torch.rand(1)
        with generators.at(phase, 7):
            found = torch.rand(2)
        seeded(3, "optimizer/1" if phase == "update" else f"{phase}/1", 7, device=CPU)
        assert torch.equal(found, torch.rand(2))
    torch.rand(1)
    with generators.forked():
        found = torch.rand(2)
    seeded(3, "build/1", 0, device=CPU)
    assert torch.equal(found, torch.rand(2))


def test_stage_beside_others_starts_the_generator_only_where_it_was_found_to_draw() -> None:
    generators = Generators(seed=3, stage=1, device=CPU, turns=Turns(), draws=frozenset({"forward", "backward"}))
    drawing: tuple[Phase, ...] = ("forward", "backward")
    for phase in drawing:
        with generators.at(phase, 7):
            found = torch.rand(2)
        seeded(3, f"{phase}/1", 7, device=CPU)
        assert torch.equal(found, torch.rand(2))
    others: tuple[Phase, ...] = ("learn", "estimate", "update")
    for phase in others:
        before = _state()
        for step in range(3):
            with generators.at(phase, step):
                assert _state() == before


@pytest.mark.parametrize(("check_every", "checked"), [(0, [0]), (4, [0, 3, 7]), (1, list(range(10)))])
def test_draw_that_was_not_foreseen_is_found_at_the_first_step_and_at_every_check(
    check_every: int, checked: list[int]
) -> None:
    generators = Generators(seed=3, stage=1, device=CPU, turns=Turns(), check_every=check_every)
    found = []
    for step in range(10):
        try:
            with generators.at("learn", step):
                torch.rand(1)
        except RunError as error:
            found.append((step, str(error)))
    assert [step for step, _ in found] == checked
    for step, message in found:
        assert f"stage 1 drew from PyTorch's process-wide generator in learn at step {step}" in message


def test_code_that_forks_the_generator_waits_for_its_turn_and_nothing_is_checked() -> None:
    with Generators(seed=3, stage=1, device=CPU).forked():
        torch.rand(1)
    waited: list[float] = []
    turns = Turns()
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with turns.alone():
            held.set()
            leave.wait(20.0)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20.0)
    threading.Timer(0.01, leave.set).start()
    with Generators(seed=3, stage=1, device=CPU, turns=turns, waited=waited.append).forked():
        torch.rand(1)
    thread.join()
    assert len(waited) == 1 and not turns.suspicious
