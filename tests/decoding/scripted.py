"""Devices without models: a pending token is kept when a coin says so, independently.

That is the assumption under which the theory has closed forms, so a schedule driven by these
devices must reproduce them. Every draft token is 1; a token that is refused becomes 0.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from pearl.decoding.desks import judged
from pearl.decoding.messages import Cancel, Drafted, Judge, Judged, Propose, Proposed
from pearl.decoding.policies import Policy
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.stopping import StopRules

ENDLESS = 10**9


@dataclass(slots=True, kw_only=True)
class Tally:
    """What came of each pass of the target, in order."""

    tokens: list[int] = field(default_factory=list)  # committed because of it
    rejected: list[bool] = field(default_factory=list)  # something was, by it
    written: int = 0  # draft tokens
    cancels: int = 0
    doomed: int = 0  # windows whose beginning was refused while they were written

    @property
    def tokens_per_pass(self) -> float:
        """The mean over all passes."""
        return sum(self.tokens) / len(self.tokens)

    def runs(self) -> tuple[list[int], list[int]]:
        """Tokens and passes from one rejection to the next; runs are independent."""
        tokens, passes = [0], [0]
        for committed, rejected in zip(self.tokens, self.rejected, strict=True):
            tokens[-1] += committed
            passes[-1] += 1
            if rejected:
                tokens.append(0)
                passes.append(0)
        return tokens[:-1], passes[:-1]


def tosses(alpha: float, seed: int) -> Iterator[bool]:
    dice = random.Random(seed)
    while True:
        yield dice.random() < alpha


def verdict(job: Judge, coins: Iterator[bool]) -> Judged:
    """Keep until a coin fails; beyond the last token, agree with the window by another coin."""
    kept = next((i for i in range(len(job.pending)) if not next(coins)), len(job.pending))
    token = int(kept == len(job.pending) and next(coins))
    return judged(job, kept, token, (0.0, 0.0), read=1)


def window(job: Propose) -> Proposed:
    drafted = Drafted(tokens=(1,) * job.count)
    return Proposed(job=job.job, epoch=job.epoch, start=job.start, drafted=drafted)


def run(
    plan: Policy, alpha: float, *, passes: int, strict: bool = False, verdict_first: bool = False
) -> Tally:
    """Drive a schedule for so many passes of the target."""
    schedule = TwoModelSchedule(plan, StopRules(limit=ENDLESS), strict=strict)
    coins, tally = tosses(alpha, seed=1), Tally()
    first = Judge if verdict_first else Propose
    jobs: list[Propose | Judge] = []
    while True:
        for command in schedule.commands():
            if isinstance(command, Cancel):
                tally.cancels += 1
                jobs = [job for job in jobs if job.epoch >= command.epoch]
            else:
                jobs.append(command)
        job = next((job for job in jobs if isinstance(job, first)), jobs[0])
        jobs.remove(job)
        if isinstance(job, Judge):
            if len(tally.tokens) == passes:
                return tally
            tally.tokens.append(0)
            tally.rejected.append(False)
        else:
            tally.written += job.count
        rejections = schedule.counts.rejections
        event = verdict(job, coins) if isinstance(job, Judge) else window(job)
        tally.doomed += isinstance(event, Judged) and event.kept < event.judged and verdict_first
        committed = schedule.receive(event)
        if tally.tokens:  # a head start comes before the first pass
            tally.tokens[-1] += len(committed)
            tally.rejected[-1] |= schedule.counts.rejections > rejections
