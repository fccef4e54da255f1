"""One model's training from its first step to its last: optimiser, clock, checkpoints.

The clock counts only time spent on steps, and it is part of the checkpoint: an interrupted course
goes on where it stopped, with the rest of its budget.

Matrices inside the blocks learn by Muon, everything else (embeddings, norms) by AdamW; Muon's
updates are scaled to the size of AdamW's, so one learning rate serves both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from transformers import LlamaForCausalLM

from pearl.actors.training.budget import Budget
from pearl.actors.training.crew import Crew
from pearl.actors.training.lessons import Lesson

_CLIP: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a course stands; `loss` is a running mean of the training loss, in nats a token."""

    fraction: float
    step: int
    seconds: float = 0.0
    tokens: int = 0
    loss: float = float("nan")


@final
class Course:
    """Trains `student` until its budget is spent, through checkpoints in one file."""

    def __init__(self, student: LlamaForCausalLM, budget: Budget, checkpoint: Path) -> None:
        self._student = student
        self._budget = budget
        self._checkpoint = checkpoint
        self._optimisers = _optimisers(student)
        self._step, self._seconds, self._tokens, self._loss = 0, 0.0, 0, float("nan")
        if checkpoint.exists():
            self._resume()

    @property
    def progress(self) -> Progress:
        """Where the course stands now."""
        return Progress(
            step=self._step,
            seconds=self._seconds,
            tokens=self._tokens,
            loss=self._loss,
            fraction=self._fraction(),
        )

    def run(self, lesson: Lesson, *, members: int, report: Callable[[Progress], None]) -> Progress:
        """Train to the end of the budget, reporting and saving on the way."""
        if self._fraction() >= 1.0:
            return self.progress
        saved = time.monotonic()
        with Crew(self._student, lesson, parts=self._budget.parts, members=members) as crew:
            while self._fraction() < 1.0:
                self._one_step(crew)
                report(self.progress)
                if time.monotonic() - saved > self._budget.checkpoint_every_s:
                    self._save()
                    saved = time.monotonic()
        self._save()
        return self.progress

    def _fraction(self) -> float:
        if self._budget.steps is not None:
            return self._step / self._budget.steps
        return self._seconds / (60.0 * self._budget.minutes)

    def _one_step(self, crew: Crew) -> None:
        began, fraction = time.monotonic(), self._fraction()
        rate = self._budget.rate_at(fraction, self._step)
        loss = crew.gradient(self._step, self._budget.length(fraction))
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), _CLIP)
        for optimiser in self._optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            # The gradients stay in place: other processes hold the same memory.
            optimiser.zero_grad(set_to_none=False)
        self._note(loss, time.monotonic() - began)

    def _note(self, loss: float, seconds: float) -> None:
        self._loss = loss if self._step == 0 else 0.97 * self._loss + 0.03 * loss
        self._step += 1
        self._tokens += self._budget.tokens_per_step
        self._seconds += seconds

    def _save(self) -> None:
        state: dict[str, Any] = {
            "student": self._student.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self._optimisers],
            "clock": (self._step, self._seconds, self._tokens, self._loss),
        }
        unfinished = self._checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(self._checkpoint)  # never half a checkpoint under the final name

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self._student.device, weights_only=True)
        self._student.load_state_dict(state["student"])
        for optimiser, own in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(own)
        self._step, self._seconds, self._tokens, self._loss = state["clock"]


def _optimisers(student: LlamaForCausalLM) -> tuple[torch.optim.Optimizer, ...]:
    named = list(student.named_parameters())
    blocks = [p for name, p in named if p.ndim == 2 and "layers." in name]
    others = [p for name, p in named if not (p.ndim == 2 and "layers." in name)]
    return (
        torch.optim.Muon(blocks, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )
