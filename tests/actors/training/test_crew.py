from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from pearl.actors.pair import models
from pearl.actors.pair.recipe import LlamaShape
from pearl.actors.training.crew import Crew
from pearl.actors.training.lessons import Loss

TINY = LlamaShape(layers=1, hidden=64, intermediate=64, heads=1)


@dataclass(frozen=True)
class Reciting:
    """A lesson whose every part is another row of numbers."""

    def prepare(self, student: LlamaForCausalLM) -> Loss:
        def loss(step: int, part: int, length: int) -> Tensor:
            row = (torch.arange(length) * (part + 3) + step)[None] % 64
            return torch.as_tensor(student(input_ids=row, labels=row).loss)

        return loss


def gradient(members: int) -> tuple[float, list[Tensor]]:
    student = models.untrained(TINY, vocabulary=64, positions=64, seed=1)
    with Crew(student, Reciting(), parts=5, members=members) as crew:
        loss = crew.gradient(0, 16)
    return loss, [p.grad for p in student.parameters() if p.grad is not None]


@pytest.mark.slow
def test_two_members_compute_the_gradient_of_one() -> None:
    """Who took which part is a matter of chance; what comes out must not be."""
    loss_of_one, alone = gradient(members=1)
    loss_of_two, together = gradient(members=2)

    assert loss_of_two == pytest.approx(loss_of_one)
    for one, two in zip(alone, together, strict=True):
        torch.testing.assert_close(one, two)
