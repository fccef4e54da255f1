"""Who may use a cache: whoever was admitted can go on to the end, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pearl.actors.admission import SHARE, Admission
from pearl.actors.hosts import Host, draft_host, target_host
from pearl.actors.runners.interface import Feed, Room
from pearl.actors.wire import Close, JobDone, Open, Spoilt
from pearl.decoding.errors import PlacementError
from pearl.decoding.messages import Drafted, Judge, Order
from pearl.decoding.sampling import Sampling
from tests.actors.toys import ToyRunner
from tests.decoding.toys import similar

MODEL = similar(8, seed=5).target


class Small(ToyRunner):  # type: ignore[misc]
    """A runner whose device has memory for so many positions, of a byte each."""

    def __init__(self, positions: int) -> None:
        super().__init__(MODEL)
        self.memory = positions / SHARE

    def room(self, length: int) -> Room:
        used = sum(map(len, self._rows.values()))
        return Room(needed=length, used=used, free=int(self.memory - used) + 1)

    def forward(self, feeds: Sequence[Feed]) -> list[Any]:
        found = super().forward(feeds)
        assert sum(map(len, self._rows.values())) <= self.memory, "more was admitted than fits"
        return found


def _open(request: int, capacity: int) -> Open:
    return Open(
        request=request,
        prompt=(1, 2, 3),
        capacity=capacity,
        verifier="greedy",
        sampling=Sampling(),
        seed=0,
    )


def _judge(request: int) -> Order:
    job = Judge(job=1, epoch=0, base=0, pending=Drafted())
    return Order(request=request, start=0, fresh=(), command=job)


def _answered(host: Host) -> list[int]:
    return [answer.request for answer in host.turn() if isinstance(answer, JobDone)]


def test_a_request_that_does_not_fit_now_waits_for_others_to_end() -> None:
    host = target_host(Small(100))
    for request in (1, 2, 3):
        assert host.take(_open(request, 40)) == []
        host.take(_judge(request))

    assert _answered(host) == [1, 2]
    assert [host.busy, host.take(Close(request=1)), host.busy] == [False, [], True]
    assert _answered(host) == [3]


def test_a_request_that_never_fits_is_refused_with_the_figures() -> None:
    host = target_host(Small(100))
    host.take(_open(1, 40))

    (said,) = host.take(_open(2, 400))

    assert isinstance(said, Spoilt)
    assert "a text of 400 positions needs" in said.message
    assert "ask for fewer tokens" in said.message


def test_a_long_request_is_not_overtaken_by_short_ones_for_ever() -> None:
    admission = Admission(Small(100), waits=True)
    admission.ask(1, 60)
    admission.ask(2, 80)
    admission.ask(3, 10)

    assert list(admission.waiting) == [2, 3]
    admission.leave(1)
    assert not admission.waiting


def test_a_request_that_leaves_while_it_waits_holds_up_nobody() -> None:
    admission = Admission(Small(100), waits=True)
    admission.ask(1, 60)
    admission.ask(2, 80)
    admission.ask(3, 30)
    admission.leave(2)

    assert not admission.waiting


def test_whoever_waits_has_its_turn_also_when_others_took_the_memory_meanwhile() -> None:
    """Alone it may try; what it cannot have is then refused where it is written."""
    runner = Small(100)
    admission = Admission(runner, waits=True)
    admission.ask(1, 60)
    admission.ask(2, 80)
    runner.memory = 10
    admission.leave(1)

    assert 2 not in admission.waiting


def test_at_a_draft_nobody_waits() -> None:
    """A window that comes when there is room comes too late: the request goes on without."""
    host = draft_host(Small(100))
    assert host.take(_open(1, 60)) == []

    (said,) = host.take(_open(2, 60))

    assert isinstance(said, Spoilt)
    assert said.crowded


def test_where_nobody_can_tell_what_is_free_everybody_is_admitted() -> None:
    admission = Admission(ToyRunner(MODEL), waits=True)
    for request in range(50):
        admission.ask(request, 4000)

    assert not admission.waiting


def test_a_request_that_is_refused_leaves_nothing_behind() -> None:
    admission = Admission(Small(100), waits=True)
    with pytest.raises(PlacementError):
        admission.ask(1, 400)

    assert not admission.waiting
