"""The sizes and budgets of the pair: every number that one might want to change, in one place.

`FULL` is what the shipped pair was trained with; `SMALL` goes through the same stages in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from pearl.actors.training.budget import Budget, RowBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaShape:
    """One Llama: tied embeddings, one key and value head for each query head."""

    layers: int
    hidden: int
    intermediate: int
    heads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """The target comes towards the draft and writes new rows, then the draft follows it."""

    approach: Budget
    follow: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides what comes out, except the machine."""

    target: LlamaShape
    draft: LlamaShape
    target_budget: Budget
    draft_budget: Budget
    distil_budget: Budget
    meetings: tuple[Meeting, ...]
    weight_of_draft: int = 2
    vocabulary: int = 4096
    positions: int = 1024
    characters_per_package: int = 3_000_000
    documents: int | None = None
    rows: RowBudget = field(default_factory=RowBudget)
    measured_prompts: int = 40
    measured_tokens: int = 128
    seed: int = 2024


_TOGETHER: Final = Budget(
    minutes=0.0, rate=0.0, warm_up_steps=20, decay_from=0.2, lengths=((0.0, 384),)
)

FULL: Final = Recipe(
    target=LlamaShape(layers=8, hidden=256, intermediate=704, heads=4),
    draft=LlamaShape(layers=2, hidden=128, intermediate=352, heads=2),
    target_budget=Budget(minutes=40.0, rate=4e-3),
    draft_budget=Budget(minutes=6.0, rate=5e-3),
    distil_budget=Budget(minutes=11.0, rate=4e-3, decay_from=0.3, lengths=((0.0, 384),)),
    meetings=(
        Meeting(
            approach=replace(_TOGETHER, minutes=4.5, rate=1.5e-3, decay_from=0.3),
            follow=replace(_TOGETHER, minutes=24.0, rate=3e-3),
        ),
        Meeting(
            approach=replace(_TOGETHER, minutes=6.0, rate=1.5e-3, decay_from=0.3),
            follow=replace(_TOGETHER, minutes=32.0, rate=2.5e-3),
        ),
    ),
)

_SMALL_BUDGET: Final = Budget(
    minutes=1.0,
    rate=5e-3,
    steps=24,
    warm_up_steps=4,
    tokens_per_step=512,
    parts=2,
    checkpoint_every_s=0.0,
    lengths=((0.0, 64), (0.75, 128)),
)

SMALL: Final = Recipe(
    target=LlamaShape(layers=2, hidden=64, intermediate=128, heads=1),
    draft=LlamaShape(layers=1, hidden=64, intermediate=64, heads=1),
    target_budget=_SMALL_BUDGET,
    draft_budget=_SMALL_BUDGET,
    distil_budget=replace(_SMALL_BUDGET, lengths=((0.0, 64),)),
    meetings=2
    * (
        Meeting(
            approach=replace(_SMALL_BUDGET, steps=8, lengths=((0.0, 64),)),
            follow=replace(_SMALL_BUDGET, steps=8, lengths=((0.0, 64),)),
        ),
    ),
    vocabulary=512,
    positions=128,
    characters_per_package=0,
    documents=24,
    rows=RowBudget(tokens=2_048, length=64, at_once=32),
    measured_prompts=4,
    measured_tokens=16,
)
