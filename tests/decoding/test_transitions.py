"""The table of a schedule's states: everything in it happens, and nothing else can."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from typing import Final

import pytest

from pearl.decoding import schedules
from pearl.decoding.messages import (
    DRAFT,
    TARGET,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Judged,
    Proposed,
)
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.stopping import StopRules
from pearl.decoding.transitions import TRANSITIONS, News, State, Step
from tests.decoding.policies import AUTOREGRESSIVE, pearl, speculative

LIMIT: Final = 4
MOST_LOSSES: Final = 1


def starts() -> Iterator[TwoModelSchedule]:
    """All kinds of schedules, for texts that may end with a 0."""
    for policy in (AUTOREGRESSIVE, speculative(2), pearl(2), pearl(2, 1)):
        for strict, hold in itertools.product((False, True), repeat=2):
            stop = StopRules(limit=LIMIT, eos=frozenset({0}))
            schedule = TwoModelSchedule(policy, stop, hold=hold, strict=strict)
            schedule.commands()
            yield schedule


def answers(schedule: TwoModelSchedule) -> Iterator[Event]:
    """All that may come next: whole windows and short ones, right and wrong, every verdict."""
    if (asked := schedule._propose) is not None:
        for tokens in sorted({(), (1,), (0,), (1,) * asked.count, (0,) * asked.count}):
            window = Drafted(tokens=tokens)
            yield Proposed(job=asked.job, epoch=asked.epoch, start=asked.start, drafted=window)
    if (job := schedule._judge) is not None:
        judged = len(job.pending)
        for kept in range(judged + 1):
            held = job.hold and kept == judged
            for token in (None,) if held else (0, 1):
                yield Judged(
                    job=job.job, epoch=job.epoch, base=job.base, judged=judged, kept=kept,
                    token=token,
                )  # fmt: skip
            if kept == 0 and job.hold and judged:
                yield Judged(
                    job=job.job, epoch=job.epoch, base=job.base, judged=judged, kept=0, token=0,
                    passes=0,
                )  # fmt: skip
    for device in (DRAFT, TARGET):
        if schedule.counts.draft_losses + schedule.counts.target_losses < MOST_LOSSES:
            yield DeviceLost(device=device)
        yield DeviceBack(device=device)


def explored(start: TwoModelSchedule) -> Iterator[TwoModelSchedule]:
    """A schedule of each kind that can come of this one."""
    seen, waiting = {_kind(start)}, [start]
    while waiting:
        schedule = waiting.pop()
        yield schedule
        for event in answers(schedule):
            following = copy.deepcopy(schedule)
            following.receive(event)
            following.commands()
            if (kind := _kind(following)) not in seen:
                seen.add(kind)
                waiting.append(following)


def _kind(schedule: TwoModelSchedule) -> object:
    """All that decides what comes next; which tokens were committed does not."""
    asked, job, counts = schedule._propose, schedule._judge, schedule.counts
    return (
        schedule.state,
        len(schedule.committed),
        len(schedule._pending),
        schedule._window.tokens,
        asked and asked.count,
        job and job.hold,
        schedule._verdict and (schedule._verdict.token, schedule._verdict.kept),
        counts.draft_losses + counts.target_losses,
        schedule._draft_is_there,
        schedule._target_is_there,
    )


class Watched(dict[News, Step]):
    """One state's row, which notes what was looked up."""

    def __init__(
        self, state: State, row: Mapping[News, Step], used: set[tuple[State, News]]
    ) -> None:
        super().__init__(row)
        self._state, self._used = state, used

    def __getitem__(self, news: News) -> Step:
        self._used.add((self._state, news))
        return super().__getitem__(news)


def test_all_that_is_in_the_table_happens_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every schedule of a few tokens is explored to its end; news without a step would raise."""
    used: set[tuple[State, News]] = set()
    watched = {state: Watched(state, row, used) for state, row in TRANSITIONS.items()}
    monkeypatch.setattr(schedules, "TRANSITIONS", watched)
    states = set()

    for start in starts():
        states |= {schedule.state for schedule in explored(start)}

    assert used == {(state, news) for state, row in TRANSITIONS.items() for news in row}
    assert states == set(State)


def test_a_schedule_that_waits_has_a_job_under_way() -> None:
    """Whatever has come: what it waits for was asked for, or its device is away."""
    for start in starts():
        for schedule in explored(start):
            asked = (schedule._propose is not None, schedule._judge is not None)
            assert (
                asked
                == {
                    State.WRITING: (True, False),
                    State.BOTH: (True, True),
                    State.JUDGING: (False, True),
                    State.CATCHING_UP: (True, False),
                    State.AT_BARRIER: (True, False),
                    State.FINISHED: (False, False),
                }[schedule.state]
            )
