"""What `gamma="auto"` has seen of two devices, and how fast each window would have been there.

Times, messages and acceptance are remembered apart, because they change apart: how long a draft
step takes, how long a pass of so many tokens, what messages add to a round, and how many draft
tokens were kept between rejections.

Rule: it only learns and computes; `pearl.decoding.policies` decides.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import math
from collections.abc import Callable
from typing import Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from pearl.decoding import rounds
from pearl.decoding.kinds import Numbers, ScheduleKind
from pearl.decoding.rounds import RoundTimes
from pearl.decoding.worth import Worth

Array: TypeAlias = NDArray[np.float64]
WIDEST: Final = 32  # gamma auto looks no further
FIRST_GAMMA: Final = 4  # before anything was measured
SLOWLY: Final = 0.1  # how much of a new measurement is believed
QUICKLY: Final = 0.3  # and how much of one that changes at once
FORGET: Final = 0.99  # what is left of a measurement when another one comes
FADE: Final = 0.999  # and when one of another kind comes
LEAST_SPREAD: Final = 1e-3  # of the squares of the sizes of passes: less says nothing of a slope
FAINT: Final = 0.5  # measurements: less is as good as none
LONGEST_CONTROL_S: Final = 0.1  # more is no message but a device that was away
EARLY, LATE = 0.9, 1.1  # of a pass: windows of a crowd that are always in time, and never
WINDOWS: Final = np.arange(1.0, WIDEST + 1)
PRIOR: Final = ((0, True), (3, True), (8, True))
ALWAYS_RIGHT: Final = ((4 * WIDEST, True),)


class Wait(enum.Enum):
    """What the target waited for between two passes, beside messages."""

    NOTHING = "the window was there, or there was none"
    BESIDE = "the window that was written beside the last pass"
    BEFORE = "a window that was begun after the last pass"


@dataclasses.dataclass(slots=True)
class InUse:
    """A window, what it makes of the two numbers of a schedule, and whether it pays.

    Args:
        gamma: tokens of a window, also while it is at rest.
        hopeful: whether it would pay, were the draft always right.
    """

    gamma: int
    before: int = 0
    beside: int = 0
    hopeful: bool = True
    worth: Worth = dataclasses.field(default_factory=Worth)


@final
class PassTimes:
    """Seconds of a pass by the tokens it reads, as a line; the last hundred passes weigh most."""

    def __init__(self) -> None:
        self._sums = np.zeros(5)  # over passes: how many, n, n^2, T, and n T
        self._slope = 0.0  # as it was when passes last had several sizes

    def add(self, tokens: int, seconds: float) -> None:
        """A pass read `tokens`, of all requests in it."""
        n, t = tokens, seconds
        self._sums *= FORGET
        self._sums += (1, n, n * n, t, n * t)

    def fade(self) -> None:
        """Passes of another kind were seen: a policy at rest must not soon forget why it rests."""
        self._sums *= FADE

    @property
    def known(self) -> bool:
        """Whether some are remembered, by a clock that moved."""
        return bool(self._sums[0] >= FAINT and self._sums[3] > 0)

    def line(self, crowd: float) -> Callable[[Any], Any]:
        """Seconds by the tokens of one request: least squares, flat while all were of one size.

        Of several requests in a pass, all are taken to do as this one: a token more is one of each.
        """
        weight, n, nn, t, nt = self._sums.tolist()
        spread = weight * nn - n**2
        if spread > LEAST_SPREAD * nn * weight:
            self._slope = max(0.0, (weight * nt - n * t) / spread)
        slope = self._slope
        mean_n, mean_t = n / weight, t / weight
        return lambda own: np.maximum(mean_t + slope * (crowd * own - mean_n), 0.1 * mean_t)


@final
class Measurements:
    """What policies have seen of two devices: of the times the last hundred or so weigh most.

    Requests that share a pass share their window, too: each would pay for the longest of all.
    """

    RUNS: Final = 64

    def __init__(self) -> None:
        self._in_use: dict[tuple[ScheduleKind, int, bool, int], InUse] = {}
        self._crowd = 1.0  # requests in flight
        self._verdicts = 0  # on all of them
        self._last_passes = (math.nan, math.nan)  # when the last two began
        self._draft_tokens = self._draft_seconds = 0.0
        # A target that waited for its window may take longer than one that did not, so each kind of
        # pass is known for itself; True where windows are written beside.
        self._passes = {True: PassTimes(), False: PassTimes()}
        self._control: dict[Wait, float] = {}
        self._alone: float | None = None  # seconds of a pass with nothing pending; kept, if old
        # Tokens kept, and whether a rejection followed. A prior of three runs at a rate of about
        # 0.8, so that the first one does not decide alone.
        self._runs = collections.deque(PRIOR, maxlen=self.RUNS)

    @property
    def ready(self) -> bool:
        """Whether both devices have been timed, by a clock that moved."""
        return self._draft_tokens > 0 and any(passes.known for passes in self._passes.values())

    def in_use(self, kind: ScheduleKind, head_start: int, *, barrier: bool) -> InUse:
        """The window of policies that are alike, in crowds like the present one.

        What pays for one request may not pay for many, so each size of crowd, by factors of four,
        has its own; it begins with the window of the size before it.
        """
        size = ((round(self._crowd) - 1).bit_length() + 1) // 2
        key = kind, head_start, barrier, size
        if key not in self._in_use:
            alike = [used.gamma for other, used in self._in_use.items() if other[:3] == key[:3]]
            self._in_use[key] = InUse(alike[-1] if alike else FIRST_GAMMA)
        return self._in_use[key]

    @property
    def crowd(self) -> float:
        """Requests in flight, lately."""
        return self._crowd

    def count_verdict(self, since: int | None) -> int:
        """One more verdict; return how many there were. `since`: the same at one's own last.

        Between two verdicts on one request there is about one on each of the others.
        """
        self._verdicts += 1
        if since is not None:
            self._crowd += (self._verdicts - since - self._crowd) * QUICKLY / max(self._crowd, 1)
        return self._verdicts

    def is_new(self, began: float) -> bool:
        """Note a pass; whether no other request has told of it yet."""
        if began == self._last_passes[1]:
            return False
        self._last_passes = self._last_passes[1], began
        return True

    def follows(self, began: float) -> bool:
        """Whether the last pass was the next one after that which began then."""
        return self._last_passes[0] == began

    def doubt(self) -> None:
        """What was kept long ago says less than what will be now."""
        recent = list(self._runs)[-len(PRIOR) :]
        self._runs.clear()
        self._runs.extend((*PRIOR, *recent))

    def add_window(self, tokens: int, seconds: float) -> None:
        """The draft wrote `tokens` in `seconds`."""
        self._draft_tokens = FORGET * self._draft_tokens + tokens
        self._draft_seconds = FORGET * self._draft_seconds + seconds

    def add_pass(
        self, tokens: int, seconds: float, own: int | None = None, *, parallel: bool = True
    ) -> None:
        """The target read `tokens` in `seconds`, `own` of them for the request that asks."""
        self._passes[parallel].add(tokens, seconds)
        self._passes[not parallel].fade()
        if own == 1:
            known = seconds if self._alone is None else self._alone
            self._alone = known + SLOWLY * (seconds - known)

    def add_control(self, seconds: float, wait: Wait) -> None:
        """Messages of a round took so long; a device that came back may have another clock."""
        known = self._control.get(wait, seconds)
        if 0 <= seconds < LONGEST_CONTROL_S:
            self._control[wait] = known + SLOWLY * (seconds - known)

    def add_in_time(self, seconds: float) -> None:
        """The messages of a window that came in time took at most so long.

        Late windows are those that something delayed: they alone would make all look slow.
        """
        known = self._control.get(Wait.BESIDE)
        if known is not None and 0 <= seconds < known:
            self._control[Wait.BESIDE] = known + SLOWLY * (seconds - known)

    def add_run(self, kept: int, *, rejected: bool = True) -> None:
        """`kept` tokens agreed, and then one did not; or a part of a run that goes on."""
        self._runs.append((kept, rejected))

    def speeds(
        self,
        kind: ScheduleKind,
        *,
        head_start: int = 0,
        barrier: bool = True,
        always_right: bool = False,
    ) -> Array:
        """Tokens per second for each gamma from 0 to `WIDEST`, on the runs that were seen.

        What a schedule makes of a run depends on its length alone (`pearl.decoding.rounds`), so
        nothing is assumed of how agreement is spread: it may come in bursts.

        Args:
            kind: of the schedule. Gamma 0 is the target alone.
            head_start: tokens before the first pass of a run, where the kind takes one.
            barrier: whether every pass waits for the window beside the last, also after a
                rejection.
            always_right: of a draft that agrees with the target nearly always: the most that
                could be gained.
        """
        before, beside = kind.numbers(WINDOWS, head_start)
        runs = np.array(ALWAYS_RIGHT if always_right else self._runs, dtype=float)
        ended = runs[:, 1] > 0
        whole = rounds.of_kept(runs[ended, :1], before, beside, barrier=barrier)
        part = rounds.of_part(float(runs[~ended, 0].sum()), before, beside)
        first = whole.first * ended.sum() if np.ndim(whole.first) == 0 else whole.first.sum(axis=0)
        later = np.sum(whole.later, axis=0) + part.later
        times = self._times(before, beside, later / (first + part.first + later))
        seconds = whole.seconds(times).sum(axis=0) + part.seconds(times)
        tokens = whole.tokens.sum(axis=0) + part.tokens
        return np.append(self._speed_alone, tokens / seconds)

    def _times(self, before: Numbers, beside: Numbers, later: Numbers) -> RoundTimes:
        """Seconds of rounds; `later` is the share of passes that are not the first of a run."""
        parallel = bool(np.any(beside))
        step, judge = self._step, self._judge(parallel=parallel)
        ahead_s, beside_s, nothing_s = self._control_of_rounds()
        # A row is as long as the longest in the pass, and so it is that of another request.
        others = max(self._crowd - 1, 0.0)
        short, long = judge(before + 1.0), judge(beside)
        longest = np.maximum(short, long)
        first = longest - (longest - short) * (1 - later) ** others
        other = longest - (longest - long) * later**others
        window = beside * step + beside_s if parallel else 0.0
        if others:  # who misses a pass of the others waits for the next
            late = np.clip((window / longest - EARLY) / (LATE - EARLY), 0.0, 1.0)
            window = np.maximum(window, longest * (1 + late * others / (others + 1)) * (late > 0))
        return RoundTimes(
            before=np.where(before > 0, before * step + ahead_s, 0.0),
            beside=window,
            # Where every pass waits for a window, its messages are all there are.
            first=first + (nothing_s if parallel else 0.0),
            later=other + nothing_s,
        )

    @property
    def _speed_alone(self) -> float:
        """Tokens per second of the target alone: windows of one size tell nothing of it."""
        alone = self._judge(parallel=False)(1.0) if self._alone is None else self._alone
        _, _, nothing_s = self._control_of_rounds()
        return float(1 / (alone + nothing_s))

    @property
    def _step(self) -> float:
        return self._draft_seconds / self._draft_tokens

    def _judge(self, *, parallel: bool) -> Callable[[Any], Any]:
        """Seconds of a pass of this kind; where nothing is known of it, the other tells."""
        own, other = self._passes[parallel], self._passes[not parallel]
        return (own if own.known else other).line(self._crowd)

    def _control_of_rounds(self) -> tuple[float, float, float]:
        """For `Wait.BEFORE`, `BESIDE` and `NOTHING`: what is not known, another tells.

        A window that is waited for takes two exchanges of messages, a pass without one.
        """
        known = self._control
        before = known.get(Wait.BEFORE, 2 * known.get(Wait.NOTHING, 0.0))
        return before, known.get(Wait.BESIDE, before), known.get(Wait.NOTHING, before / 2)
