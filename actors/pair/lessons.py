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

from actors.pair import models
from actors.pair.windows import IGNORED, Windows

Loss = Callable[[int, int, int], Tensor]


class Lesson(Protocol):
    """Something a model can learn from."""

    def prepare(self, student: LlamaForCausalLM) -> Loss:
        """The loss of this student on part `part` of step `step`, for sequences of one length."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Predict the next token of the corpus: cross-entropy, in nats a token."""

    folder: Path
    tokens_per_part: int
    parts: int
    seed: int
    compiled: bool

    def prepare(self, student: LlamaForCausalLM) -> Loss:
        """See `Lesson.prepare`."""
        windows = Windows(
            np.load(self.folder / "train.npy", mmap_mode="r"),
            np.load(self.folder / "line_ends.npy"),
            self.seed,
        )
        cross_entropy = _maybe_compiled(_cross_entropy, compiled=self.compiled)

        def loss(step: int, part: int, length: int) -> Tensor:
            count = max(1, self.tokens_per_part // length)
            first = (step * self.parts + part) * count
            inputs, labels = windows.batch(first, count, length)
            return cross_entropy(student, _on(student, inputs), _on(student, labels))

        return loss


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Imitation:
    """Predict what the teacher predicts, on text that the teacher wrote: forward KL, in nats.

    Its own text is where the draft will have to agree with it; the corpus is not.
    """

    rows: Path
    teacher: Path
    tokens_per_part: int
    parts: int
    seed: int
    compiled: bool

    def prepare(self, student: LlamaForCausalLM) -> Loss:
        """See `Lesson.prepare`."""
        rows = np.load(self.rows)
        teacher = models.load(self.teacher).to(student.device)
        divergence = _maybe_compiled(_divergence, compiled=self.compiled)

        def loss(step: int, part: int, length: int) -> Tensor:
            count = max(1, self.tokens_per_part // length)
            first = (step * self.parts + part) * count
            chosen = [_row(self.seed, len(rows), first + i) for i in range(count)]
            inputs = _on(student, rows[chosen, :length].astype(np.int64))
            return divergence(student, teacher, inputs)

        return loss


def _row(seed: int, count: int, number: int) -> int:
    epoch, index = divmod(number, count)
    return int(np.random.default_rng((seed, epoch)).permutation(count)[index])


def _on(model: LlamaForCausalLM, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(model.device, non_blocking=True)


def _cross_entropy(student: LlamaForCausalLM, inputs: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        logits = student(input_ids=inputs, use_cache=False).logits  # (batch, length, vocab)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


def _divergence(student: LlamaForCausalLM, teacher: LlamaForCausalLM, inputs: Tensor) -> Tensor:
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
        with torch.no_grad():
            wanted = teacher(input_ids=inputs, use_cache=False).logits
        given = student(input_ids=inputs, use_cache=False).logits
    wanted_log = F.log_softmax(wanted.flatten(0, 1).float(), dim=-1)
    given_log = F.log_softmax(given.flatten(0, 1).float(), dim=-1)
    return (wanted_log.exp() * (wanted_log - given_log)).sum(-1).mean()


def _maybe_compiled(function: Callable[..., Tensor], *, compiled: bool) -> Callable[..., Tensor]:
    if not compiled:
        return function
    return cast("Callable[..., Tensor]", torch.compile(function, dynamic=False))
