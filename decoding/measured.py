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
from pearl.decoding.worth import FEW_ALONE, FIRST_ALONE, Worth

Array: TypeAlias = NDArray[np.float64]
WIDEST: Final = 32  # gamma auto looks no further
FIRST_GAMMA: Final = 4  # before anything was measured
SLOWLY: Final = 0.1  # how much of a new measurement is believed
TOGETHER: Final = 0.02  # how much passes of other sizes change with one
EXACT_BITS: Final = 4  # sizes below 16 are known one by one, larger ones by eighths
HARDLY: Final = 0.01
QUICKLY: Final = 0.3  # and how much of one that changes at once
FORGET: Final = 0.99  # what is left of a measurement when another one comes
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
        weighed: the window whose rounds are weighed, or about as long as it.
        hopeful: whether it would pay, were the draft always right.
    """

    gamma: int
    before: int = 0
    beside: int = 0
    weighed: int = 1
    hopeful: bool = True
    worth: Worth = dataclasses.field(default_factory=Worth)


@final
class PassTimes:
    """Seconds of a pass by the tokens that it reads.

    Times grow in steps and less and less on many a processor, so each size is known for itself;
    between two that were seen lies a line, and behind the last one half of the mean rise: longer
    passes are not thought to be dear before they were tried.
    """

    def __init__(self) -> None:
        self._at: dict[int, float] = {}
        self._seen: collections.Counter[int] = collections.Counter()

    def add(self, tokens: int, seconds: float) -> None:
        """A pass read `tokens`, of all requests in it.

        What makes passes of one size slower does so to others, too.
        """
        if seconds <= 0:
            return
        size = _size(tokens)
        known = self._at.setdefault(size, seconds)
        level = 1 + TOGETHER * min(max(seconds / known - 1, -0.5), 1.0)
        for other in self._at:
            self._at[other] *= level
        self._seen[size] += 1
        believed = max(1 / self._seen[size], SLOWLY)
        self._at[size] = known + believed * (seconds - known)

    @property
    def known(self) -> bool:
        """Whether some were seen, by a clock that moved."""
        return bool(self._at)

    def seconds(self, tokens: Any) -> Any:
        """Of passes that read so many."""
        sizes = sorted(self._at)
        times = [self._at[size] for size in sizes]
        rise = (times[-1] - times[0]) / max(sizes[-1] - sizes[0], 1)
        beyond = np.maximum(tokens - sizes[-1], 0) * max(rise, 0.0) / 2
        return np.interp(tokens, sizes, times) + beyond


def _size(tokens: int) -> int:
    """The size that stands for a number of tokens: below 16 itself, above rounded to an eighth."""
    few = max(0, tokens.bit_length() - EXACT_BITS)
    return (tokens + (1 << few >> 1)) >> few << few


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
            few = FEW_ALONE if self._in_use else FIRST_ALONE
            self._in_use[key] = InUse(alike[-1] if alike else FIRST_GAMMA, worth=Worth(few))
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
        if own == 1:
            known = seconds if self._alone is None else self._alone
            self._alone = known + SLOWLY * (seconds - known)

    def add_control(self, seconds: float, wait: Wait) -> None:
        """Messages of a round took so long; a device that came back may have another clock."""
        known = self._control.get(wait, seconds)
        if not 0 <= seconds < LONGEST_CONTROL_S:
            return
        # Of windows beside a pass only those are waited for that something delayed: what messages
        # take is at the lower end.
        rising = wait is Wait.BESIDE and seconds > known
        believed = HARDLY if rising else QUICKLY if wait is Wait.BESIDE else SLOWLY
        self._control[wait] = known + believed * (seconds - known)

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
        """Seconds of a pass by the tokens of one request, when all others in it do the same.

        Where nothing is known of passes of this kind, those of the other kind tell.
        """
        own, other = self._passes[parallel], self._passes[not parallel]
        times = own if own.known else other
        return lambda tokens: times.seconds(tokens * self._crowd)

    def _control_of_rounds(self) -> tuple[float, float, float]:
        """For `Wait.BEFORE`, `BESIDE` and `NOTHING`: what is not known, another tells.

        A window that is waited for takes two exchanges of messages, a pass without one.
        """
        known = self._control
        before = known.get(Wait.BEFORE, 2 * known.get(Wait.NOTHING, 0.0))
        return before, known.get(Wait.BESIDE, before), known.get(Wait.NOTHING, before / 2)
