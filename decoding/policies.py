"""How many tokens the draft writes before a pass of the target, and how many beside it.

A policy is two numbers that a schedule asks for at the start of every job. A fixed one never
changes them. `gamma="auto"` chooses them from what the schedule has seen: the time of a draft step,
the time of a pass as a function of its tokens, and how many draft tokens were kept between
rejections.

A further policy is a class and an entry of `POLICIES`, whose name can then be given as gamma.

Rule: a policy's name is compared with another in this file only.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, final

from pearl.decoding.errors import SettingError
from pearl.decoding.measured import WIDEST, Measurements, Wait

if TYPE_CHECKING:
    from pearl.decoding.kinds import ScheduleKind
    from pearl.decoding.measured import Array, InUse
    from pearl.decoding.messages import Judged, Proposed

Gamma: TypeAlias = int | str  # tokens of a window, or the name of a policy

WORTH: Final = 1.01  # times the speed: less is no reason to change
OTHER: Final = 2  # times a window, or one part of so many: another kind of rounds
GROWTH: Final = 2  # times the window in use: the longest that may follow it
LONG: Final = 16  # tokens: longer runs are learned in parts, or a text may end first


class Policy(Protocol):
    """Two numbers, and what it needs to see to change them."""

    @property
    def before(self) -> int:
        """Tokens to write before a pass that would otherwise judge nothing."""

    @property
    def beside(self) -> int:
        """Tokens to write beside every pass."""

    @property
    def drafts(self) -> bool:
        """Whether the draft is asked for windows, or will be with the next pass."""

    @property
    def alone_s(self) -> float | None:
        """Seconds of the target alone for a token, messages included; None: it was not timed."""

    def observe_window(self, answer: Proposed) -> None:
        """A window was written."""

    def observe_pass(self, answer: Judged) -> None:
        """A pass was made."""

    def observe_comparison(self, *, kept: int, rejected: bool) -> None:
        """`kept` draft tokens agreed with the target, then one did not if `rejected`."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FixedPolicy:
    """Two numbers that stay."""

    before: int = 0
    beside: int = 0
    alone_s: None = None

    @property
    def drafts(self) -> bool:
        """Whether there are windows at all."""
        return self.before > 0 or self.beside > 0

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        if self.before < 0 or self.beside < 0:
            message = f"a policy of {self.before} and {self.beside} tokens; neither can be negative"
            raise SettingError(message)

    def observe_window(self, answer: Proposed) -> None:
        """Nothing to learn."""

    def observe_pass(self, answer: Judged) -> None:
        """Nothing to learn."""

    def observe_comparison(self, *, kept: int, rejected: bool) -> None:
        """Nothing to learn."""


@final
class AutoPolicy:
    """The gamma that theory says is fastest, for what was measured so far; or none.

    It *rests*, and asks the draft for nothing, where the target alone is faster than rounds with
    the draft really were (`pearl.decoding.worth`). It begins at rest, for a few passes that say how
    fast the target alone is.

    Args:
        kind: of the schedule.
        head_start: tokens before the first pass after a rejection, where the kind takes one.
        barrier: whether every pass waits for the window that was written beside the last one.
        measured: what earlier requests to the same devices have seen, to be added to.
    """

    def __init__(
        self,
        kind: ScheduleKind,
        *,
        head_start: int = 0,
        barrier: bool = False,
        measured: Measurements | None = None,
    ) -> None:
        self._kind = kind
        self._head_start = head_start
        self._barrier = barrier
        self._measured = measured or Measurements()
        self._run = 0  # tokens kept since the last rejection
        self._windows = self._passes = 0  # windows since the draft was asked for the first of them
        self._last: Judged | None = None  # the last pass, on the clock of its device
        self._tokens = 0  # committed since then
        self._verdicts: int | None = None  # on all requests, until then
        self._there: float | None = None  # seconds of its window, if that came before the verdict
        self._awaited: tuple[Wait, float] | None = None  # what has come since, and its seconds
        self._window: Proposed | None = None  # the last that came
        self._used = self._in_use()
        self._rests = self._used.worth.rests  # at the last pass
        self._rounds = 0 if self._rests else 1  # since it began to rest, or to draft

    @property
    def before(self) -> int:
        """Tokens to write before a pass that would otherwise judge nothing."""
        return self._used.before

    @property
    def beside(self) -> int:
        """Tokens to write beside every pass."""
        return self._used.beside

    @property
    def drafts(self) -> bool:
        """True a pass before the first window: until then the target may have all cores."""
        return not self._used.worth.rests

    @property
    def alone_s(self) -> float | None:
        """As passes at rest took it, among as many requests as there are now."""
        return self._used.worth.alone_s

    def observe_window(self, answer: Proposed) -> None:
        """Learn the time of a draft step, and now and then think again.

        The first window is left out of the times: it reads the prompt, or what was missed at rest.
        """
        self._windows += 1
        if self._windows > 1:
            self._measured.add_window(len(answer.drafted), answer.ended - answer.began)
        self._window = answer
        if (wait := self._wait_for(answer)) is not None:
            self._awaited = wait, answer.ended - answer.began
        if self._measured.ready and self._is_time() and not self._used.worth.rests:
            self._think()

    def observe_pass(self, answer: Judged) -> None:
        """Learn the time of a pass, which grows with its tokens; the first reads the prompt."""
        self._tokens += answer.kept + (answer.token is not None)
        self._passes += answer.passes
        if not answer.passes:
            return
        self._verdicts = self._measured.count_verdict(self._verdicts)
        if self._passes > 1:
            own, seconds = answer.judged + 1, answer.ended - answer.began
            read = answer.read or own
            if self._measured.is_new(answer.began):
                self._measured.add_pass(read, seconds, own, parallel=self.beside > 0)
            self._observe_round(answer)
            self._weigh(answer)
        self._last, self._awaited, self._tokens = answer, None, 0
        window = self._window
        there = window is not None and _is_beside(window, answer)
        self._there = window.ended - window.began if window is not None and there else None

    def _weigh(self, answer: Judged) -> None:
        """See what a round with or without the draft has cost; begin to rest, or end it."""
        self._used = self._in_use()
        worth, crowd, last = self._used.worth, self._measured.crowd, self._last
        if worth.rests is not self._rests:
            self._rests, self._rounds = worth.rests, 0
            self._windows = 0 if self._rests else self._windows
        self._rounds += 1
        seconds = answer.ended - last.ended if last is not None else 0.0
        if last is None or seconds <= 0:
            return
        if not self._rests and not self.before and not self.beside:
            self._use(self._used.gamma)  # the target has heard of it meanwhile
            self._rounds = 0
        elif not self._rests:
            worth.add_drafted(seconds, self._tokens, crowd, first=self._rounds == 1)
            failed = worth.has_failed()
            if failed and worth.is_fresh():
                self._rest()
            elif failed or worth.is_old():
                if failed:  # perhaps beside a time of the target alone that is not true any more
                    worth.begin_anew()
                worth.look()
                self._use(self._used.gamma)
        elif self._rounds > 1 and last.judged == answer.judged == 0:
            worth.add_alone(seconds, crowd)
            if worth.may_try(hopeful=self._used.hopeful):
                self._try()

    def _try(self) -> None:
        """Ask the draft again, for one token where nothing is known of it."""
        if not self._used.worth.looks:
            self._measured.doubt()
        self._used.worth.begin()
        self._used.gamma = self._choose() if self._measured.ready else 1

    def _rest(self) -> None:
        self._used.hopeful = self._is_hopeful()
        self._used.worth.give_up()
        self._use(self._used.gamma)

    def _think(self) -> None:
        """Change the window, or rest where even a draft that is always right could not pay."""
        if self._used.worth.wins or self._is_hopeful():
            self._use(self._choose())
        else:
            self._rest()

    def _use(self, gamma: int) -> None:
        used = self._used
        if not used.weighed / OTHER < gamma < OTHER * used.weighed:
            used.weighed = gamma
            used.worth.begin_anew()
        used.gamma = gamma
        asked = not used.worth.rests
        used.before, used.beside = self._kind.numbers(gamma, self._head_start) if asked else (0, 0)

    def _in_use(self) -> InUse:
        return self._measured.in_use(self._kind, self._head_start, barrier=self._barrier)

    def _wait_for(self, window: Proposed) -> Wait | None:
        """Why the target waited for a window; None where it did not, as far as one can tell."""
        last = self._last
        if last is None:
            return None
        if _is_beside(window, last) and (self._barrier or last.kept == last.judged):
            return Wait.BESIDE  # later than the verdict; after a rejection it is not waited for
        first = window.start == last.base + last.kept + 1
        return Wait.BEFORE if self.before > 0 and first else None

    def _observe_round(self, answer: Judged) -> None:
        """Learn what lies between two passes beside the window that was waited for."""
        last = self._last
        if last is None or not self._measured.follows(last.began):
            return  # with a pass of others between them, that was waited for too
        wait, window = self._awaited or (Wait.NOTHING, 0.0)
        since = last.began if wait is Wait.BESIDE else last.ended
        self._measured.add_control(answer.began - since - window, wait)
        if wait is Wait.NOTHING and self._there is not None:
            self._measured.add_in_time(answer.began - last.began - self._there)

    def observe_comparison(self, *, kept: int, rejected: bool) -> None:
        """Learn how long draft and target agree."""
        self._run += kept
        if rejected or self._run >= LONG:
            self._measured.add_run(self._run, rejected=rejected)
            self._run = 0

    def _is_time(self) -> bool:
        """Often at first, every eighth window later: choosing takes longer than a message."""
        return self._windows % 8 == 0 or self._windows.bit_count() == 1

    def _choose(self) -> int:
        """The best gamma that is not far from the one in use, unless that is within a hundredth.

        What was measured says little of passes that are many times as long.
        """
        speeds, gamma = self._speeds(always_right=False), self._used.gamma
        best = int(speeds[1 : 1 + GROWTH * gamma].argmax()) + 1
        return best if speeds[best] > WORTH * speeds[gamma] else gamma

    def _is_hopeful(self) -> bool:
        """Whether the draft would pay if it were always right."""
        if not self._measured.ready:
            return True
        speeds = self._speeds(always_right=True)
        alone_s = self._used.worth.alone_s
        alone = speeds[0] if alone_s is None else 1 / alone_s
        return bool(speeds[1:].max() > WORTH * alone)

    def _speeds(self, *, always_right: bool) -> Array:
        return self._measured.speeds(
            self._kind,
            head_start=self._head_start,
            barrier=self._barrier,
            always_right=always_right,
        )


def _is_beside(window: Proposed, judged: Judged) -> bool:
    """Whether a window was written beside the pass of this verdict."""
    return (window.epoch, window.start) == (judged.epoch, judged.base + judged.judged)


# -- the table ---------------------------------------------------------------------------------


class StartPolicy(Protocol):
    """Makes the policy of a new request; the arguments are those of `AutoPolicy`."""

    def __call__(
        self, kind: ScheduleKind, *, head_start: int, barrier: bool, measured: Measurements | None
    ) -> Policy:
        """A policy belongs to one request."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyKind:
    """What is true of all policies of one name.

    Args:
        start: makes one.
        widest: the largest gamma it may choose.
        adapts: whether it goes by the times it sees. Then the same request has other windows where
            the times are others, and where earlier requests have taught it.
        best: whether it ends up with the fastest gamma, which may stand for it where one number is
            wanted.
    """

    start: StartPolicy
    widest: int
    adapts: bool = False
    best: bool = False


POLICIES: Final[dict[str, PolicyKind]] = {
    "auto": PolicyKind(start=AutoPolicy, widest=WIDEST, adapts=True, best=True),
}
