"""Rounds from which a policy learns: a draft of one second a token, a rate, and pass times."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from pearl.decoding.measured import Measurements
from pearl.decoding.messages import Drafted, Judged, Proposed
from pearl.decoding.policies import AutoPolicy


def flat(seconds: float) -> Callable[[float], float]:
    return lambda tokens: seconds + 0 * tokens


def learn(
    policy: AutoPolicy,
    a: float,
    pass_seconds: Callable[[float], float],
    *,
    rounds: int = 2000,
    first: float = 1.0,
) -> Iterator[int]:
    """The gamma after each round of a draft that needs one second a token.

    Args:
        first: how much longer the first job of each device takes, for it reads the prompt.
    """
    dice = random.Random(1)
    for index in range(rounds):
        gamma = policy.before or policy.beside
        kept = next((i for i in range(gamma) if dice.random() >= a), gamma)
        late = first if index == 0 else 1.0
        window, spent = gamma * late, pass_seconds(gamma + 1) * late
        drafted = Drafted(tokens=(0,) * gamma)
        policy.observe_window(Proposed(job=1, epoch=0, start=0, drafted=drafted, ended=window))
        policy.observe_pass(
            Judged(job=1, epoch=0, base=0, judged=gamma, kept=kept, token=0, ended=spent)
        )
        policy.observe_comparison(kept=kept, rejected=kept < gamma)
        yield policy.before or policy.beside


def windows(policy: AutoPolicy, a: float, seconds: float) -> list[int]:
    return list(learn(policy, a, flat(seconds)))


def timed(step: float = 1.0, judge: float = 4.0) -> Measurements:
    """Who has seen times, and no runs yet."""
    measured = Measurements()
    measured.add_window(1, step)
    measured.add_pass(1, judge)
    return measured
