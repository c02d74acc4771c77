"""How is a row trained, and how far did it come?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dni import LossOfSteps, RecurrentDNI, Span
from experiments.jaderberg2017_recurrent.config import Characters, Copying, Learner, Model, Row, make_learner
from experiments.jaderberg2017_recurrent.sequences import INPUTS, Curriculum, Sequences, Task, draw, num_outputs
from experiments.text import Text, shakespeare, wikitext2
from pipeline.randomness.keyed import generator

__all__ = ["Progress", "bits_per_byte", "copy_sequences", "model_characters"]

_CLIP = 10.0
"""Largest norm of the gradient, per sample."""
_EVALUATIONS = 4
"""Of the character model on the validation text, in a run."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a run has come to after some steps."""

    steps: int
    updates: int
    loss: float
    """Of the last update, per sample, summed over its steps; nats."""
    value: float
    """Copying: L R of the longest sequence solved; 0: none. Characters: bits per character of the validation text."""
    trying: int | None = None
    """Copying: L R of the length that is being learned."""
    error: float | None = None
    """Copying: bits per bit asked for at that length, mean over the last ten batches."""
    test: float | None = None
    """Bits per character of the test text; once, at the end."""
    synthesizer_parameters: int = 0
    """Of the synthesizer, and of the auxiliary task's network."""
    num_parameters: int = 0
    """Of the network."""


def copy_sequences(row: Row, settings: Copying, *, seed: int) -> Iterator[Progress]:
    """Copy or Repeat Copy: yields after every update."""
    task: Task = "copy" if row.task == "copy" else "repeat_copy"
    model = _seeded(seed, lambda: _copier(task, settings))
    learner = make_learner(row, model, settings, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    curriculum, steps, updates = Curriculum(task=task), 0, 0
    while steps < settings.budget:
        keyed = generator(seed, row.task, updates)
        sequences = draw(task, curriculum.level, num_samples=settings.batch_size, generator=keyed)
        learner.begin()
        done = torch.ones(settings.batch_size, dtype=torch.bool)
        loss = _update(model, learner, optimizer, sequences.x, _error_of(sequences), done)
        steps, updates = steps + len(sequences.x), updates + 1
        answers = sequences.asked.sum().item() * num_outputs(task)
        curriculum.see(loss / answers / math.log(2))
        yield Progress(
            steps=steps,
            updates=updates,
            loss=loss,
            value=0 if curriculum.solved is None else curriculum.solved.score,
            trying=curriculum.level.score,
            error=curriculum.error,
            **_sizes(model, learner),
        )


def model_characters(row: Row, settings: Characters, *, seed: int) -> Iterator[Progress]:
    """The character model: yields after every update, and evaluates now and then; the last also has the test's."""
    text = shakespeare() if row.task == "shakespeare" else wikitext2()
    model = _seeded(seed, lambda: _reader(text, settings))
    learner = make_learner(row, model, settings, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    streams = _streams(text.train, settings.batch_size)
    num_updates = settings.budget // settings.span
    per_epoch = (len(streams) - 1) // settings.span
    valid, every = math.nan, max(1, num_updates // _EVALUATIONS)
    for update in range(num_updates):
        place = update % per_epoch * settings.span
        if place == 0:
            learner.begin()
        read = streams[place : place + settings.span + 1].long()
        loss = _update(model, learner, optimizer, read[:-1], _next_symbol(read[1:]))
        last = update + 1 == num_updates
        if last or (update + 1) % every == 0:
            valid = bits_per_byte(model, text.valid) * text.valid_bytes_per_character
        yield Progress(
            steps=(update + 1) * settings.span,
            updates=update + 1,
            loss=loss,
            value=valid,
            test=bits_per_byte(model, text.test) * text.test_bytes_per_character if last else None,
            **_sizes(model, learner),
        )


@torch.no_grad()
def bits_per_byte(model: Model, text: Tensor, *, num_streams: int = 50, window: int = 200) -> float:
    """Of a text read from `num_streams` places on to its end; the state is carried, and begins at each place anew."""
    streams = _streams(text, num_streams)
    total, state = 0.0, None
    for first in range(0, len(streams) - 1, window):
        read = streams[first : first + window + 1].long()
        y, state = model(read[:-1], state)
        total += _next_symbol(read[1:])(y, slice(0, len(y))).item()
    return total / math.log(2) / ((len(streams) - 1) * num_streams)


def _update(
    model: Model,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    loss_of: LossOfSteps,
    done: Tensor | None = None,
) -> float:
    """Learn from a span and move the weights once; returns the loss per sample."""
    optimizer.zero_grad()
    found = learner.learn(x, loss_of, done=done)
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= x.shape[1]
    nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    optimizer.step()
    return found.loss if isinstance(found, Span) else found


def _error_of(sequences: Sequences) -> LossOfSteps:
    """The cross-entropy of the answers that are asked for, in nats."""

    def loss_of(y: Tensor, steps: slice) -> Tensor:
        error = F.binary_cross_entropy_with_logits(y, sequences.targets[steps], reduction="none")
        return torch.einsum("tnb,t->", error, sequences.asked[steps])

    return loss_of


def _next_symbol(targets: Tensor) -> LossOfSteps:
    """The cross-entropy of the symbols that come next, (steps, N), in nats."""

    def loss_of(y: Tensor, steps: slice) -> Tensor:
        return F.cross_entropy(y.flatten(0, 1), targets[steps].flatten(), reduction="sum")

    return loss_of


def _copier(task: Task, settings: Copying) -> Model:
    return Model(nn.Identity(), inputs=INPUTS, hidden=settings.hidden, outputs=num_outputs(task))


def _reader(text: Text, settings: Characters) -> Model:
    embed = nn.Embedding(text.num_symbols, settings.embedding)
    return Model(embed, inputs=settings.embedding, hidden=settings.hidden, outputs=text.num_symbols)


def _seeded(seed: int, make: Callable[[], Model]) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def _streams(text: Tensor, num_streams: int) -> Tensor:
    """(steps, num_streams): a column for each of equal pieces of the text; what is over at the end is left out."""
    steps = len(text) // num_streams
    return text[: steps * num_streams].view(num_streams, steps).T


def _sizes(model: Model, learner: Learner) -> dict[str, int]:
    own = sum(parameter.numel() for parameter in model.parameters())
    both = sum(parameter.numel() for parameter in learner.parameters()) if isinstance(learner, RecurrentDNI) else own
    return {"num_parameters": own, "synthesizer_parameters": both - own}
