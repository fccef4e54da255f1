"""How many tokens the draft writes before a pass of the target, and how many beside it.

A plan is two numbers a schedule asks for at the start of every job. A fixed plan never changes
them. `gamma="auto"` chooses them from what the schedule has seen: the time of a draft step, the
time of a pass as a function of its tokens, and how many draft tokens were kept between rejections.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from decoding.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoding.messages import Judged, Proposed

Array: TypeAlias = NDArray[np.float64]
WIDEST: Final = 32  # gamma auto looks no further
FIRST_GAMMA: Final = 4  # gamma auto before anything was measured
WORTH: Final = 1.01  # times the speed: less is no reason to change
LONG: Final = 64  # tokens: a run of more counts as one of so many
SLOWLY: Final = 0.1  # how much of a new measurement is believed
FORGET: Final = 0.99  # what is left of a measurement when another one comes
FADE: Final = 0.999  # and when one of another kind comes
FAINT: Final = 0.5  # measurements: less is as good as none
LONGEST_CONTROL_S: Final = 0.1  # more is no message but a device that was away
REST: Final = 0  # gamma auto of speculative decoding where the target alone is faster


class Plan(Protocol):
    """Two numbers, and ears for what might change them."""

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
class FixedPlan:
    """Two numbers that stay."""

    before: int = 0
    beside: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        if self.before < 0 or self.beside < 0:
            message = f"a plan of {self.before} and {self.beside} tokens; neither can be negative"
            raise SettingError(message)

    def observe_window(self, answer: Proposed) -> None:
        """Nothing to learn."""

    def observe_pass(self, answer: Judged) -> None:
        """Nothing to learn."""

    def observe_comparison(self, *, kept: int, rejected: bool) -> None:
        """Nothing to learn."""


AUTOREGRESSIVE: Final = FixedPlan()


def speculative(gamma: int) -> FixedPlan:
    """Write gamma tokens, then judge them."""
    return FixedPlan(before=gamma)


def pearl(gamma: int, head_start: int = 0) -> FixedPlan:
    """Write gamma tokens beside every pass, `head_start` before the first one after a rejection."""
    return FixedPlan(before=head_start, beside=gamma)


@final
class AutoPlan:
    """The plan that theory says is fastest, for what was measured so far.

    Speculative decoding rests where the target alone is faster: then one token is written beside
    each pass, which costs nothing and shows when the draft is worth waiting for again. PEARL needs
    no rest, because with windows of one token it is as fast as the target alone.

    Args:
        parallel: write beside the passes (PEARL) or before them (speculative decoding).
        head_start: tokens before the first pass after a rejection; for PEARL only.
        measured: what earlier requests to the same devices have seen, to be added to.
    """

    def __init__(
        self, *, parallel: bool, head_start: int = 0, measured: Measured | None = None
    ) -> None:
        self._parallel = parallel
        self._head_start = head_start
        self._measured = measured or Measured()
        self._run = 0  # tokens kept since the last rejection
        # Speculative decoding begins at rest: what the target takes alone is then known.
        self._gamma = FIRST_GAMMA if parallel else REST
        if self._measured.ready:
            self._gamma = self._choose()
        self._windows = self._passes = 0
        self._last: Judged | None = None  # the last pass, on the clock of its device
        self._between: list[float] = []  # seconds of the windows that came since

    @property
    def before(self) -> int:
        """Tokens to write before a pass that would otherwise judge nothing."""
        return self._head_start if self._parallel else self._gamma

    @property
    def beside(self) -> int:
        """Tokens to write beside every pass."""
        if self._parallel:
            return self._gamma
        return 1 if self._gamma == REST else 0

    def observe_window(self, answer: Proposed) -> None:
        """Learn the time of a draft step, and now and then think again.

        The first window is left out of the times: it reads the prompt.
        """
        self._windows += 1
        self._between.append(answer.ended - answer.began)
        if self._windows > 1:
            self._measured.add_window(len(answer.drafted), answer.ended - answer.began)
        if self._measured.ready and self._is_time():
            self._gamma = self._choose()

    def observe_pass(self, answer: Judged) -> None:
        """Learn the time of a pass, which grows with its tokens; the first reads the prompt."""
        self._passes += answer.passes
        if not answer.passes:
            return
        if self._passes > 1:
            own, seconds = answer.judged + 1, answer.ended - answer.began
            self._measured.add_pass(answer.read or own, seconds, own, parallel=self._beside_passes)
            self._observe_round(answer)
        self._last, self._between = answer, []

    def _observe_round(self, answer: Judged) -> None:
        """Learn what a round takes beside its jobs, on the target's clock; with one window only."""
        last, parallel = self._last, self._beside_passes
        if last is None or len(self._between) != 1:
            return
        window, judged = self._between[0], last.ended - last.began
        jobs = max(window, judged) if parallel else window + judged
        self._measured.add_control(answer.began - last.began - jobs, parallel=parallel)

    def observe_comparison(self, *, kept: int, rejected: bool) -> None:
        """Learn how long draft and target agree."""
        self._run += kept
        if rejected or self._run >= LONG:  # a run that does not end must be seen as well
            self._measured.add_run(self._run)
            self._run = 0

    @property
    def _beside_passes(self) -> bool:
        return self._parallel or self._gamma == REST

    def _is_time(self) -> bool:
        """Often at first, every eighth window later: choosing takes longer than a message."""
        return self._windows % 8 == 0 or self._windows.bit_count() == 1

    def _choose(self) -> int:
        """The best gamma, unless the one in use is within a hundredth of it."""
        speeds = self._measured.speeds(
            parallel=self._parallel, head_start=self._head_start, run=self._run
        )
        least = 1 if self._parallel else REST
        best = least + int(speeds[least:].argmax())
        return best if speeds[best] > WORTH * speeds[self._gamma] else self._gamma


@final
class PassTimes:
    """Seconds of a pass by the tokens it reads, as a line; the last hundred passes weigh most."""

    def __init__(self) -> None:
        # Sums over passes: how many, n, n^2, T, n T, and n over the tokens of one request.
        self._sums = np.zeros(6)

    def add(self, tokens: int, seconds: float, own: int) -> None:
        """A pass read `tokens`, `own` of them for the request that asks."""
        n, t = tokens, seconds
        self._sums *= FORGET
        self._sums += (1, n, n * n, t, n * t, n / own)

    def fade(self) -> None:
        """Passes of another kind were seen: who rests should not forget soon why."""
        self._sums *= FADE

    @property
    def known(self) -> bool:
        """Whether some are remembered, by a clock that moved."""
        return bool(self._sums[0] >= FAINT and self._sums[3] > 0)

    def line(self) -> Callable[[Any], Any]:
        """Seconds by the tokens of one request: least squares, flat where all were of one size.

        Of a crowd, all are taken to do as the one that asks: its next token is one for each.
        """
        weight, n, nn, t, nt, crowd = self._sums.tolist()
        spread = weight * nn - n**2
        slope = 0.0
        if spread > 1e-9 * nn * weight:
            slope = max(0.0, (weight * nt - n * t) / spread)
        mean_n, mean_t, crowd = n / weight, t / weight, crowd / weight
        return lambda own: np.maximum(mean_t + slope * (crowd * own - mean_n), 0.1 * mean_t)


@final
class Measured:
    """What plans have seen of two devices: of the times the last hundred or so weigh most."""

    RUNS: Final = 64

    def __init__(self) -> None:
        self._draft_tokens = self._draft_seconds = 0.0
        # A target that waited for its window may take longer than one that did not: each kind of
        # pass, and of messages, is known for itself; True where windows are written beside.
        self._passes = {True: PassTimes(), False: PassTimes()}
        self._control: dict[bool, float] = {}
        self._alone: float | None = None  # seconds of a pass with nothing pending; kept, if old
        # A prior of three runs at a rate of about 0.8, so that the first one does not decide alone.
        self._runs = collections.deque([0, 3, 8], maxlen=self.RUNS)

    @property
    def ready(self) -> bool:
        """Whether both devices have been timed, by a clock that moved."""
        return self._draft_tokens > 0 and any(passes.known for passes in self._passes.values())

    def add_window(self, tokens: int, seconds: float) -> None:
        """The draft wrote `tokens` in `seconds`."""
        self._draft_tokens = FORGET * self._draft_tokens + tokens
        self._draft_seconds = FORGET * self._draft_seconds + seconds

    def add_pass(
        self, tokens: int, seconds: float, own: int | None = None, *, parallel: bool = True
    ) -> None:
        """The target read `tokens` in `seconds`, `own` of them for the request that asks."""
        own = own or tokens
        self._passes[parallel].add(tokens, seconds, own)
        self._passes[not parallel].fade()
        if own == 1:
            known = seconds if self._alone is None else self._alone
            self._alone = known + SLOWLY * (seconds - known)

    def add_control(self, seconds: float, *, parallel: bool) -> None:
        """Messages of a round took so long; a device that came back may have another clock."""
        known = self._control.get(parallel, seconds)
        if 0 <= seconds < LONGEST_CONTROL_S:
            self._control[parallel] = known + SLOWLY * (seconds - known)

    def add_run(self, kept: int) -> None:
        """Between two rejections `kept` tokens agreed."""
        self._runs.append(kept)

    def speeds(self, *, parallel: bool, head_start: int, run: int = 0) -> Array:
        """Tokens per second for each gamma from 0 to `WIDEST`, on the runs that were seen.

        What a schedule makes of a run depends on its length alone, because after each rejection
        it begins anew. So nothing is assumed of luck: it may come in bursts.

        Args:
            parallel: write beside the passes (PEARL; never with gamma 0) or before them.
            head_start: tokens before the first pass of a run; PEARL.
            run: tokens kept since the last rejection; they count where they are many.
        """
        kept = np.array(self._runs, dtype=float)
        kept = np.append(kept, run) if run > kept.mean() else kept
        gammas = np.arange(WIDEST + 1.0)
        step, judge = self._draft_seconds / self._draft_tokens, self._judge(parallel=parallel)
        tokens, windows = kept.sum() + len(kept), np.maximum(gammas, 1)
        # Where nothing is known of one way, the other tells: one exchange of messages or two.
        beside = self._control.get(True, self._control.get(False, 0.0) / 2)
        before = self._control.get(False, 2 * beside)
        if not parallel:
            # A window that is kept has a bonus token, with which nothing is compared.
            full = (kept[:, None] // windows).sum(axis=0)
            seconds = (full + len(kept)) * (windows * step + judge(windows + 1) + before)
            # Windows of one size tell nothing of passes without.
            alone = judge(1.0) if self._alone is None else self._alone
            return np.append(1 / (alone + beside), ((tokens + full) / seconds)[1:])
        # The first pass of a run settles one token more than the head start, each later one gamma.
        later = np.ceil(np.maximum(kept - head_start, 0)[:, None] / windows).sum(axis=0)
        first = head_start * step + np.maximum(windows * step, judge(head_start + 1.0)) + beside
        seconds = len(kept) * first + later * (np.maximum(windows * step, judge(windows)) + beside)
        return np.asarray(tokens / seconds)

    def _judge(self, *, parallel: bool) -> Callable[[Any], Any]:
        """Seconds of a pass of this kind; where nothing is known of it, the other tells."""
        own, other = self._passes[parallel], self._passes[not parallel]
        return (own if own.known else other).line()
