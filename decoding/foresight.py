"""Which job follows a verdict, so that the target begins it without waiting for the command.

Theory of operation. Between two passes of the target lie a message to the scheduler, the schedule,
and a message back, and meanwhile the target is idle. Yet the next command is mostly known before it
is sent: once a verdict is there, the next job follows from it by the rule of
`pearl.decoding.verdicts`, and the target has all that the rule needs except the window that was
written beside its pass. So the scheduler sends in good time (`Foresight`):

    with a job          whether a pass with nothing pending will follow a rejection
    when the window     its tokens: if the verdict keeps everything and says the first of them, the
    has come            rest is judged next; otherwise that was a rejection too

`onward` is the rule. A target that follows it has begun the very job that the scheduler is about
to send; the command still arrives and finds it under way, as any job may come twice. Where the
schedule decides otherwise (the text ended, the policy chose another window), a different command
arrives and replaces the job that was begun. So foresight can cost a pass, and never a token.

It is used only where the target's token at a position is the same whatever was pending there
(greedy and coupled verification): then every token that the target takes for committed will be.

Rule: nothing here is needed for the protocol to be right, only for it to be fast.
"""

from __future__ import annotations

from pearl.decoding.messages import NOTHING, Drafted, Foresight, Judge, Judged
from pearl.decoding.verdicts import Outcome, outcome


def onward(job: Judge, verdict: Judged, foresight: Foresight) -> Judge | None:
    """The job that follows `job` after this verdict; None where that is not known.

    Args:
        job: under way, or just done; one that holds its last row is never foreseen.
        foresight: of that job, or of another one, which says nothing.
    """
    if foresight.job != job.job or verdict.token is None:
        return None
    pending, epoch = NOTHING, job.epoch
    found = outcome(verdict, foresight.window)
    if found is Outcome.CONFIRMED:
        assert foresight.window is not None
        pending = Drafted(tokens=foresight.window[1:])
    elif found is Outcome.UNSURE or not foresight.restarts:
        return None
    else:
        epoch += found is Outcome.REFUSED
    base = job.base + verdict.kept + 1
    return Judge(
        device=job.device,
        job=job.job + 1,
        epoch=epoch,
        base=base,
        pending=pending,
        alone=job.alone,
    )
