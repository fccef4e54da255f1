"""What a target may go on with before it is told.

That it is what the schedule asks next, whatever the network does, is a claim of the referee in
`tests.decoding.network`; here is how often it is known, and the rule itself.
"""

from __future__ import annotations

import pytest

from pearl.decoding.foresight import onward
from pearl.decoding.messages import Drafted, Foresight, Judge, Judged
from pearl.decoding.policies import Policy
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.stopping import StopRules
from pearl.decoding.verification import Greedy
from tests.decoding.network import Move, Network
from tests.decoding.policies import AUTOREGRESSIVE, pearl, speculative
from tests.decoding.toys import ToyDevices, similar

LIMIT = 40
WINDOWS_FIRST = ((Move.WORK, 0), (Move.WORK, 0), (Move.HEAR, 1), (Move.HEAR, 0))
JOB = Judge(job=1, epoch=3, base=10, pending=Drafted(tokens=(7, 8)))


def _verdict(kept: int, token: int | None) -> Judged:
    return Judged(job=1, epoch=3, base=10, judged=2, kept=kept, token=token)


def _known(*, restarts: bool = True, window: tuple[int, ...] | None = None) -> Foresight:
    return Foresight(job=1, restarts=restarts, window=window)


def _next(epoch: int, base: int, *pending: int) -> Judge:
    return Judge(job=2, epoch=epoch, base=base, pending=Drafted(tokens=pending))


@pytest.mark.parametrize(
    ("verdict", "known", "following"),
    [
        (_verdict(1, 5), _known(), _next(4, 12)),
        (_verdict(1, 5), _known(restarts=False), None),
        (_verdict(2, 5), _known(), None),
        (_verdict(2, 5), _known(window=()), _next(3, 13)),
        (_verdict(2, 5), _known(window=(5, 6)), _next(3, 13, 6)),
        (_verdict(2, 5), _known(window=(5, 6), restarts=False), _next(3, 13, 6)),
        (_verdict(2, 5), _known(window=(4, 6)), _next(4, 13)),
        (_verdict(2, 5), _known(window=(4, 6), restarts=False), None),
        (_verdict(2, None), _known(window=(5, 6)), None),
    ],
    ids=[
        "a refusal",
        "a refusal before a head start",
        "the window is not there",
        "no window will come",
        "the window goes on",
        "the window goes on, whatever follows a refusal",
        "the window is refused",
        "the window is refused before a head start",
        "the row is held",
    ],
)
def test_a_verdict_and_what_is_known_give_the_next_job(
    verdict: Judged, known: Foresight, following: Judge | None
) -> None:
    assert onward(JOB, verdict, known) == following


def test_what_is_known_of_another_job_says_nothing() -> None:
    """It may have come late."""
    known = Foresight(job=2, restarts=True, window=())

    assert onward(JOB, _verdict(1, 5), known) is None


@pytest.mark.parametrize(
    ("plan", "strict", "every"),
    [
        (AUTOREGRESSIVE, False, True),
        (pearl(3), False, True),
        (pearl(3), True, True),
        (pearl(3, 2), False, False),
        (speculative(3), False, False),
    ],
    ids=["AR", "PEARL", "PEARL strict", "head start", "SD"],
)
def test_where_windows_come_first_every_pass_but_the_first_is_foreseen(
    plan: Policy,
    strict: bool,  # noqa: FBT001 - pytest gives it by name
    every: bool,  # noqa: FBT001
) -> None:
    """A head start and speculative decoding need the draft in between."""
    stop = StopRules(limit=LIMIT)
    schedule = TwoModelSchedule(plan, stop, strict=strict)
    network = Network(schedule, ToyDevices(similar(6, seed=3), Greedy()), stop)

    network.play(WINDOWS_FIRST * LIMIT)

    assert schedule.finish_reason is not None
    assert (network.foreseen == schedule.counts.rounds - 1) is every
