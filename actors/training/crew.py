"""Several processes that compute one gradient.

One thread each, and a free one takes the next part of the step. On a machine whose cores are
shared with other work this is much faster than threads, which wait for the slowest after every
operation. Weights and gradients lie in shared memory; only step numbers are exchanged. With a
single member (on a GPU, or in a test) no process is started.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from typing import Final, Self, final

import torch
from torch import Tensor, nn
from torch import multiprocessing as torch_multiprocessing
from transformers import LlamaForCausalLM

from pearl.actors.training.lessons import Lesson, Loss

_PATIENCE_S: Final = 900.0
_STOP: Final = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Board:
    """What the members share besides the weights."""

    step: Synchronized[int]
    length: Synchronized[int]
    next_part: Synchronized[int]
    start: Barrier
    done: Barrier
    parts: int


@final
class Crew:
    """Computes the mean loss of a step and leaves its gradient on the student.

    Used as a context manager: leaving it ends the helpers.
    """

    def __init__(
        self, student: LlamaForCausalLM, lesson: Lesson, *, parts: int, members: int
    ) -> None:
        self._student = student
        self._helpers: list[multiprocessing.process.BaseProcess] = []
        self._gradients: list[list[Tensor]] = []
        self._losses = _shared(torch.zeros(members, dtype=torch.float64))
        self._board = _board(parts, members)
        self._threads = torch.get_num_threads()
        if members > 1:
            self._hire(lesson, members)
        self._loss = lesson.prepare(student)

    def _hire(self, lesson: Lesson, members: int) -> None:
        torch.set_num_threads(1)
        self._student.share_memory()
        context = torch_multiprocessing.get_context("spawn")
        for member in range(1, members):
            gradients = [_shared(torch.zeros_like(p)) for p in self._student.parameters()]
            helper = context.Process(
                target=_help,
                args=(self._student, lesson, gradients, self._losses, self._board, member),
                daemon=True,
            )
            helper.start()
            self._helpers.append(helper)
            self._gradients.append(gradients)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        failed = exc[0] is not None
        if self._helpers and not failed:
            self._board.step.value = _STOP
            self._board.start.wait(_PATIENCE_S)
        for helper in self._helpers:
            if failed:
                helper.terminate()
            helper.join()
        torch.set_num_threads(self._threads)

    def gradient(self, step: int, length: int) -> float:
        """Add the gradient of this step to the student's; returns the mean loss, in nats."""
        board = self._board
        board.step.value, board.length.value, board.next_part.value = step, length, 0
        board.start.wait(_PATIENCE_S)
        self._losses[0] = _work(self._loss, board)
        board.done.wait(_PATIENCE_S)
        for gradients in self._gradients:
            _move(gradients, self._student)
        return float(self._losses.sum())


def _shared(tensor: Tensor) -> Tensor:
    tensor.share_memory_()  # type: ignore[no-untyped-call]
    return tensor


def _board(parts: int, members: int) -> _Board:
    context = multiprocessing.get_context("spawn")
    return _Board(
        step=context.Value("q", 0),
        length=context.Value("q", 0),
        next_part=context.Value("q", 0),
        start=context.Barrier(members),
        done=context.Barrier(members),
        parts=parts,
    )


def _help(  # noqa: PLR0917  (one process, all it shares)
    student: LlamaForCausalLM,
    lesson: Lesson,
    gradients: list[Tensor],
    losses: Tensor,
    board: _Board,
    member: int,
) -> None:
    torch.set_num_threads(1)
    loss = lesson.prepare(student)
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        parameter.grad = gradient
    while True:
        board.start.wait(_PATIENCE_S)
        if board.step.value == _STOP:
            return
        losses[member] = _work(loss, board)
        board.done.wait(_PATIENCE_S)


def _work(loss: Loss, board: _Board) -> float:
    total = 0.0
    while (part := _take(board)) is not None:
        value = loss(board.step.value, part, board.length.value) / board.parts
        value.backward()  # type: ignore[no-untyped-call]
        total += value.item()
    return total


def _take(board: _Board) -> int | None:
    with board.next_part.get_lock():
        part = board.next_part.value
        board.next_part.value = part + 1
    return part if part < board.parts else None


def _move(gradients: list[Tensor], student: nn.Module) -> None:
    for gradient, parameter in zip(gradients, student.parameters(), strict=True):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad += gradient
        gradient.zero_()
