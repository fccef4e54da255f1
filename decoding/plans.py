"""How many tokens the draft writes before a pass of the target, and how many beside it.

A plan is two numbers a schedule asks for at the start of every job. A fixed plan never changes
them. `gamma="auto"` chooses them from what the schedule has seen: the time of a draft step, the
time of a pass as a function of its tokens, and the acceptance rate.

Notation of `best_gamma` (and of the theory in the literature): a acceptance rate, g window,
t seconds per draft step, T(n) seconds of a pass over n tokens, k head start.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Protocol, final

from decoding.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoding.messages import Judged, Proposed

WIDEST: Final = 32  # gamma auto looks no further
FIRST_GAMMA: Final = 4  # gamma auto before anything was measured
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
        self._gamma = self._best() if self._measured.ready else FIRST_GAMMA
        self._windows = self._passes = 0

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
        if self._windows > 1:
            self._measured.add_window(len(answer.drafted), answer.ended - answer.began)
        if self._measured.ready and self._is_time():
            self._gamma = self._choose()

    def observe_pass(self, answer: Judged) -> None:
        """Learn the time of a pass, which grows with its tokens; the first reads the prompt."""
        self._passes += answer.passes
        if answer.passes and self._passes > 1:
            self._measured.add_pass(answer.judged + 1, answer.ended - answer.began)

    def observe_comparison(self, *, kept: int, rejected: bool) -> None:
        """Learn the acceptance rate."""
        self._measured.add_comparison(kept, rejected=rejected)

    def _is_time(self) -> bool:
        """Often at first, every eighth window later: choosing takes longer than a message."""
        return self._windows % 8 == 0 or self._windows.bit_count() == 1

    def _choose(self) -> int:
        """The best gamma, unless the one in use is within a hundredth of it."""
        speed, best = self._speed(), self._best()
        return best if speed(best) > 1.01 * speed(self._gamma) else self._gamma

    def _best(self) -> int:
        return best_gamma(self._speed(), least=1 if self._parallel else REST)

    def _speed(self) -> Callable[[int], float]:
        return self._measured.speed(parallel=self._parallel, head_start=self._head_start)


@final
class Measured:
    """What plans have seen of two devices, the last hundred or so observations weighing most."""

    FORGET: Final = 0.99

    def __init__(self) -> None:
        self._draft_tokens = self._draft_seconds = 0.0
        # Sums for the line through (tokens, seconds) of the passes: weight, n, n^2, T, n T.
        self._weight = self._n = self._nn = self._t = self._nt = 0.0
        # A prior of five comparisons at 0.8, so that the first verdicts do not decide alone.
        self._kept, self._rejected = 4.0, 1.0

    @property
    def ready(self) -> bool:
        """Whether both devices have been timed, by a clock that moved."""
        return self._draft_tokens * self._weight > 0 and self._draft_seconds + self._t > 0

    @property
    def acceptance(self) -> float:
        """Kept of compared tokens."""
        return self._kept / (self._kept + self._rejected)

    def add_window(self, tokens: int, seconds: float) -> None:
        """The draft wrote `tokens` in `seconds`."""
        self._draft_tokens = self.FORGET * self._draft_tokens + tokens
        self._draft_seconds = self.FORGET * self._draft_seconds + seconds

    def add_pass(self, tokens: int, seconds: float) -> None:
        """The target read `tokens` in `seconds`."""
        self._weight = self.FORGET * self._weight + 1
        self._n = self.FORGET * self._n + tokens
        self._nn = self.FORGET * self._nn + tokens * tokens
        self._t = self.FORGET * self._t + seconds
        self._nt = self.FORGET * self._nt + tokens * seconds

    def add_comparison(self, kept: int, *, rejected: bool) -> None:
        """`kept` tokens agreed, then one did not if `rejected`."""
        if kept == 0 and not rejected:
            return  # nothing was compared, and nothing is forgotten for it
        self._kept = self.FORGET * self._kept + kept
        self._rejected = self.FORGET * self._rejected + rejected

    def speed(self, *, parallel: bool, head_start: int) -> Callable[[int], float]:
        """Tokens per second as a function of gamma."""
        a = min(self.acceptance, 0.999)
        t = self._draft_seconds / self._draft_tokens
        pass_seconds = self._line()
        if parallel:
            return lambda g: pearl_speed(a, g, head_start, t, pass_seconds)
        return lambda g: speculative_speed(a, g, t, pass_seconds)

    def _line(self) -> Callable[[float], float]:
        """Least squares through the passes; flat where they were all of one size."""
        spread = self._weight * self._nn - self._n**2
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        slope = 0.0
        if spread > 1e-9 * self._nn * self._weight:
            slope = max(0.0, (self._weight * self._nt - self._n * self._t) / spread)
        return lambda n: max(mean_t + slope * (n - mean_n), 0.1 * mean_t)


def best_gamma(speed: Callable[[int], float], *, least: int = 1) -> int:
    """The smallest window, from `least` on, with the highest speed."""
    return max(range(least, WIDEST + 1), key=lambda g: (speed(g), -g))


def speculative_speed(a: float, g: int, t: float, pass_seconds: Callable[[float], float]) -> float:
    """Tokens per second of speculative decoding: a round writes g tokens, then judges them.

    Source: Leviathan et al. 2023, arXiv:2211.17192, equation 1 and theorem 3.8, with a pass time
    that depends on the tokens judged.
    """
    return (1 - a ** (g + 1)) / (1 - a) / (g * t + pass_seconds(g + 1))


def pearl_speed(
    a: float, g: int, k: int, t: float, pass_seconds: Callable[[float], float]
) -> float:
    """Tokens per second of PEARL, counted from one rejection to the next.

    Such a run has 1 / (1 - a) tokens: k draft steps of head start, one pass over k + 1 tokens,
    and then a^(k + 1) / (1 - a^g) passes over g, each beside a window of g draft steps.
    """
    first = max(g * t, pass_seconds(k + 1))
    later = max(g * t, pass_seconds(g))
    return 1 / (1 - a) / (k * t + first + a ** (k + 1) / (1 - a**g) * later)
