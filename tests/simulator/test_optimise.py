from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.measured import WIDEST
from pearl.simulator.acceptance import Acceptance, Bursts, Independent, Mixture, Positions, Replay
from pearl.simulator.costs import Affine, Constant
from pearl.simulator.links import Link, Network
from pearl.simulator.optimise import (
    HEAD_STARTS,
    Choice,
    Means,
    Window,
    advise,
    best,
    curve,
    expected,
    fastest,
    foremost,
    placed,
    plateau,
)
from pearl.simulator.twin import PairTimes, Scheme, exact, seconds_per_token
from pearl.simulator.world import Pair

AR, SD, PEARL = "ar", "sd", "pearl"

TABLE = [
    # a, c, speed of PEARL at g = c, speed of SD, at its best g
    (0.50, 5, 1.319, 1.250, 1),
    (0.50, 10, 1.333, 1.458, 2),
    (0.80, 5, 2.283, 1.868, 4),
    (0.90, 5, 3.127, 2.373, 7),
    (0.90, 10, 4.198, 3.431, 10),
    (0.96, 5, 4.032, 3.028, 12),
    (0.98, 10, 7.865, 5.839, 26),
]
"""Leviathan et al. 2023, theorem 3.8, for SD; the two-state chain of PEARL's phases for PEARL."""


def times_of(speed_ratio: float) -> PairTimes:
    """The assumption of the closed forms: constant times and no messages."""
    return PairTimes(Pair.of(speed_ratio=speed_ratio))


@pytest.mark.parametrize(("alpha", "ratio", "pearl", "sd", "gamma"), TABLE)
def test_the_best_windows_are_those_of_the_theory(
    alpha: float, ratio: int, pearl: float, sd: float, gamma: int
) -> None:
    alone, together = (best(Independent(alpha), name, times_of(ratio)) for name in (SD, PEARL))

    assert (alone.gamma, together.gamma) == (gamma, ratio)
    assert alone.speedup_over_ar == pytest.approx(sd, abs=5e-4)
    assert together.speedup_over_ar == pytest.approx(pearl, abs=5e-4)


def test_of_two_windows_that_tie_the_smaller_is_taken() -> None:
    """At a = 0.5 and c = 5 one and two tokens ahead are worth exactly the same."""
    one, two = curve(Independent(0.5), SD, times_of(5))[:2]

    assert one.speedup_over_ar == pytest.approx(two.speedup_over_ar, rel=1e-12)
    assert best(Independent(0.5), SD, times_of(5)).gamma == 1


@given(alpha=st.floats(0.45, 0.98), ratio=st.integers(1, 20))
def test_pearl_is_best_with_a_window_as_long_as_a_pass(alpha: float, ratio: int) -> None:
    """The paper's first theorem, where its assumptions hold.

    With lower rates a wide window gains less than what counts as a tie.
    """
    assert best(Independent(alpha), PEARL, times_of(ratio)).gamma == ratio


@given(alpha=st.floats(0.45, 0.98), ratio=st.floats(1.0, 20.0))
def test_between_whole_ratios_the_best_window_is_next_to_the_ratio(
    alpha: float, ratio: float
) -> None:
    found = best(Independent(alpha), PEARL, times_of(ratio)).gamma

    assert found in {math.floor(ratio), math.ceil(ratio)}


def test_the_time_of_messages_makes_the_best_window_wider() -> None:
    """A message for every round is spread over more tokens."""
    far = PairTimes(Pair.of(speed_ratio=5), Network(draft=Link(latency_s=0.01)))

    assert best(Independent(0.9), SD, far).gamma > best(Independent(0.9), SD, times_of(5)).gamma


@given(alpha=st.floats(0.05, 0.98), ratio=st.integers(1, 20))
def test_the_best_head_start_is_the_smallest_that_is_worth_its_steps(
    alpha: float, ratio: int
) -> None:
    """One more token ahead costs a draft step and saves a round with chance (1 - a) a^(k + 1)."""
    acceptance, times = Independent(alpha), times_of(ratio)
    speeds = [expected(acceptance, Scheme(PEARL, ratio, k), times) for k in HEAD_STARTS]
    worth = (
        k
        for k in HEAD_STARTS
        if ratio * (1 - alpha) * alpha ** (k + 1) <= (1 - alpha**ratio) * (1 + 1e-6)
    )

    assert fastest(speeds).head_start == next(worth)


@given(alpha=st.floats(0.05, 0.98), ratio=st.integers(1, 20))
@settings(max_examples=30)
def test_with_its_best_head_start_pearl_never_loses_to_speculative_decoding(
    alpha: float, ratio: int
) -> None:
    advice = advise(Independent(alpha), times_of(ratio))

    assert advice.tunings[PEARL].choice.tokens_per_s >= advice.tunings[SD].choice.tokens_per_s * (
        1 - 1e-9
    )


LUCK = st.one_of(
    st.builds(Independent, st.floats(0.0, 0.99)),
    st.builds(Bursts, st.floats(0.0, 0.98), st.floats(0.0, 0.9)),
    st.builds(Positions, st.tuples(st.floats(0.1, 0.95), st.floats(0.1, 0.95))),
    st.just(Mixture((0.5, 0.9), (1.0, 2.0))),
    st.just(Replay(("1101110", "1111111111011"))),
)


@st.composite
def machines(draw: st.DrawFn) -> PairTimes:
    """Passes that grow or do not, messages that take time or do not."""
    draft = Constant(1 / draw(st.floats(0.5, 40.0)))
    target = Affine(base=1.0, per_token=draw(st.sampled_from((0.0, 0.05))))
    link, control = draw(st.sampled_from((0.0, 0.3))), draw(st.sampled_from((0.0, 0.1)))
    foresight = draw(st.booleans())
    network = Network(draft=Link(latency_s=link), control_s=control, foresight=foresight)
    return PairTimes(Pair(draft=draft, target=target), network)


@given(
    acceptance=LUCK,
    schedule=st.sampled_from((SD, PEARL)),
    times=machines(),
    head_starts=st.sampled_from(((0,), (0, 3, 7))),
)
@settings(max_examples=60)
def test_the_search_misses_nothing(
    acceptance: Acceptance, schedule: str, times: PairTimes, head_starts: tuple[int, ...]
) -> None:
    """It leaves out what cannot win; here everything is tried, by the twin itself."""
    ahead = head_starts if schedule == PEARL else (0,)
    schemes = [Scheme(schedule, g, k) for g in range(1, WIDEST + 1) for k in ahead]
    shortest = min(seconds_per_token(exact(acceptance, s), s, times) for s in schemes)

    found = best(acceptance, schedule, times, head_starts=head_starts)

    assert 1 / found.tokens_per_s == pytest.approx(shortest, rel=1e-8)


def test_what_is_worth_the_same_is_done_in_the_simplest_way() -> None:
    """A draft that is never right costs PEARL nothing, and still it is AR that is advised."""
    advice = advise(Independent(0.0), times_of(5))

    assert advice.tunings[PEARL].choice.speedup_over_ar == pytest.approx(1.0)
    assert (advice.tunings[PEARL].choice.gamma, advice.tunings[PEARL].choice.head_start) == (1, 0)
    assert advice.best == advice.tunings[AR].choice


def test_a_draft_that_is_always_right_is_no_special_case() -> None:
    advice = advise(Independent(1.0), times_of(5))

    assert advice.tunings[PEARL].choice.speedup_over_ar == pytest.approx(5.0, rel=1e-4)
    assert advice.tunings[SD].choice.gamma == WIDEST


def test_pearl_is_named_once_where_no_head_start_helps() -> None:
    """With a ratio of 1 a token ahead takes as long as the pass it may save."""
    plain, ahead = (advise(Independent(0.5), times_of(ratio)).choices for ratio in (1, 5))

    assert [choice.schedule for choice in plain] == [AR, SD, PEARL]
    assert [choice.head_start for choice in ahead] == [0, 0, 0, 1]


def test_a_wrong_gamma_costs_its_share_of_the_best_speed() -> None:
    windows = curve(Independent(0.8), PEARL, times_of(5))
    top = windows[4]

    assert top.loss == 0
    assert [w.gamma for w in windows] == list(range(1, WIDEST + 1))
    for window in windows:
        assert window.speedup_over_ar == pytest.approx((1 - window.loss) * top.speedup_over_ar)


def test_a_plateau_ends_where_too_much_is_lost() -> None:
    """A window beyond a valley is as good as those of the plateau, but it is not part of it."""
    losses = (0.30, 0.05, 0.01, 0.0, 0.04, 0.06, 0.02)
    windows = [
        Window(gamma=gamma, tokens_per_s=1 - loss, speedup_over_ar=1 - loss, loss=loss)
        for gamma, loss in enumerate(losses, 1)
    ]

    found = plateau(windows)

    assert (found.first, found.last) == (2, 5)
    assert (plateau(windows, within=0.5).first, plateau(windows, within=0.5).last) == (1, 7)


# -- devices -----------------------------------------------------------------------------------


def choice_of(schedule: str, speedup: float) -> Choice:
    """At ten tokens a second for the target alone."""
    gamma = 0 if schedule == AR else 5
    return Choice(
        schedule=schedule,
        gamma=gamma,
        head_start=0,
        tokens_per_s=10 * speedup,
        speedup_over_ar=speedup,
    )


def test_speed_is_divided_by_the_devices_that_a_schedule_takes() -> None:
    """The draft of SD sits beside the target; that of PEARL has devices of its own."""
    means = Means(target_devices=4, draft_devices=1)
    placements = [placed(choice_of(name, 2.0), means) for name in SCHEDULES]

    assert [p.devices for p in placements] == [4, 4, 5]
    assert [p.speedup_per_device for p in placements] == [0.5, 0.5, 0.4]
    assert [p.copies for p in placements] == [None, None, None]


def test_as_many_copies_run_as_fit() -> None:
    means = Means(devices=7, target_devices=2, draft_devices=1)
    sd, pearl = (placed(choice_of(name, 2.0), means) for name in (SD, PEARL))

    assert (sd.copies, sd.total_tokens_per_s) == (3, 60.0)
    assert (pearl.copies, pearl.total_tokens_per_s) == (2, 40.0)


def test_the_fastest_is_chosen_from_what_fits() -> None:
    choices = [choice_of(AR, 1.0), choice_of(SD, 2.0), choice_of(PEARL, 3.0)]

    for devices, wanted in ((1, SD), (2, PEARL)):
        placements = [placed(choice, Means(devices=devices)) for choice in choices]
        assert foremost(placements).choice.schedule == wanted


def test_a_price_counts_every_device_by_the_hour() -> None:
    means = Means(target_devices=2, draft_devices=1, target_price=3.0, draft_price=1.0)

    pearl = placed(choice_of(PEARL, 2.0), means)

    assert pearl.price_per_hour == 7.0
    assert pearl.tokens_per_price == pytest.approx(20 * 3600 / 7)


def test_a_draft_without_a_price_costs_what_the_target_does() -> None:
    means = Means(target_devices=2, draft_devices=1, target_price=3.0)

    assert placed(choice_of(PEARL, 2.0), means).price_per_hour == 9.0
    assert placed(choice_of(PEARL, 2.0), Means()).price_per_hour is None
