"""What a model learns from: a lesson turns (step, part, length) into a loss.

A lesson is plain data and travels to other processes; `prepare` gives each process its own loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone reads)
from torch import Tensor
from transformers import LlamaForCausalLM

from pearl.actors.training import models
from pearl.actors.training.windows import IGNORED, Windows

Loss = Callable[[int, int, int], Tensor]


class Lesson(Protocol):
    """Something a model can learn from."""

    def prepare(self, student: LlamaForCausalLM) -> Loss:
        """The loss of this student on part `part` of step `step`, for sequences of one length."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Predict the next token of the corpus in a folder: cross-entropy, in nats a token."""

    folder: Path
    tokens_per_part: int
    parts: int
    seed: int
    end: int
    compiled: bool

    def prepare(self, student: LlamaForCausalLM) -> Loss:
        """See `Lesson.prepare`."""
        windows = Windows.read(self.folder, seed=self.seed, end=self.end)
        cross_entropy = _maybe_compiled(_cross_entropy, compiled=self.compiled)

        def loss(step: int, part: int, length: int) -> Tensor:
            first, count = _numbers(self, step, part, length)
            inputs, labels = windows.batch(first, count, length)
            return cross_entropy(student, _on(student, inputs), _on(student, labels))

        return loss


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Imitation:
    """Predict what the teachers predict in the mean: forward KL, in nats.

    Rows that the target wrote come first: its own text is where the pair will have to agree. With
    `corpus`, every second part is read from there, so that rows are not learned by heart.
    """

    rows: tuple[Path, ...]
    teachers: tuple[Path, ...]
    corpus: Path | None
    tokens_per_part: int
    parts: int
    seed: int
    end: int
    compiled: bool

    def prepare(self, student: LlamaForCausalLM) -> Loss:
        """See `Lesson.prepare`."""
        rows = np.concatenate([np.load(path) for path in self.rows])
        teachers = tuple(models.load(path).to(student.device) for path in self.teachers)
        corpus = self.corpus
        windows = Windows.read(corpus, seed=self.seed, end=self.end) if corpus else None
        divergence = _maybe_compiled(_divergence, compiled=self.compiled)

        def loss(step: int, part: int, length: int) -> Tensor:
            first, count = _numbers(self, step, part, length)
            if windows is not None and part % 2:
                read = windows.batch(first, count, length)[0]
            else:
                chosen = [_row(self.seed, len(rows), first + i) for i in range(count)]
                read = rows[chosen, :length].astype(np.int64)
            return divergence(student, teachers, _on(student, read))

        return loss


def _numbers(lesson: Reading | Imitation, step: int, part: int, length: int) -> tuple[int, int]:
    """Which sequences a part of a step has: the first, and how many."""
    count = max(1, lesson.tokens_per_part // length)
    return (step * lesson.parts + part) * count, count


def _row(seed: int, count: int, number: int) -> int:
    epoch, index = divmod(number, count)
    return int(np.random.default_rng((seed, epoch)).permutation(count)[index])


def _on(model: LlamaForCausalLM, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(model.device, non_blocking=True)


def _cross_entropy(student: LlamaForCausalLM, inputs: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        logits = student(input_ids=inputs, use_cache=False).logits  # (batch, length, vocab)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def _divergence(
    student: LlamaForCausalLM, teachers: tuple[LlamaForCausalLM, ...], inputs: Tensor
) -> Tensor:
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        with torch.no_grad():
            laws = [_log_law(teacher, inputs).exp() for teacher in teachers]
        given = _log_law(student, inputs)
    wanted = torch.stack(laws).mean(0)  # (batch, length, vocab)
    return (torch.xlogy(wanted, wanted) - wanted * given).sum(-1).mean()


def _log_law(model: LlamaForCausalLM, inputs: Tensor) -> Tensor:
    return F.log_softmax(model(input_ids=inputs, use_cache=False).logits.float(), dim=-1)


def _maybe_compiled(function: Callable[..., Tensor], *, compiled: bool) -> Callable[..., Tensor]:
    if not compiled:
        return function
    return cast("Callable[..., Tensor]", torch.compile(function, dynamic=False))
