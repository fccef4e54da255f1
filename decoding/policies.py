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
from pearl.decoding.measured import WIDEST, InUse, Measurements, Wait

if TYPE_CHECKING:
    from pearl.decoding.kinds import ScheduleKind
    from pearl.decoding.messages import Judged, Proposed

Gamma: TypeAlias = int | str  # tokens of a window, or the name of a policy

FIRST_GAMMA: Final = 4  # gamma auto before anything was measured
WORTH: Final = 1.01  # times the speed: less is no reason to change
LONG: Final = 32  # tokens: longer runs are learned in parts, or a text may end first
REST: Final = 0  # gamma auto where the target alone is faster than waiting for the draft


class Policy(Protocol):
    """Two numbers, and what it needs to see to change them."""

    @property
    def before(self) -> int:
        """Tokens to write before a pass that would otherwise judge nothing."""

    @property
    def beside(self) -> int:
        """Tokens to write beside every pass."""

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
    """The gamma that theory says is fastest, for what was measured so far.

    A schedule that waits for its windows (speculative decoding) *rests* where the target alone is
    faster: then one token is written beside each pass, which costs nothing and shows when waiting
    for the draft pays again. PEARL needs no rest: with windows of one token it is as fast as the
    target alone.

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
        self._shared = kind, head_start, barrier  # policies alike have one window
        if self._shared not in self._measured.in_use:
            # One that may rest begins at rest: then the time of the target alone is known.
            self._use(REST if kind.waits else FIRST_GAMMA)
        if self._measured.ready:
            self._use(self._choose())
        self._windows = self._passes = 0
        self._last: Judged | None = None  # the last pass, on the clock of its device
        self._there: float | None = None  # seconds of its window, if that came before the verdict
        self._awaited: tuple[Wait, float] | None = None  # what has come since, and its seconds
        self._window: Proposed | None = None  # the last that came

    @property
    def before(self) -> int:
        """Tokens to write before a pass that would otherwise judge nothing."""
        return self._measured.in_use[self._shared].before

    @property
    def beside(self) -> int:
        """Tokens to write beside every pass."""
        return self._measured.in_use[self._shared].beside

    def _use(self, gamma: int) -> None:
        numbers = (0, 1) if gamma == REST else self._kind.numbers(gamma, self._head_start)
        self._measured.in_use[self._shared] = InUse(gamma, *numbers)

    def observe_window(self, answer: Proposed) -> None:
        """Learn the time of a draft step, and now and then think again.

        The first window is left out of the times: it reads the prompt.
        """
        self._windows += 1
        if self._windows > 1:
            self._measured.add_window(len(answer.drafted), answer.ended - answer.began)
        self._window = answer
        if (wait := self._wait_for(answer)) is not None:
            self._awaited = wait, answer.ended - answer.began
        if self._measured.ready and self._is_time():
            self._use(self._choose())

    def observe_pass(self, answer: Judged) -> None:
        """Learn the time of a pass, which grows with its tokens; the first reads the prompt."""
        self._passes += answer.passes
        if not answer.passes:
            return
        if self._passes > 1:
            own, seconds = answer.judged + 1, answer.ended - answer.began
            parallel = self.beside > 0
            self._measured.add_pass(answer.read or own, seconds, own, parallel=parallel)
            self._observe_round(answer)
        self._last, self._awaited = answer, None
        window = self._window
        there = window is not None and _is_beside(window, answer)
        self._there = window.ended - window.began if window is not None and there else None

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
        if last is None:
            return
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
        """The best gamma, unless the one in use is within a hundredth of it."""
        speeds = self._measured.speeds(
            self._kind, head_start=self._head_start, barrier=self._barrier
        )
        best = int(speeds.argmax())
        gamma = self._measured.in_use[self._shared].gamma
        return best if speeds[best] > WORTH * speeds[gamma] else gamma


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
