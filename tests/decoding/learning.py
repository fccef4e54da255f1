"""Rounds from which a policy learns: a draft of one second a token, a rate, and pass times."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

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
    step: float = 1.0,
    messages: float = 0.0,
) -> Iterator[int]:
    """The window after each round; 0 where it rests.

    Args:
        first: how much longer the first job of each device takes, for it reads the prompt.
        step: seconds of a draft token.
        messages: seconds of a window that is waited for, beside the draft's own.
    """
    dice, now, base, pending, late = random.Random(1), 0.0, 0, 0, first
    asked = False
    for _ in range(rounds):
        if policy.before and not pending:
            pending = policy.before
            policy.observe_window(window(base, pending, step * pending * late))
            now, asked = now + step * pending * late + messages, True
        beside, began = policy.beside, now
        kept = next((i for i in range(pending) if dice.random() >= a), pending)
        now += pass_seconds(pending + 1) * late
        verdict = judged(base, pending, kept, began, now)
        there = began + step * beside * (late if not asked else 1.0) + messages
        beside_it = window(base + pending, beside, step * beside * (late if not asked else 1.0))
        if beside and there <= now:
            policy.observe_window(beside_it)
        policy.observe_pass(verdict)
        policy.observe_comparison(kept=kept, rejected=kept < pending)
        if beside and there > now and kept == pending:
            policy.observe_window(beside_it)
            now = there
        asked = asked or beside > 0
        base += kept + 1
        agrees = beside > 0 and kept == pending and dice.random() < a
        if beside and kept == pending:
            policy.observe_comparison(kept=int(agrees), rejected=not agrees)
        pending, late = beside - 1 if agrees else 0, 1.0
        yield policy.before or policy.beside


def window(start: int, tokens: int, seconds: float) -> Proposed:
    drafted = Drafted(tokens=(0,) * tokens)
    return Proposed(job=1, epoch=0, start=start, drafted=drafted, ended=seconds)


def judged(base: int, pending: int, kept: int, began: float, ended: float) -> Judged:
    return Judged(
        job=1, epoch=0, base=base, judged=pending, kept=kept, token=0, began=began, ended=ended
    )


def windows(policy: AutoPolicy, a: float, seconds: float) -> list[int]:
    return list(learn(policy, a, flat(seconds)))


def fickle(patched: pytest.MonkeyPatch, seed: int) -> None:
    """Make `gamma="auto"` take another window after each pass, or rest."""
    mood = random.Random(seed)

    def weigh(self: AutoPolicy, _: Judged) -> None:
        gamma = mood.choice([0, 1, 2, 4])
        self._used.before, self._used.beside = self._kind.numbers(gamma, self._head_start)

    patched.setattr(AutoPolicy, "_weigh", weigh)
    patched.setattr(AutoPolicy, "_think", lambda _: None)


def timed(step: float = 1.0, judge: float = 4.0) -> Measurements:
    """Who has seen times, and no runs yet."""
    measured = Measurements()
    measured.add_window(1, step)
    measured.add_pass(1, judge)
    return measured
