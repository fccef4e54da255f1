"""Every figure of a run: one name, one definition, for real and simulated devices alike.

A `Meter` gets every answer and every commit of one request; `Metrics` is what it says at
the end. Times are seconds on one clock; a job's own times are its device's.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, final

import msgspec

from pearl.decoding.messages import Judged, Proposed

if TYPE_CHECKING:
    from pearl.decoding.schedules import Counts


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """One request, measured from its submission to its last token.

    Args:
        schedule, verifier, gamma: what ran; gamma is the last one used where it was `auto`, and
            0 without a draft.
        tokens: generated tokens.
        target_passes: forward passes of the target.
        draft_steps: tokens the draft wrote, also those that were not wanted any more.
        drafted: the same tokens, as far as a verdict could use them: written and not cancelled.
        kept, rejections: draft tokens of the text that agreed with the target, and that did not;
            tokens behind a rejection were not compared.
        rounds: passes whose verdict the schedule acted on.
        over_ar: the speed over what the target alone would have taken, by the times that its passes
            alone took on these devices; the first token counts for both as it came. None where none
            ran alone.
        acceptance_rate: kept / (kept + rejections); None where nothing was compared.
        tokens_per_target_pass: tokens / target_passes.
        draft_idle, target_idle: share of the time in which the device was idle: did nothing
            for this request. Without a draft, draft_idle is 1.
        wasted: share of the draft's tokens that were not kept; 0 where none was written.
        control_us_per_round: median time between two passes in which neither device worked.
        draft_losses, target_losses: times a device was lost while the request ran.
        tokens_without_draft: tokens committed while the draft was away.
    """

    schedule: str
    verifier: str
    gamma: int
    tokens: int
    target_passes: int
    draft_steps: int
    drafted: int
    kept: int
    rejections: int
    rounds: int
    seconds: float
    tokens_per_s: float
    time_to_first_token_s: float
    over_ar: float | None = None
    acceptance_rate: float | None
    tokens_per_target_pass: float
    draft_idle: float
    target_idle: float
    wasted: float
    control_us_per_round: float | None
    draft_losses: int
    target_losses: int
    tokens_without_draft: int


@final
class Meter:
    """Adds up one request as it runs.

    Args:
        submitted: when the request came in.
    """

    def __init__(self, submitted: float) -> None:
        self._submitted = submitted
        self._first_token = math.nan
        self._last_token = submitted
        self._passes = self._draft_steps = self._drafted = 0
        self._draft_busy = self._target_busy = 0.0
        self._pass_ended: float | None = None
        self._draft_since_pass: list[tuple[float, float]] = []
        self._control: list[float] = []

    def add(self, answer: Proposed | Judged, *, wanted: bool) -> None:
        """A device answered; `wanted` unless the schedule had given up on the job."""
        if isinstance(answer, Proposed):
            self._add_window(answer, wanted=wanted)
        else:
            self._add_pass(answer)

    def commit(self, at: float) -> None:
        """Tokens were committed."""
        self._last_token = at
        if math.isnan(self._first_token):
            self._first_token = at

    def _add_window(self, answer: Proposed, *, wanted: bool) -> None:
        written = len(answer.drafted.tokens)
        self._draft_steps += written
        self._drafted += written if wanted else 0
        self._draft_busy += answer.ended - answer.began
        self._draft_since_pass.append((answer.began, answer.ended))

    def _add_pass(self, answer: Judged) -> None:
        self._target_busy += answer.ended - answer.began
        if answer.passes == 0:
            return
        self._passes += answer.passes
        if self._pass_ended is not None:
            self._control.append(self._gap(self._pass_ended, answer.began))
        self._pass_ended = answer.ended
        self._draft_since_pass = [job for job in self._draft_since_pass if job[1] > answer.ended]

    def _gap(self, since: float, until: float) -> float:
        """Time between two passes in which the draft did not work either."""
        drafting = 0.0
        for began, ended in self._draft_since_pass:
            drafting += max(0.0, min(ended, until) - max(began, since))
        return max(0.0, until - since - drafting)

    def metrics(
        self,
        counts: Counts,
        *,
        schedule: str,
        verifier: str,
        gamma: int,
        tokens: int,
        alone_s: float | None = None,
    ) -> Metrics:
        """The figures, when the request has ended.

        Args:
            alone_s: seconds of the target alone for a token, where they are known.
        """
        seconds = self._last_token - self._submitted
        first = self._first_token - self._submitted
        alone = None if alone_s is None or not tokens else first + (tokens - 1) * alone_s
        compared = counts.kept + counts.rejections
        return Metrics(
            schedule=schedule,
            verifier=verifier,
            gamma=gamma,
            tokens=tokens,
            target_passes=self._passes,
            draft_steps=self._draft_steps,
            drafted=self._drafted,
            kept=counts.kept,
            rejections=counts.rejections,
            rounds=counts.rounds,
            seconds=seconds,
            tokens_per_s=tokens / seconds if seconds else math.inf,
            time_to_first_token_s=first,
            over_ar=alone / seconds if alone is not None and seconds else None,
            acceptance_rate=counts.kept / compared if compared else None,
            tokens_per_target_pass=tokens / self._passes if self._passes else math.nan,
            draft_idle=_idle(self._draft_busy, seconds),
            target_idle=_idle(self._target_busy, seconds),
            wasted=1 - counts.kept / self._draft_steps if self._draft_steps else 0.0,
            control_us_per_round=1e6 * statistics.median(self._control) if self._control else None,
            draft_losses=counts.draft_losses,
            target_losses=counts.target_losses,
            tokens_without_draft=counts.tokens_without_draft,
        )


def _idle(busy: float, seconds: float) -> float:
    return max(0.0, 1 - busy / seconds) if seconds else 0.0
