"""How is a row trained, how well does it predict, and how good are its synthetic gradients?"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dni import LossOfSteps, RecurrentDNI, Span, agreement
from experiments.shang2019_alternating.config import Learner, Row, Settings, make_learner, rate_schedule
from experiments.shang2019_alternating.model import LanguageModel
from experiments.text import Words

__all__ = ["Progress", "boundary_cosine", "make_model", "perplexity", "train"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run has come to after some updates."""

    update: int
    """Updates so far."""
    loss: float
    """Of the last update, in nats per word."""
    valid: float | None = None
    """Perplexity of the validation text; before every restart and at the end."""
    cosine: float | None = None
    """Of synthetic with true gradients, `boundary_cosine`, where there is a synthesizer; whenever there is `valid`."""
    test: float | None = None
    """Perplexity of the test text, with the weights that had the best `valid`; once, at the end."""
    train_cpu_s: float
    """Processor time of all updates so far, without evaluations."""
    num_parameters: int
    """Of the network."""
    synthesizer_parameters: int
    """Of the synthesizer."""


def train(row: Row, settings: Settings, text: Words, *, seed: int) -> Iterator[Progress]:
    """Yields after every update; evaluates before every restart and at the end, in all rows alike."""
    model = make_model(settings, text.num_types, seed=seed)
    learner = make_learner(row, settings, model, seed=seed)
    rate = settings.rate if row.restarts else settings.constant_rate
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, weight_decay=settings.weight_decay, fused=True)
    schedule = rate_schedule(row, settings)
    streams = _streams(text.train, settings.batch_size)
    spans_per_pass = (len(streams) - 1) // settings.span
    best, kept, cpu_s = math.inf, copy.deepcopy(model.state_dict()), 0.0
    for update in range(settings.num_updates):
        place = update % spans_per_pass * settings.span
        if place == 0:
            learner.begin()
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(update)
        started_s = time.process_time()
        loss = _update(model, learner, optimizer, streams[place : place + settings.span + 1], clip=settings.clip)
        cpu_s += time.process_time() - started_s
        valid = cosine = test = None
        if update + 1 in (*settings.restarts, settings.num_updates):
            valid, cosine = perplexity(model, text.valid), boundary_cosine(model, learner, text.valid, settings)
            if valid < best:
                best, kept = valid, copy.deepcopy(model.state_dict())
        if update + 1 == settings.num_updates:
            model.load_state_dict(kept)
            test = perplexity(model, text.test)
        own, both = (_num_parameters(module) for module in (model, learner))
        yield Progress(
            update=update + 1,
            loss=loss,
            valid=valid,
            cosine=cosine,
            test=test,
            train_cpu_s=cpu_s,
            num_parameters=own,
            synthesizer_parameters=both - own if both else 0,
        )


def make_model(settings: Settings, num_types: int, *, seed: int) -> LanguageModel:
    """The network with the initial weights of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LanguageModel(
            num_types,
            embedding=settings.embedding,
            hidden=settings.hidden,
            num_layers=settings.num_layers,
            cutoffs=settings.cutoffs,
        )


@torch.no_grad()
def perplexity(model: LanguageModel, text: Tensor, *, num_streams: int = 50, window: int = 20) -> float:
    """Of a text read from `num_streams` places on; the state is carried. What is over at the end is left out."""
    streams = _streams(text, num_streams)
    total, state = 0.0, None
    for first in range(0, len(streams) - 1, window):
        words = streams[first : first + window + 1]
        y, state = model(model.embed(words[:-1]), state)
        total += model.error(y, words[1:]).item()
    return math.exp(total / ((len(streams) - 1) * num_streams))


def boundary_cosine(
    model: LanguageModel, learner: Learner, text: Tensor, settings: Settings, *, num_streams: int = 50
) -> float | None:
    """Cosine of the synthetic with the true gradient of the next span's losses; None if there is no synthesizer.

    Taken after one span of the text, at a boundary of windows, all samples as one vector. λ = 1 is backpropagation.
    """
    if not isinstance(learner, RecurrentDNI):
        return None
    twin = copy.deepcopy(model)
    (synthesizer,) = learner.synthesizer.networks
    probe = RecurrentDNI(twin, synthesizer, horizon=settings.horizon, injection=0.0, bp_lambda=1.0)
    words = _streams(text, num_streams)[: 2 * settings.span + 1]
    ends = torch.ones(num_streams, dtype=torch.bool)
    found = probe.learn(twin.embed(words[:-1]).detach(), _error_of(twin, words[1:]), done=ends)
    boundary = settings.span // settings.horizon
    return agreement([found.synthetic[boundary - 1]], [found.targets[boundary]])["cosine"]


def _update(
    model: LanguageModel, learner: Learner, optimizer: torch.optim.Optimizer, words: Tensor, *, clip: float
) -> float:
    """Learn from a span, (steps + 1, N), and move the weights once; returns the loss in nats per word."""
    optimizer.zero_grad()
    embedded = model.embed(words[:-1])
    x = embedded.detach().requires_grad_()
    found = learner.learn(x, _error_of(model, words[1:]))
    embedded.backward(x.grad)
    for parameter in model.parameters():
        if parameter.grad is not None:  # a rare word's cluster may not have been asked
            parameter.grad /= words[1:].numel()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return (found.loss if isinstance(found, Span) else found) / len(x)


def _error_of(model: LanguageModel, targets: Tensor) -> LossOfSteps:
    return lambda y, steps: model.error(y, targets[steps])


def _streams(text: Tensor, num_streams: int) -> Tensor:
    """(steps, num_streams): a column for each of equal pieces of the text; what is over at the end is left out."""
    steps = len(text) // num_streams
    return text[: steps * num_streams].view(num_streams, steps).T


def _num_parameters(module: object) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if isinstance(module, nn.Module) else 0
