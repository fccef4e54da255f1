"""Autoregressive, speculative and parallel speculative decoding, as one pure machine.

Every schedule here is the same rule with two numbers: how many tokens the draft writes *before*
a pass of the target that would otherwise judge nothing, and how many it writes *beside* every
pass.

                       before       beside
    autoregressive     0            0
    speculative        gamma        0           Leviathan et al. 2023, arXiv:2211.17192
    PEARL              head start   gamma       Liu et al. 2025, arXiv:2408.11850 (head start 0)

With committed tokens C and pending tokens P (written, not yet judged), a round is:

    judge P  and, at the same time, write a window W after C + P
    commit P[:kept] + [token]
    all kept and token == W[0]:  P = W[1:]        the paper's post-verify goes on
    otherwise:                   P = [], new epoch    the paper's pre-verify: nothing is pending

The target's own token beyond P judges the first token of W, so PEARL has no bonus token, and the
two phases of the paper need no state of their own. A verifier that must see W[0] before it
decides (rejection) asks the target to *hold* that row: then P is committed alone, P becomes all
of W, and the next job begins by testing W[0] against the held row, without a pass.

Rule: whatever decides what is committed is in this file and in `stopping`.
Rule: this file never waits, and knows neither clock nor randomness.
Rule: only committed tokens leave.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Protocol, final

from decoding.foresight import Foresight
from decoding.messages import (
    Cancel,
    Command,
    Device,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Judge,
    Judged,
    Propose,
    Proposed,
    TokenId,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decoding.policies import Policy
    from decoding.stopping import FinishReason, StopRules

NOTHING: Final = Drafted()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a schedule has seen so far.

    A round is a pass of the target. Every draft token that was compared with the target's will
    is either `kept` or one of the `rejections`; tokens behind a rejection were never compared, and
    those behind the end of the text do not count.
    """

    rounds: int = 0
    kept: int = 0
    rejections: int = 0
    draft_losses: int = 0
    target_losses: int = 0
    tokens_without_draft: int = 0


class Schedule(Protocol):
    """The seam between a protocol and whatever drives it: a state machine for one request."""

    @property
    def committed(self) -> Sequence[TokenId]:
        """The tokens generated so far; a committed token never changes."""

    @property
    def epoch(self) -> int:
        """How many times what was pending has been thrown away."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the request ended; None while it runs."""

    @property
    def counts(self) -> Counts:
        """What was seen so far."""

    def commands(self) -> tuple[Command, ...]:
        """The commands to send now; each is given once (again when a device comes back)."""

    def awaits(self, answer: Proposed | Judged) -> bool:
        """Whether this answers a job that is still wanted."""

    def foresight(self) -> Foresight | None:
        """What is known now of the target's next job; None without a job or where nothing is."""

    def receive(self, event: Event) -> tuple[TokenId, ...]:
        """Take one event; return the tokens it commits. An unawaited answer changes nothing."""


@final
class TwoModelSchedule:
    """The rule at the top of this file; `decoding.kinds` has the numbers for each schedule.

    Args:
        plan: how many tokens to write before and beside a pass.
        stop: when to end, and how much of a verdict may still be committed.
        hold: the verifier must see the next window's first token before it decides there.
        strict: a round ends when both answers are in, as in the paper: no verdict is acted on
            while its window is still being written. (A verdict that took no pass belongs to the
            round before.)
        reach: the most tokens after the prompt that the draft can hold; beyond them it rests, and
            the target goes on alone. None: the draft holds as many as the target.
    """

    def __init__(
        self,
        plan: Policy,
        stop: StopRules,
        *,
        hold: bool = False,
        strict: bool = False,
        reach: int | None = None,
    ) -> None:
        self._plan = plan
        self._reach = stop.limit if reach is None else reach
        self._stop = stop
        self._hold = hold
        self._strict = strict
        self._committed: list[TokenId] = []
        self._epoch = 0
        self._finish_reason: FinishReason | None = None
        self._rounds = self._kept = self._rejections = 0
        self._draft_losses = self._target_losses = self._tokens_without_draft = 0
        self._pending = NOTHING
        self._window = NOTHING  # written beside the running pass
        self._propose: Propose | None = None  # sent and not answered
        self._judge: Judge | None = None  # sent and not answered
        self._verdict: Judged | None = None  # in, and still needed: its window is not in yet
        self._present = {Device.DRAFT: True, Device.TARGET: True}
        self._outbox: list[Command] = []
        self._start()

    @property
    def committed(self) -> Sequence[TokenId]:
        """The tokens generated so far."""
        return self._committed

    @property
    def plan(self) -> Policy:
        """The two numbers it goes by."""
        return self._plan

    @property
    def epoch(self) -> int:
        """How many times what was pending has been thrown away."""
        return self._epoch

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the request ended; None while it runs."""
        return self._finish_reason

    @property
    def counts(self) -> Counts:
        """What was seen so far."""
        return Counts(
            rounds=self._rounds,
            kept=self._kept,
            rejections=self._rejections,
            draft_losses=self._draft_losses,
            target_losses=self._target_losses,
            tokens_without_draft=self._tokens_without_draft,
        )

    def commands(self) -> tuple[Command, ...]:
        """The commands to send now, each given once."""
        sent, self._outbox = tuple(self._outbox), []
        return sent

    def awaits(self, answer: Proposed | Judged) -> bool:
        """Whether this answers a job that is still wanted."""
        if isinstance(answer, Proposed):
            return self._propose is not None and answer.answers(self._propose)
        return self._judge is not None and answer.answers(self._judge)

    def foresight(self) -> Foresight | None:
        """What is known now of the target's next job."""
        job, asked = self._judge, self._propose is not None
        if job is None or self._hold or (self._strict and asked):
            return None
        window = None if asked else self._window.tokens
        restarts = self._plan.before == 0
        return Foresight(epoch=job.epoch, base=job.base, restarts=restarts, window=window)

    def receive(self, event: Event) -> tuple[TokenId, ...]:
        """Take one event; return the tokens it commits."""
        already = len(self._committed)
        if self._finish_reason is None:
            self._take(event)
        return tuple(self._committed[already:])

    def _take(self, event: Event) -> None:
        match event:
            case Proposed() if self.awaits(event):
                self._propose, self._window = None, event.drafted
                self._plan.observe_window(event)
                self._on_window()
            case Judged() if self.awaits(event):
                self._judge, self._verdict = None, event
                self._plan.observe_pass(event)
                if not (self._strict and event.passes and self._propose is not None):
                    self._on_verdict(event)
            case DeviceLost():
                self._on_lost(event.device)
            case DeviceBack():
                self._on_back(event.device)
            case _:  # late, doubled, or of an older epoch
                pass

    # -- answers -------------------------------------------------------------------------------

    def _on_window(self) -> None:
        if self._judge is not None:
            return  # the pass beside it is still running
        if self._verdict is None:  # a head start
            self._pending, self._window = self._window, NOTHING
            self._start_pass()
        elif self._strict:
            self._on_verdict(self._verdict)
        else:
            self._join(self._verdict)

    def _on_verdict(self, verdict: Judged) -> None:
        pending, self._pending = self._pending, NOTHING
        chosen = () if verdict.token is None else (verdict.token,)
        rejected = verdict.kept < len(pending)
        self._rounds += verdict.passes
        admitted = self._commit(pending.tokens[: verdict.kept] + chosen)
        # What lies behind the end of the text was judged, but is no part of it.
        self._compare(
            kept=min(verdict.kept, admitted), rejected=rejected and admitted > verdict.kept
        )
        if self._finish_reason is not None:
            self._finish()
        elif rejected:
            self._restart()
        elif self._propose is None:
            self._join(verdict)

    def _join(self, verdict: Judged) -> None:
        """Decide what the window is worth, now that all before it stands."""
        self._verdict = None
        window, self._window = self._window, NOTHING
        if len(window) == 0 and verdict.token is None:  # the draft was lost: nobody needs the row
            self._restart()
        elif len(window) == 0:  # none was asked for, or the draft was lost
            self._start()
        elif verdict.token is None:
            self._pending = window
            self._start_pass()
        elif window.tokens[0] == verdict.token:
            self._compare(kept=1, rejected=False)
            self._pending = window.after(1)
            self._start_pass()
        else:
            self._compare(kept=0, rejected=True)
            self._restart()

    def _commit(self, tokens: tuple[TokenId, ...]) -> int:
        """Commit what the stop rules admit; return how many tokens that are."""
        admitted, self._finish_reason = self._stop.admit(self._committed, tokens)
        self._committed.extend(admitted)
        if not self._present[Device.DRAFT]:
            self._tokens_without_draft += len(admitted)
        return len(admitted)

    def _compare(self, *, kept: int, rejected: bool) -> None:
        self._kept += kept
        self._rejections += rejected
        self._plan.observe_comparison(kept=kept, rejected=rejected)

    # -- jobs ----------------------------------------------------------------------------------

    def _restart(self) -> None:
        """Throw away what is pending: the next job stands on committed tokens only."""
        self._forget_window()
        self._start()

    def _forget_window(self) -> None:
        self._epoch += 1
        if self._propose is not None:
            self._outbox.append(Cancel(epoch=self._epoch))
        self._propose, self._window, self._verdict = None, NOTHING, None

    def _finish(self) -> None:
        self._forget_window()
        self._judge = None

    def _start(self) -> None:
        """Begin with nothing pending: a head start if there is one, else a pass at once."""
        count = min(self._plan.before, self._room())
        if count > 0 and self._present[Device.DRAFT]:
            self._send_propose(count)
        else:
            self._start_pass()

    def _start_pass(self) -> None:
        count = min(self._plan.beside, self._room())
        window_follows = count > 0 and self._present[Device.DRAFT]
        self._send_judge(hold=self._hold and window_follows)
        if window_follows:
            self._send_propose(count)

    def _room(self) -> int:
        """How many tokens the draft may write behind what is pending."""
        # The target itself gives the last token before the limit, so writing it is in vain.
        end = min(self._stop.limit - 1, self._reach)
        return end - len(self._committed) - len(self._pending)

    def _send_propose(self, count: int) -> None:
        self._propose = Propose(
            epoch=self._epoch, base=len(self._committed), pending=self._pending.tokens, count=count
        )
        self._outbox.append(self._propose)

    def _send_judge(self, *, hold: bool) -> None:
        self._verdict = None
        self._judge = Judge(
            epoch=self._epoch, base=len(self._committed), pending=self._pending, hold=hold
        )
        if self._present[Device.TARGET]:
            self._outbox.append(self._judge)

    # -- devices that come and go --------------------------------------------------------------

    def _on_lost(self, device: Device) -> None:
        if not self._present[device]:
            return
        self._present[device] = False
        if device is Device.TARGET:  # its pass is sent again when it is back
            self._target_losses += 1
            return
        self._draft_losses += 1
        if self._propose is not None:
            self._go_on_alone()

    def _go_on_alone(self) -> None:
        """The window will not come: what waits for it goes on without."""
        verdict, running = self._verdict, self._judge
        self._propose = None
        if verdict is not None and self._strict:
            self._on_verdict(verdict)
        elif verdict is not None or running is None:
            self._restart()
        # else a pass is running; its verdict finds no window

    def _on_back(self, device: Device) -> None:
        self._present[device] = True
        if device is Device.TARGET and self._judge is not None:
            self._outbox.append(self._judge)
        if device is Device.DRAFT and self._propose is not None:
            self._outbox.append(self._propose)
