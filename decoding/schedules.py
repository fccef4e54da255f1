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

What a schedule does next depends on what it waits for and on what has come; the table of both is
`pearl.decoding.transitions`.

Rule: whatever decides what is committed is in this file, in `verdicts` and in `stopping`.
Rule: this file never waits, and knows neither clock nor randomness.
Rule: only committed tokens leave.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, final

from pearl.decoding.messages import (
    DRAFT,
    NOTHING,
    TARGET,
    Cancel,
    Command,
    Device,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Foresight,
    Judge,
    Judged,
    Propose,
    Proposed,
    TokenId,
)
from pearl.decoding.transitions import TRANSITIONS, News, Sign, State, Step
from pearl.decoding.verdicts import Outcome, outcome, pending_after

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pearl.decoding.policies import Policy
    from pearl.decoding.stopping import FinishReason, StopRules


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What a schedule has seen so far.

    A round is a pass of the target. Every draft token that was compared with the target's choice
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

    @property
    def window(self) -> int:
        """Tokens that the draft is asked for now; 0 without one."""

    @property
    def drafts(self) -> bool:
        """Whether the draft is asked for windows, or will be with the next pass."""

    @property
    def alone_s(self) -> float | None:
        """Seconds of the target alone for a token; None where that is not known."""

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
    """The rule at the top of this file; `pearl.decoding.kinds` has the numbers for each schedule.

    Args:
        policy: how many tokens to write before and beside a pass.
        stop: when to end, and how much of a verdict may still be committed.
        hold: the verifier must see the next window's first token before it decides there.
        strict: a round ends when both answers are in, as in the paper: no verdict is acted on
            while its window is still being written. (A verdict that took no pass belongs to the
            round before.)
        reach: the most tokens after the prompt that the draft can hold; beyond them it is not
            asked, and the target goes on alone. None: the draft holds as many as the target.
        draft, target: the devices that work for this request.
    """

    def __init__(
        self,
        policy: Policy,
        stop: StopRules,
        *,
        hold: bool = False,
        strict: bool = False,
        reach: int | None = None,
        draft: Device = DRAFT,
        target: Device = TARGET,
    ) -> None:
        self._policy = policy
        self._reach = stop.limit if reach is None else reach
        self._stop = stop
        self._hold = hold
        self._strict = strict
        self._draft, self._target = draft, target
        self._draft_is_there = self._target_is_there = True
        self._committed: list[TokenId] = []
        self._epoch = 0
        self._finish_reason: FinishReason | None = None
        self._rounds = self._kept = self._rejections = 0
        self._draft_losses = self._target_losses = self._tokens_without_draft = 0
        self._state = State.WRITING
        self._pending = NOTHING
        self._window = NOTHING  # written beside the running pass
        self._propose: Propose | None = None  # sent and not answered
        self._judge: Judge | None = None  # sent and not answered
        self._verdict: Judged | None = None  # the last
        self._windows = self._passes = 0  # jobs of each device so far
        self._outbox: list[Command] = []
        self._begin()

    @property
    def committed(self) -> Sequence[TokenId]:
        """The tokens generated so far."""
        return self._committed

    @property
    def policy(self) -> Policy:
        """The two numbers it goes by."""
        return self._policy

    @property
    def window(self) -> int:
        """Tokens that the draft is asked for now; 0 without one."""
        return self._policy.beside or self._policy.before

    @property
    def drafts(self) -> bool:
        """As the policy says."""
        return self._policy.drafts

    @property
    def alone_s(self) -> float | None:
        """As the policy has timed it."""
        return self._policy.alone_s

    @property
    def epoch(self) -> int:
        """How many times what was pending has been thrown away."""
        return self._epoch

    @property
    def state(self) -> State:
        """What it waits for."""
        return self._state

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
            asked = self._propose
            return asked is not None and answer.job == asked.job and answer.complete
        return self._judge is not None and answer.answers(self._judge)

    def foresight(self) -> Foresight | None:
        """What is known now of the target's next job."""
        job, asked = self._judge, self._propose is not None
        if job is None or self._hold or (self._strict and asked):
            return None
        window = None if asked else self._window.tokens
        restarts = self._policy.before == 0
        return Foresight(device=job.device, job=job.job, restarts=restarts, window=window)

    def receive(self, event: Event) -> tuple[TokenId, ...]:
        """Take one event; return the tokens it commits."""
        already = len(self._committed)
        if self._finish_reason is None:
            self._take(event)
        return tuple(self._committed[already:])

    def _take(self, event: Event) -> None:
        match event:
            case Proposed() if self.awaits(event):
                self._on_window(event)
            case Judged() if self.awaits(event):
                self._on_verdict(event)
            case DeviceLost(device=self._draft) if self._draft_is_there:
                self._on_draft_lost()
            case DeviceLost(device=self._target) if self._target_is_there:
                self._target_is_there = False
                self._target_losses += 1
                self._call_back(self._target)  # its pass is sent again when it is back
            case DeviceBack(device=self._draft):
                self._draft_is_there = True
                self._send_again(self._propose)
            case DeviceBack(device=self._target):
                self._target_is_there = True
                self._send_again(self._judge)
            case _:  # late, doubled, of an older epoch, or of another device
                pass

    # -- news ----------------------------------------------------------------------------------

    def _on_window(self, answer: Proposed) -> None:
        self._propose, self._window = None, answer.drafted
        self._policy.observe_window(answer)
        if self._state is State.CATCHING_UP:
            self._join()
        else:
            self._do(Sign.WINDOW)

    def _on_verdict(self, answer: Judged) -> None:
        self._judge, self._verdict = None, answer
        self._policy.observe_pass(answer)
        if self._strict and answer.passes and self._propose is not None:
            self._do(Sign.EARLY)
        else:
            self._act()

    def _on_draft_lost(self) -> None:
        self._draft_is_there = False
        self._draft_losses += 1
        if self._propose is not None:
            self._propose = None
            self._call_back(self._draft)
            self._do(Sign.LOST)

    def _do(self, news: News) -> None:
        """Take the step that the table names."""
        step = TRANSITIONS[self._state][news]
        # By identity, the usual ones first: `match` takes several times as long.
        if step is Step.KEEP:
            self._state = State.JUDGING
        elif step is Step.GO_ON:
            assert self._verdict is not None
            self._go_on_with(pending_after(self._verdict, self._window))
        elif step is Step.BEGIN:
            self._begin()
        elif step is Step.RESTART:
            self._throw_away()
            self._begin()
        elif step is Step.HOLD_BACK:
            self._state = State.AT_BARRIER
        elif step is Step.ACT:
            self._act()
        elif step is Step.JUDGE:
            self._go_on_with(self._window)
        elif step is Step.CATCH_UP:
            self._state = State.CATCHING_UP
        else:
            assert step is Step.STOP
            self._throw_away()
            self._state = State.FINISHED

    # -- verdicts ------------------------------------------------------------------------------

    def _act(self) -> None:
        """Commit what stands, and see what that makes of the window."""
        verdict, pending = self._verdict, self._pending
        assert verdict is not None
        chosen = () if verdict.token is None else (verdict.token,)
        rejected = verdict.kept < verdict.judged
        self._pending = NOTHING
        self._rounds += verdict.passes
        admitted = self._commit(pending.tokens[: verdict.kept] + chosen)
        # What lies behind the end of the text was judged, but is no part of it.
        self._compare(
            kept=min(verdict.kept, admitted), rejected=rejected and admitted > verdict.kept
        )
        if self._finish_reason is not None:
            self._do(Sign.ENDED)
        else:
            self._join()

    def _join(self) -> None:
        """Decide what becomes of the window, where all before it is decided."""
        verdict = self._verdict
        assert verdict is not None
        window = None if self._propose is not None else self._window.tokens
        found = outcome(verdict, window)
        if window and verdict.token is not None and verdict.kept == verdict.judged:
            refused = found is Outcome.REFUSED
            self._compare(kept=int(not refused), rejected=refused)
        self._do(found)

    def _commit(self, tokens: tuple[TokenId, ...]) -> int:
        """Commit what the stop rules admit; return how many tokens that are."""
        admitted, self._finish_reason = self._stop.admit(self._committed, tokens)
        self._committed.extend(admitted)
        if not self._draft_is_there:
            self._tokens_without_draft += len(admitted)
        return len(admitted)

    def _compare(self, *, kept: int, rejected: bool) -> None:
        self._kept += kept
        self._rejections += rejected
        self._policy.observe_comparison(kept=kept, rejected=rejected)

    # -- jobs ----------------------------------------------------------------------------------

    def _throw_away(self) -> None:
        """What the draft has written is not wanted, nor what it is writing."""
        self._epoch += 1
        if self._propose is not None:
            self._outbox.append(Cancel(device=self._draft, epoch=self._epoch))
        self._propose, self._window = None, NOTHING

    def _begin(self) -> None:
        """Begin with nothing pending: a head start if there is one, else a pass at once."""
        count = min(self._policy.before, self._room())
        if count > 0 and self._draft_is_there:
            self._send_propose(count)
            self._state = State.WRITING
        else:
            self._go_on_with(NOTHING)

    def _go_on_with(self, pending: Drafted) -> None:
        """A pass over these, and beside it a window."""
        self._pending, self._window = pending, NOTHING
        count = min(self._policy.beside, self._room())
        window_follows = count > 0 and self._draft_is_there
        self._send_judge(hold=self._hold and window_follows)
        if window_follows:
            self._send_propose(count)
        self._state = State.BOTH if window_follows else State.JUDGING

    def _room(self) -> int:
        """How many tokens the draft may write behind what is pending."""
        # The target itself gives the last token before the limit, so writing it is in vain.
        end = min(self._stop.limit - 1, self._reach)
        return end - len(self._committed) - len(self._pending.tokens)

    def _send_propose(self, count: int) -> None:
        self._windows += 1
        self._propose = Propose(
            device=self._draft,
            job=self._windows,
            epoch=self._epoch,
            base=len(self._committed),
            pending=self._pending.tokens,
            count=count,
        )
        self._outbox.append(self._propose)

    def _send_judge(self, *, hold: bool) -> None:
        self._passes += 1
        self._judge = Judge(
            device=self._target,
            job=self._passes,
            epoch=self._epoch,
            base=len(self._committed),
            pending=self._pending,
            hold=hold,
        )
        if self._target_is_there:
            self._outbox.append(self._judge)

    def _send_again(self, job: Propose | Judge | None) -> None:
        if job is not None:
            self._outbox.append(job)

    def _call_back(self, device: Device) -> None:
        """What was not sent yet is not sent to a device that is gone."""
        self._outbox = [command for command in self._outbox if command.device != device]
