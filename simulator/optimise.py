"""What suits a pair: the schedule, its gamma, its head start, and how much they matter.

    advice = advise(Independent(0.8), Times(Pair.of(speed_ratio=5)))
    advice.best                 # pearl, gamma 5, head start 1: 2.32 times the speed of AR
    advice.sd.plateau           # windows within a twentieth of the best

Everything here is an expectation under the law of the runs itself (`simulator.twin.exact`), so
nothing is drawn. Where two choices are equally fast the simpler one is taken: the smaller window,
then the smaller head start, then the earlier of AR, SD and PEARL.

Notation: L agreed tokens in a run, g gamma, k head start.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec

from decoding.measured import WIDEST
from decoding.sampling import refuse_unless
from decoding.settings import ScheduleName
from simulator.acceptance import Acceptance, Positions
from simulator.twin import Luck, Scheme, Times, exact, seconds_per_token

MOST_DEVICES: Final = 10**6
PRICES: Final = (1e-9, 1e12)
HEAD_STARTS: Final = range(WIDEST + 1)
WITHIN: Final = 0.05  # of the best speed: the plateau
SAME: Final = 1e-9  # speeds nearer than this share are the same
NEGLIGIBLE: Final = 1e-18  # of all runs: a length that is rarer is left out


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule with its numbers, and how fast it is expected to be."""

    schedule: ScheduleName
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
    """A schedule at its best, and what becomes of it with another gamma."""

    choice: Choice
    plateau: Plateau
    windows: tuple[Window, ...]


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """All that is to be said of a pair.

    Args:
        alpha, speed_ratio: of the pair.
        best: the fastest of all choices.
        ar: the target alone.
        sd, pearl: the two others with their curves; that of PEARL at its best head start.
        pearl_plain: PEARL without a head start, at its own best gamma.
    """

    alpha: float
    speed_ratio: float
    best: Choice
    ar: Choice
    sd: Tuning
    pearl_plain: Choice
    pearl: Tuning

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The best of each schedule, the simplest first."""
        plain = () if self.pearl.choice.head_start == 0 else (self.pearl_plain,)
        return (self.ar, self.sd.choice, *plain, self.pearl.choice)


def advise(acceptance: Acceptance, times: Times) -> Advice:
    """Everything about one pair."""
    ar = best(acceptance, ScheduleName.AR, times)
    sd = tuned(acceptance, best(acceptance, ScheduleName.SD, times), times)
    plain = best(acceptance, ScheduleName.PEARL, times)
    ahead = best(acceptance, ScheduleName.PEARL, times, head_starts=HEAD_STARTS)
    pearl = tuned(acceptance, fastest([plain, ahead]), times)
    return Advice(
        alpha=acceptance.mean,
        speed_ratio=times.speed_ratio,
        best=fastest([ar, sd.choice, plain, pearl.choice]),
        ar=ar,
        sd=sd,
        pearl_plain=plain,
        pearl=pearl,
    )


def fastest(choices: Iterable[Choice]) -> Choice:
    """The fastest, and of equally fast ones the first."""
    first, *others = choices
    return functools.reduce(lambda one, other: other if _beats(other, one) else one, others, first)


def _beats(one: Choice, other: Choice) -> bool:
    return one.tokens_per_s > other.tokens_per_s * (1 + SAME)


def best(
    acceptance: Acceptance,
    schedule: ScheduleName,
    times: Times,
    *,
    head_starts: Sequence[int] = (0,),
) -> Choice:
    """The best gamma from 1 to the widest, and the best of these head starts (PEARL only)."""
    schedule = ScheduleName(schedule)  # programs may say "sd"
    if schedule is ScheduleName.AR:
        return expected(acceptance, Scheme(schedule), times)
    ahead = tuple(head_starts) if schedule is ScheduleName.PEARL else (0,)
    limits = {k: _limit(acceptance, schedule, k, times) for k in ahead}
    found: Choice | None = None
    for gamma in range(1, WIDEST + 1):
        for k in ahead:
            if found is None or limits[k](gamma) > found.tokens_per_s:
                choice = expected(acceptance, Scheme(schedule, gamma, k), times)
                found = choice if found is None else fastest([found, choice])
    assert found is not None, "some head start was given"
    return found


def expected(acceptance: Acceptance, scheme: Scheme, times: Times) -> Choice:
    """How fast a scheme is."""
    seconds = seconds_per_token(law(acceptance, scheme), scheme, times)
    return Choice(
        schedule=scheme.schedule,
        gamma=scheme.gamma,
        head_start=scheme.head_start,
        tokens_per_s=1 / seconds,
        speedup_over_ar=times.alone / seconds,
    )


def law(acceptance: Acceptance, scheme: Scheme) -> Luck:
    """The law of the runs, remembered: but for rates by position it is the same for all schemes."""
    return _law(
        acceptance, scheme if isinstance(acceptance, Positions) else Scheme(ScheduleName.AR)
    )


@functools.lru_cache(maxsize=64)
def _law(acceptance: Acceptance, scheme: Scheme) -> Luck:
    luck = exact(acceptance, scheme)
    if luck.starts is not None:
        return luck
    heard = luck.weights > NEGLIGIBLE * luck.weights.sum()
    return Luck(luck.runs[heard], luck.weights[heard], exact=luck.exact)


def _limit(
    acceptance: Acceptance, schedule: ScheduleName, k: int, times: Times
) -> Callable[[int], float]:
    """A speed that no window of g tokens or more can reach.

    A run takes at least one pass, beside or behind a window of g; with PEARL a run that is longer
    than the head start takes two.
    """
    if isinstance(acceptance, Positions):  # the runs themselves depend on the window
        return lambda _: float("inf")
    runs = law(acceptance, Scheme(ScheduleName.AR))
    total = float(runs.weights.sum())
    tokens = float(runs.weights @ (runs.runs + 1)) / total
    sizes = range(1, max(k, WIDEST) + 2)
    if schedule is ScheduleName.SD:
        shortest = min(map(times.judge, sizes)) + min(times.catching_up, 0.0)
        return lambda g: tokens / (times.write(g) + shortest)
    shortest = min(map(times.least, sizes))
    rounds = 1 + float(runs.weights[runs.runs > k].sum()) / total
    return lambda g: tokens / (times.write(k) + rounds * max(times.write(g), shortest))


# -- how much it matters -----------------------------------------------------------------------


def tuned(acceptance: Acceptance, choice: Choice, times: Times) -> Tuning:
    """A choice with the curve on which it lies."""
    windows = curve(acceptance, choice.schedule, times, head_start=choice.head_start)
    return Tuning(choice=choice, plateau=plateau(windows), windows=windows)


def curve(
    acceptance: Acceptance, schedule: ScheduleName, times: Times, *, head_start: int = 0
) -> tuple[Window, ...]:
    """Speed against gamma, for SD or PEARL."""
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
        devices: all of them; None where nobody counts.
        target_devices, draft_devices: what each model needs. AR and SD run on the target's, with
            the draft beside the target; PEARL needs both.
        target_price, draft_price: of a device and an hour, in any currency.
    """

    devices: int | None = None
    target_devices: int = 1
    draft_devices: int = 1
    target_price: float | None = None
    draft_price: float | None = None

    def __post_init__(self) -> None:
        """Refuse what nobody has."""
        for name in ("devices", "target_devices", "draft_devices"):
            count = getattr(self, name)
            fine = count is None or 1 <= count <= MOST_DEVICES
            refuse_unless(self, name, f"from 1 to {MOST_DEVICES}", fine=fine)
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
    draft = means.draft_devices if choice.schedule is ScheduleName.PEARL else 0
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
