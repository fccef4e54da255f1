"""Who runs when: everybody on the same prompts, in an order that rotates.

A machine that slows down, and caches that a neighbour left cold, are to hit all of them alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

Whoever = TypeVar("Whoever")


class Turn(NamedTuple, Generic[Whoever]):
    """One prompt by one system; prompts and rounds are counted from 0."""

    system: Whoever
    prompt: str
    number: int
    round: int


def turns(
    systems: Sequence[Whoever], prompts: Sequence[str], rounds: int = 1
) -> list[Turn[Whoever]]:
    """Every prompt by every system, in every round."""
    return [
        Turn(system, prompt, number, lap)
        for lap in range(rounds)
        for number, prompt in enumerate(prompts)
        for system in rotated(systems, lap * len(prompts) + number)
    ]


def rotated(systems: Sequence[Whoever], by: int) -> list[Whoever]:
    """The same in another order for each `by`: others begin, and others stand behind each other.

    The system that runs after one that left the caches cold must not always be the same. So the
    order goes around in steps that change too.
    """
    count = len(systems)
    steps = [step for step in range(1, count) if math.gcd(step, count) == 1] or [1]
    step = steps[by % len(steps)]
    return [systems[(by + step * place) % count] for place in range(count)]
