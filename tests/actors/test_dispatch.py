"""What devices owe, by which deadlines go, and whom their deaths are blamed on."""

from __future__ import annotations

from typing import Final

import pytest

from pearl.actors.dispatch import Dispatch
from pearl.actors.peers import Peer
from pearl.actors.scheduler import Scheduler
from pearl.actors.wire import JobDone, Spoilt, Submit
from pearl.decoding.messages import DEVICES, DRAFT, TARGET, Drafted, Judged, Proposed
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules

GAMMA: Final = 2


@pytest.fixture
def dispatch() -> Dispatch:
    """Both devices can work, and the draft of the one request has written its first window."""
    stranger, dispatch = Peer(Scheduler()), Dispatch(DEVICES, restarts=True, changed=lambda: None)
    for device in DEVICES:
        dispatch.dialled_in(device, stranger, again=False)
        dispatch.regain(device)
    settings = Settings(schedule="sd", gamma=GAMMA)
    submit = Submit(request=0, prompt=(1,), eos=(), settings=settings)
    dispatch.begin(stranger, submit, StopRules(limit=9))
    window = Proposed(job=1, epoch=0, start=0, drafted=Drafted(tokens=(7,) * GAMMA))
    dispatch.answer(JobDone(request=0, event=window), DRAFT)
    return dispatch


def _verdict(judged: int) -> JobDone:
    return JobDone(
        request=0, event=Judged(job=1, epoch=0, base=0, judged=judged, kept=judged, token=5)
    )


def test_a_device_owes_nothing_once_it_has_answered(dispatch: Dispatch) -> None:
    assert list(dispatch.running[0].waiting) == [TARGET]

    dispatch.answer(_verdict(judged=GAMMA), TARGET)

    assert list(dispatch.running[0].waiting) == [DRAFT]


def test_a_verdict_that_nobody_asked_for_leaves_the_deadline_of_the_job_that_is_open(
    dispatch: Dispatch,
) -> None:
    """The target went on by itself with another job, which has the number of the one asked for."""
    owed = dispatch.running[0].waiting[TARGET]

    dispatch.answer(_verdict(judged=0), TARGET)

    assert dispatch.running[0].waiting == {TARGET: owed}


def test_a_request_that_works_without_a_draft_is_not_suspected_when_the_draft_dies(
    dispatch: Dispatch,
) -> None:
    """It had a job there when the draft stalled, and was refused before the draft died."""
    dispatch.answer(_verdict(judged=GAMMA), TARGET)
    station = dispatch.stations[DRAFT]
    dispatch.lose(DRAFT, "it stalled")
    dispatch.spoilt(Spoilt(request=0, message="no room", crowded=True), DRAFT)
    assert station.peer is not None
    station.peer.has_worked = True

    dispatch.gone(DRAFT, station.peer)

    assert station.suspects == []
