"""Do draws depend on (seed, name, step) and nothing else?"""

from __future__ import annotations

import contextlib
import itertools

import torch

from pipeline.keyed import generator, key, seeded, undisturbed

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
