"""Which answer belongs to which job of a recorded run."""

from __future__ import annotations

from pearl.decoding.exchanges import exchanges
from pearl.decoding.messages import Drafted, Judge, Judged
from pearl.decoding.trace import Received, Sent


def _received(judged: int, *, wanted: bool) -> Received:
    return Received(
        at=float(judged),
        request=0,
        event=Judged(job=2, epoch=0, base=3, judged=judged, kept=0, token=5),
        wanted=wanted,
        tokens=(),
        epoch=0,
        kept=0,
        rejections=0,
    )


def test_a_verdict_that_nobody_asked_for_answers_no_job_of_its_number() -> None:
    """The target went on by itself with something else; the job that was sent has its own."""
    job = Judge(job=2, epoch=0, base=3, pending=Drafted(tokens=(7, 8)))
    records = [Sent(at=0.0, request=0, command=job)]
    own, wanted = _received(0, wanted=False), _received(2, wanted=True)

    (exchange,) = exchanges([*records, own, wanted])

    assert exchange.answer is not None
    assert exchange.answer.event == wanted.event
