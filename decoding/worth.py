"""Whether a draft pays: what rounds with it took, against the target alone.

Everything is counted in *passes*: the time that the target alone takes for a token. A round of so
many seconds that commits so many tokens has lost

    seconds / seconds of the target alone for a token - tokens

passes; a draft that pays loses less than nothing. Where it loses beyond doubt the policy *rests*:
the draft is asked for nothing, and the target goes on alone. What a try has cost is made good
before the next one, by resting a hundred times as long, and twice as long as that after another
that fails. So all tries together cost a hundredth of the time at most.

No model of the times is in it: a wrong one cannot make a pair slower than its target.

Rule: it counts; `pearl.decoding.policies` asks and decides.
"""

from __future__ import annotations

import collections
import math
import statistics
from typing import Final, final

FEW_ALONE: Final = 4  # passes of the target alone before its time is believed
FIRST_ALONE: Final = 24  # and on a new engine, where it may still be trying numbers of threads
MANY_ALONE: Final = 8  # the last that count
SHARE: Final = 0.01  # of the time at rest may have been lost in tries
MOST_DOUBLINGS: Final = 1
MEMORY: Final = 0.997  # of a round when another one comes: the last three hundred count
FEW_ROUNDS: Final = 2.9  # with a draft, the first of them faded, before it is given up
LEAST_DEBT: Final = 1.0  # passes: also a try that costs no time costs power
LEAST_GAIN: Final = 0.03  # passes a round: for less the draft's processor is not worth its power
DOUBT: Final = 2.0  # standard errors; after few rounds more: so many over their number
EARLY_DOUBT: Final = 8.0
PRIOR: Final = 3.0  # rounds that nobody has seen: a few that happen to be alike say little
SPREAD: Final = 12.0  # of how much rounds differ; squares of passes
PART: Final = 0.99  # of the requests of a crowd: rounding is not to make it wait for one more
MANY_ROUNDS: Final = 100  # with a draft: what is given up after them had paid for a time
FRESH: Final = 50  # rounds with a draft: as long the time of the target alone is believed
OLD: Final = 1000  # then it is timed again in any case; on a new engine sooner
HOPELESS: Final = 5000  # passes at rest before what cannot pay is tried again


@final
class Worth:
    """The tally of one kind of schedule on one pair, in crowds of about one size.

    It begins at rest: without the time of the target alone there is nothing to compare.

    Args:
        few: passes of the target alone before its time is believed for the first time.
    """

    def __init__(self, few: int = FEW_ALONE) -> None:
        self._few = few
        self._passes_alone = 0
        self._alone: collections.deque[float] = collections.deque(maxlen=MANY_ALONE)
        self._alone_s = math.nan  # the middle one
        self._drafts = False  # or rests
        self._looks = False  # rests only to time the target alone
        self._weight = self._lost = self._squares = 0.0  # of rounds with a draft, fading
        self._part = self._part_lost = 0.0  # of the round of a crowd that is under way
        self._behind = 0.0  # passes lost since the draft was last ahead
        self._since_alone = 0.0  # rounds with a draft since the target alone was timed
        self._debt = 0.0  # passes lost that rest has not made good yet
        self._rested = 0.0  # passes since the last try
        self._failed = 0  # tries in a row
        self._old = FRESH

    @property
    def rests(self) -> bool:
        """Whether the draft is asked for nothing."""
        return not self._drafts

    @property
    def looks(self) -> bool:
        """Whether it rests only to time the target alone again."""
        return self._looks

    @property
    def alone_s(self) -> float | None:
        """Seconds of the target alone for a token, messages included; None before it is known."""
        return self._alone_s if self._passes_alone >= self._few else None

    def add_alone(self, seconds: float, crowd: float) -> None:
        """The target alone took so long for a token, as one of so many requests in the pass."""
        self._alone.append(seconds)
        self._alone_s = statistics.median(self._alone)
        self._passes_alone += 1
        self._since_alone = 0.0
        self._rested += 1 / crowd
        self._debt -= SHARE / 2**self._failed / crowd

    def add_drafted(self, seconds: float, tokens: int, crowd: float, *, first: bool) -> None:
        """A round with the draft.

        Args:
            seconds, tokens: from pass to pass, and what it committed.
            crowd: requests in the pass.
            first: after rest. The draft reads what it has missed: that is lost, but says nothing
                of the rounds to come.
        """
        if self.alone_s is None:
            return
        lost, weight = seconds / self._alone_s - tokens, 1 / crowd
        self._behind = max(0.0, self._behind + lost * weight)
        self._since_alone += weight
        if first:
            return
        # The rounds of a crowd are not independent: all of them together are one.
        self._part += weight
        self._part_lost += weight * lost
        if self._part > PART:
            mean = self._part_lost / self._part
            self._weight = MEMORY * self._weight + 1
            self._lost = MEMORY * self._lost + mean
            self._squares = MEMORY * self._squares + mean**2
            self._part = self._part_lost = 0.0

    def may_try(self, *, hopeful: bool) -> bool:
        """Whether to ask the draft again.

        Args:
            hopeful: whether it would pay if it were always right.
        """
        if self.alone_s is None or self._debt > 0:
            return False
        return hopeful or self._rested >= HOPELESS

    def begin(self) -> None:
        """Ask the draft."""
        self._drafts, self._looks = True, False
        self._behind = self._rested = 0.0

    def begin_anew(self) -> None:
        """The rounds so far say nothing of those to come: their windows were others."""
        self._weight = self._lost = self._squares = self._part = self._part_lost = 0.0

    def has_failed(self) -> bool:
        """Whether rounds with the draft do not gain what they should, beyond doubt."""
        if self._weight < FEW_ROUNDS:
            return False
        count = self._weight
        mean = self._lost / count
        squares = SPREAD + max(self._squares - count * mean**2, 0.0)
        error = math.sqrt(squares / (count + PRIOR) / count)
        return mean + LEAST_GAIN > (DOUBT + EARLY_DOUBT / count) * error

    @property
    def wins(self) -> bool:
        """Whether rounds with the draft have been faster than the target alone so far."""
        return self._weight >= FEW_ROUNDS and self._lost < 0

    def is_old(self) -> bool:
        """Whether the target alone was timed too long ago to go on."""
        return self._since_alone > self._old

    def is_fresh(self) -> bool:
        """Whether it was timed so lately that a draft may be given up for it."""
        return self._since_alone <= FRESH

    def give_up(self) -> None:
        """Rest, until what was lost is made good."""
        self._drafts = False
        self._failed = min(self._failed + 1, MOST_DOUBLINGS) if self._weight < MANY_ROUNDS else 0
        self.begin_anew()
        self._debt = max(self._behind, LEAST_DEBT)

    def look(self) -> None:
        """Rest for a few passes, to time the target alone again."""
        self._drafts, self._looks = False, True
        self._alone.clear()
        self._passes_alone, self._few = 0, FEW_ALONE
        self._old = min(2 * self._old, OLD)
