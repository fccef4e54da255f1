"""What suits a pair: the schedule, its gamma, its head start, and how much they matter.

    advice = advise(Independent(0.8), PairTimes(Pair.of(speed_ratio=5)))
    advice.best                     # pearl, gamma 5, head start 1: 2.32 times the speed of AR
    advice.tunings["sd"].plateau    # windows within a twentieth of the best

Everything here is an expectation under the law of the runs itself (`pearl.simulator.twin.exact`),
so nothing is drawn. Where two choices are equally fast the simpler one is taken: the smaller
window, then the smaller head start, then the schedule that comes first in its table (AR, SD,
PEARL).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec

from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.measured import WIDEST
from pearl.decoding.sampling import refuse_unless
from pearl.simulator.acceptance import Acceptance, Positions
from pearl.simulator.twin import ALONE, PairTimes, Scheme, exact, sampled, seconds_per_token

MOST_DEVICES: Final = 10**6
PRICES: Final = (1e-9, 1e12)
HEAD_STARTS: Final = range(WIDEST + 1)
WITHIN: Final = 0.05  # of the best speed: the plateau
SAME: Final = 1e-9  # speeds nearer than this share are the same


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule with its numbers, and how fast it is expected to be."""

    schedule: str
    gamma: int
    head_start: int
    tokens_per_s: float
    speedup_over_ar: float


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One point of a curve; `loss` is the share of the best window's speed that is lost."""

    gamma: int
    tokens_per_s: float
    speedup_over_ar: float
    loss: float


class Plateau(msgspec.Struct, frozen=True, kw_only=True):
    """The windows around the best one whose loss is at most `within`, both ends included."""

    first: int
    last: int
    within: float


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule at its best, and what becomes of it with another gamma.

    Args:
        choice: the best of all.
        plain: the best without a head start, often the same.
        plateau, windows: with the head start of `choice`; none without a draft.
    """

    choice: Choice
    plain: Choice
    plateau: Plateau | None = None
    windows: tuple[Window, ...] = ()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The simpler first."""
        return tuple(dict.fromkeys((self.plain, self.choice)))


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """All that is to be said of a pair.

    Args:
        alpha, speed_ratio: of the pair.
        best: the fastest of all choices.
        tunings: each schedule at its best, by its name.
    """

    alpha: float
    speed_ratio: float
    best: Choice
    tunings: dict[str, Tuning]

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The best of each schedule, the simplest first."""
        return _choices(self.tunings)


def _choices(tunings: Mapping[str, Tuning]) -> tuple[Choice, ...]:
    return tuple(choice for tuning in tunings.values() for choice in tuning.choices)


def advise(acceptance: Acceptance, times: PairTimes) -> Advice:
    """Everything about one pair."""
    tunings = {name: tuned(acceptance, name, times) for name in SCHEDULES}
    return Advice(
        alpha=acceptance.mean,
        speed_ratio=times.speed_ratio,
        best=fastest(_choices(tunings)),
        tunings=tunings,
    )


def fastest(choices: Iterable[Choice]) -> Choice:
    """The fastest, and of equally fast ones the first."""
    first, *others = choices
    return functools.reduce(lambda one, other: other if _beats(other, one) else one, others, first)


def _beats(one: Choice, other: Choice) -> bool:
    return one.tokens_per_s > other.tokens_per_s * (1 + SAME)


def best(
    acceptance: Acceptance,
    schedule: str,
    times: PairTimes,
    *,
    head_starts: Sequence[int] = (0,),
) -> Choice:
    """The best gamma from 1 to the widest, and the best of these head starts if it takes one."""
    kind = SCHEDULES[schedule]
    if not kind.drafts:
        return expected(acceptance, Scheme(schedule), times)
    ahead = tuple(head_starts) if kind.takes("head_start") else (0,)
    limit = _limit(acceptance, times, max(*ahead, WIDEST) + 1)
    found: Choice | None = None
    for scheme in _schemes(schedule, ahead):
        if found is None or limit(scheme) > found.tokens_per_s:
            choice = expected(acceptance, scheme, times)
            found = choice if found is None else fastest([found, choice])
    assert found is not None, "some head start was given"
    return found


@functools.lru_cache(maxsize=16)
def _schemes(schedule: str, head_starts: tuple[int, ...]) -> tuple[Scheme, ...]:
    """All that are tried, the simplest first."""
    gammas = range(1, WIDEST + 1)
    return tuple(Scheme(schedule, gamma, k) for gamma in gammas for k in head_starts)


def expected(acceptance: Acceptance, scheme: Scheme, times: PairTimes) -> Choice:
    """How fast a scheme is."""
    seconds = seconds_per_token(sampled(acceptance, scheme, runs=0), scheme, times)
    return Choice(
        schedule=scheme.schedule,
        gamma=scheme.gamma,
        head_start=scheme.head_start,
        tokens_per_s=1 / seconds,
        speedup_over_ar=times.alone / seconds,
    )


def _limit(acceptance: Acceptance, times: PairTimes, most: int) -> Callable[[Scheme], float]:
    """A speed that a scheme cannot exceed, for passes over so many tokens at most.

    A run takes at least one pass, and where windows are written beside passes, one that is longer
    than what was written before takes two.
    """
    if isinstance(acceptance, Positions):  # the runs themselves depend on the window
        return lambda _: float("inf")
    law = exact(acceptance, ALONE)
    total = float(law.weights.sum())
    tokens = float(law.weights @ (law.runs + 1)) / total
    shortest = min(map(times.judge, range(1, most + 1)))

    @functools.cache
    def longer(before: int) -> float:
        return float(law.weights[law.runs > before].sum()) / total

    def limit(scheme: Scheme) -> float:
        before, beside = scheme.numbers
        if not beside:
            return tokens / (times.write(before) + shortest + min(times.catching_up, 0.0))
        round_ = max(times.write(beside), shortest - times.most_lead)
        return tokens / (times.write(before) + (1 + longer(before)) * round_)

    return limit


# -- how much it matters -----------------------------------------------------------------------


def tuned(acceptance: Acceptance, schedule: str, times: PairTimes) -> Tuning:
    """A schedule at its best, with the curve on which that lies."""
    kind = SCHEDULES[schedule]
    plain = best(acceptance, schedule, times)
    if not kind.drafts:
        return Tuning(choice=plain, plain=plain)
    ahead = HEAD_STARTS if kind.takes("head_start") else (0,)
    choice = fastest([plain, best(acceptance, schedule, times, head_starts=ahead)])
    windows = curve(acceptance, schedule, times, head_start=choice.head_start)
    return Tuning(choice=choice, plain=plain, plateau=plateau(windows), windows=windows)


def curve(
    acceptance: Acceptance, schedule: str, times: PairTimes, *, head_start: int = 0
) -> tuple[Window, ...]:
    """Speed against gamma, for a schedule with a draft."""
    schemes = [Scheme(schedule, gamma, head_start) for gamma in range(1, WIDEST + 1)]
    choices = [expected(acceptance, scheme, times) for scheme in schemes]
    top = fastest(choices).tokens_per_s
    return tuple(
        Window(
            gamma=choice.gamma,
            tokens_per_s=choice.tokens_per_s,
            speedup_over_ar=choice.speedup_over_ar,
            loss=max(0.0, 1 - choice.tokens_per_s / top),
        )
        for choice in choices
    )


def plateau(windows: Sequence[Window], within: float = WITHIN) -> Plateau:
    """Where gamma hardly matters."""
    fine = [window.loss <= within + SAME for window in windows]
    first = last = min(range(len(windows)), key=lambda place: windows[place].loss)
    while first > 0 and fine[first - 1]:
        first -= 1
    while last < len(windows) - 1 and fine[last + 1]:
        last += 1
    return Plateau(first=windows[first].gamma, last=windows[last].gamma, within=within)


# -- what it takes -----------------------------------------------------------------------------


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to run on.

    Args:
        devices: all of them; None where they are not limited.
        target_devices, draft_devices: what each model needs. A schedule whose windows are written
            beside the passes (PEARL) needs both; all others run on the target's, with the draft
            beside the target.
        target_price, draft_price: of a device and an hour, in any currency.
    """

    devices: int | None = None
    target_devices: int = 1
    draft_devices: int = 1
    target_price: float | None = None
    draft_price: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no machine has."""
        for name in ("devices", "target_devices", "draft_devices"):
            count = getattr(self, name)
            fine = count is None or 1 <= count <= MOST_DEVICES
            refuse_unless(self, name, f"1 or more, at most {MOST_DEVICES}", fine=fine)
        for name in ("target_price", "draft_price"):
            price = getattr(self, name)
            fine = price is None or PRICES[0] <= price <= PRICES[1]
            allowed = f"more than 0, from {PRICES[0]:g} to {PRICES[1]:g}"
            refuse_unless(self, name, allowed, fine=fine)


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """A choice on its devices.

    Args:
        devices: that one copy takes.
        fits: whether there are so many.
        speedup_per_device: speed over AR, divided by `devices`.
        copies: that fit at once.
        total_tokens_per_s: of all these copies.
        price_per_hour: of one copy.
        tokens_per_price: for one unit of the currency.
    """

    choice: Choice
    devices: int
    fits: bool
    speedup_per_device: float
    copies: int | None
    total_tokens_per_s: float | None
    price_per_hour: float | None
    tokens_per_price: float | None


def placed(choice: Choice, means: Means) -> Placement:
    """What a choice takes and gives on these devices."""
    draft = means.draft_devices if SCHEDULES[choice.schedule].parallel else 0
    devices = means.target_devices + draft
    copies = None if means.devices is None else means.devices // devices
    price = _price(means, draft)
    return Placement(
        choice=choice,
        devices=devices,
        fits=copies is None or copies > 0,
        speedup_per_device=choice.speedup_over_ar / devices,
        copies=copies,
        total_tokens_per_s=None if copies is None else copies * choice.tokens_per_s,
        price_per_hour=price,
        tokens_per_price=None if price is None else choice.tokens_per_s * 3600 / price,
    )


def foremost(placements: Sequence[Placement]) -> Placement:
    """The fastest of those that fit, AR among them."""
    fitting = {placement.choice: placement for placement in placements if placement.fits}
    return fitting[fastest(fitting)]


def _price(means: Means, draft_devices: int) -> float | None:
    """Of an hour; the draft's devices cost what the target's do unless something else is said."""
    if means.target_price is None:
        return None
    each = means.target_price if means.draft_price is None else means.draft_price
    return means.target_devices * means.target_price + draft_devices * each
