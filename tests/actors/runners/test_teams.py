"""As many threads as are of use: a share beside a draft, the fastest number while it rests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pearl.actors.runners.interface import Feed, Room, RunnerStatistics
from pearl.actors.runners.teams import PASSES, SLOW_PASSES, TURNS, Team, TeamRunner
from pearl.actors.threads import available_cores
from tests.actors.runners.models import feed

Seconds = Callable[[int, int], float]


class Timed:
    """A model whose passes take `seconds(threads, tokens)` on a clock that only it moves."""

    vocab_size = 8
    positions = 64

    def __init__(self, seconds: Seconds) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.threads = 0
        self.passes: list[int] = []
        """Threads of each."""

    def allocate(self, length: int) -> int:
        return length

    def release(self, row: int) -> None:
        pass

    def room(self, length: int) -> Room:
        return Room(needed=length, used=0, free=None)

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(passes=0, tokens=0, padding=0, rows=0, cache_bytes=0)

    def resize(self, threads: int) -> None:
        self.threads = threads

    def clock(self) -> float:
        return self.now

    def forward(self, feeds: object) -> list[Tensor]:
        assert isinstance(feeds, list)
        self.now += self.seconds(self.threads, sum(len(each.tokens) for each in feeds))
        self.passes.append(self.threads)
        return [torch.zeros(1, self.vocab_size) for _ in feeds]


def team_of(model: Timed, *, alone: bool = True) -> TeamRunner:
    return TeamRunner(model, 1, (1, 2), model.resize, model.clock, alone=alone)


def tasks() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def read(runner: TeamRunner, passes: int, tokens: int = 1) -> None:
    one: Feed = feed(0, 0, list(range(tokens)))
    for _ in range(passes):
        runner.forward([one])


TRIED = 2 * TURNS * PASSES
"""Passes of a size until it is known which of two numbers is the fastest."""


def test_beside_a_draft_a_pass_has_its_share_only() -> None:
    """Whatever would be faster: the other cores are the draft's."""
    model = Timed(lambda threads, _: 1 / threads)
    runner = team_of(model, alone=False)

    read(runner, 100)

    assert set(model.passes) == {1}


@pytest.mark.parametrize(("seconds", "kept"), [((10.0, 6.0), 2), ((1.0, 1.5), 1), ((1.0, 0.99), 1)])
def test_alone_the_number_of_threads_is_kept_that_was_measured_to_be_faster(
    seconds: tuple[float, float], kept: int
) -> None:
    """A model that fits a cache is slower with more; a hair's breadth is not worth a core."""
    model = Timed(lambda threads, _: seconds[threads - 1])
    runner = team_of(model)

    read(runner, TRIED + 5)

    assert sorted(model.passes[:TRIED]) == [1] * (TRIED // 2) + [2] * (TRIED // 2)
    assert model.passes[TRIED:] == [kept] * 5


def test_passes_of_another_size_are_tried_apart() -> None:
    """More threads may be of use to a long prompt, and none to a single token."""
    model = Timed(lambda threads, tokens: threads if tokens == 1 else tokens / threads)
    runner = team_of(model)
    read(runner, TRIED)
    read(runner, TRIED, tokens=32)
    model.passes.clear()

    read(runner, 2)
    read(runner, 2, tokens=32)

    assert model.passes == [1, 1, 2, 2]


def test_a_draft_that_is_back_has_its_cores_at_once() -> None:
    """In the middle of a trial too, which goes on when it rests again."""
    model = Timed(lambda threads, _: 1 / threads)
    runner = team_of(model)
    read(runner, PASSES + 1)
    model.passes.clear()

    for alone, passes in ((False, 3), (True, 1)):
        runner.may_take_all(alone)
        read(runner, passes)

    assert model.passes == [1, 1, 1, 2]


def test_when_another_program_takes_a_core_it_is_tried_anew() -> None:
    """Two threads of which one waits for a core are far slower than one."""
    model = Timed(lambda threads, _: 1 / threads)
    runner = team_of(model)
    read(runner, TRIED)
    assert model.threads == 2

    model.seconds = lambda threads, _: 1.0 if threads == 1 else 4.0
    read(runner, SLOW_PASSES + TRIED)
    model.passes.clear()
    read(runner, 5)

    assert model.passes == [1] * 5


def test_the_first_pass_after_a_change_is_not_counted() -> None:
    """Threads that have just been started have not read the weights yet."""
    model = Timed(lambda threads, _: 1 / threads)
    runner = team_of(model)

    def first_is_slow(threads: int, _: int) -> float:
        fresh = not model.passes or model.passes[-1] != threads
        return 50.0 if fresh and threads == 2 else 1 / threads

    model.seconds = first_is_slow
    read(runner, TRIED + 1)

    assert model.passes[-1] == 2


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or len(available_cores()) < 2, reason="needs two cores"
)
def test_threads_beyond_the_share_stay_on_the_cores_that_are_lent() -> None:
    """And the others where they were, so that nothing ever runs on the draft's core beside it."""
    found: dict[int, set[int]] = {}
    own, lent = available_cores()[-1], available_cores()[0]

    def compute() -> None:
        os.sched_setaffinity(0, [own])
        before = tasks()
        team = Team(1, [lent])
        team.resize(2)
        torch.ones(1 << 20).add_(1)
        team.resize(1)
        found.update({task: os.sched_getaffinity(task) for task in tasks() - before})
        found[0] = os.sched_getaffinity(0)

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()

    assert found.pop(0) == {own}
    assert list(found.values()) == [{lent}]
