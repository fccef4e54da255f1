"""The closed forms against other roads to the same numbers.

Three of them: the law of a run summed term by term (written out below), the schedule objects
driven by coins, and the event simulation. And against the numbers that the theory quotes.

Notation: a acceptance rate, g gamma, c speed ratio, k head start, l overhead of a round in passes;
L agreed tokens in a run.
"""
# ruff: noqa: E741 - l is the letter of the notation above

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq

from pearl.analysis import departures, theory
from pearl.analysis.distributions import acceptance_from_distributions, coupled_bound
from pearl.analysis.theory import Assumptions, chain, expected
from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Bursts, Independent, Positions
from pearl.simulator.answers import simulate
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.analysis.forms import pearl, pearl_at, sd, sd_at
from tests.decoding import policies
from tests.decoding.certainty import margin, ratio_margin
from tests.decoding.scripted import run

ALPHAS: Final = (0.0, 0.05, 0.3, 0.5, 0.8, 0.96, 0.995)
GAMMAS: Final = (1, 2, 5, 12)
HEAD_STARTS: Final = (0, 1, 4)
RATIOS: Final = (1.0, 2.5, 5.0)
POINTS: Final = list(itertools.product(ALPHAS, GAMMAS, HEAD_STARTS))
LIMITS: Final = (0.0, 1.0)

rates = st.floats(0.0, 1.0)
windows = st.integers(1, 40)
tally_of = functools.cache(run)


# -- the law of a run, summed ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Law:
    """Lengths L with their chances, and the passes that a schedule makes of each."""

    lengths: NDArray[Any]
    chances: NDArray[Any]
    passes: NDArray[Any]

    def mean(self, values: NDArray[Any]) -> float:
        return float(self.chances @ values)

    @property
    def tokens_per_pass(self) -> float:
        return self.mean(self.lengths + 1) / self.mean(self.passes)


def geometric(a: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """P(L = n) = a^n (1 - a), up to where nothing is left."""
    reach = 2 if a == 0 else math.ceil(-45 / math.log(a))
    lengths = np.arange(reach)
    return lengths, (1 - a) * a**lengths


def pearl_law(a: float, g: int, k: int = 0) -> Law:
    """The first pass settles k + 1 tokens, every later one g more, until the miss is met."""
    lengths, chances = geometric(a)
    return Law(lengths, chances, 1 + np.ceil(np.maximum(lengths - k, 0) / g))


def speculative_law(a: float, g: int) -> Law:
    """A rejection ends it: whole windows are kept with a bonus token each, which no coin decides.

    So L counts kept draft tokens here.
    """
    lengths, chances = geometric(a)
    return Law(lengths, chances, 1 + lengths // g)


def test_tokens_of_a_pass_are_those_of_the_law_of_a_run() -> None:
    for a, g, k in POINTS:
        law, said = pearl_law(a, g, k), pearl(a, g, k=k)

        assert said.tokens_per_pass == pytest.approx(law.tokens_per_pass)
        assert said.emitted_per_run == pytest.approx(law.mean(law.lengths + 1))


def test_speed_waiting_and_waste_are_those_of_the_law_of_a_run() -> None:
    for (a, g, k), c, l in itertools.product(POINTS, RATIOS, (0.0, 0.2)):
        law = pearl_law(a, g, k)
        passes = law.mean(law.passes)
        seconds = k / c + passes * (max(g / c, 1) + l)
        steps = k + g * passes
        said = pearl(a, g, c, k, l)

        assert said.speedup == pytest.approx(law.mean(law.lengths + 1) / seconds)
        assert said.wasted == pytest.approx(1 - law.mean(law.lengths) / steps)
        assert said.draft_idle == pytest.approx(1 - steps / c / seconds, abs=1e-12)
        assert said.target_idle == pytest.approx(1 - passes / seconds, abs=1e-12)


def test_speculative_decoding_is_what_the_law_of_a_run_says() -> None:
    for a, g, c, l in itertools.product(ALPHAS, GAMMAS, RATIOS, (0.0, 0.2)):
        law = speculative_law(a, g)
        passes, kept = law.mean(law.passes), law.mean(law.lengths)
        tokens = kept + passes  # every pass adds one: the replacement or the bonus
        said, seconds = sd(a, g, c, l), passes * (g / c + 1 + l)

        assert said.tokens_per_pass == pytest.approx(tokens / passes)
        assert said.speedup == pytest.approx(tokens / seconds)
        assert said.wasted == pytest.approx(1 - kept / (g * passes))
        assert said.draft_idle == pytest.approx(1 - passes * g / c / seconds)
        assert said.target_idle == pytest.approx(1 - passes / seconds)
        assert said.accepted_per_run == pytest.approx(kept)
        assert said.emitted_per_run == pytest.approx(tokens)
        if a:
            some = law.lengths > 0
            given_some = law.mean(some * (law.lengths + law.passes)) / law.mean(some)
            assert said.emitted_given_preverify == pytest.approx(given_some)


def test_the_chain_of_the_two_phases_gives_the_closed_form() -> None:
    for a, g in itertools.product((*ALPHAS, 1.0), GAMMAS):
        phases = chain(a, g)
        left = a + 1 - a**g

        assert phases.tokens_per_round == pytest.approx(pearl(a, g).tokens_per_pass)
        assert phases.shares @ phases.transition == pytest.approx(phases.shares)
        assert phases.shares[1] == pytest.approx(a / left)


def test_the_wider_law_of_spread_is_that_of_the_runs() -> None:
    """Renewal reward, with the law of a run in place of moments pass by pass."""
    for a, g, k in POINTS:
        law = pearl_law(a, g, k)
        rest = law.lengths + 1 - law.tokens_per_pass * law.passes

        expected = law.mean(rest**2) / law.mean(law.passes)
        assert departures.variance(pearl_at(a, g, k=k)) == pytest.approx(
            expected, rel=1e-6, abs=1e-9
        )


# -- the schedules themselves ----------------------------------------------------------------------


@pytest.mark.parametrize(("a", "g", "k"), [(0.3, 2, 0), (0.8, 5, 0), (0.8, 4, 2), (0.95, 8, 5)])
def test_pearl_driven_by_coins_does_what_theory_says(a: float, g: int, k: int) -> None:
    tokens, passes = tally_of(policies.pearl(g, k), a, passes=20_000).runs()
    said = pearl(a, g, k=k)
    tau = said.tokens_per_pass
    kept = [n for n in tokens if n > 1]
    squares = [(x - tau * y) ** 2 for x, y in zip(tokens, passes, strict=True)]

    passes_per_run = said.emitted_per_run / tau
    assert abs(sum(tokens) / sum(passes) - tau) < ratio_margin(tokens, passes)
    assert abs(statistics.mean(passes) - passes_per_run) < margin(passes)
    assert abs(statistics.mean(tokens) - said.emitted_per_run) < margin(tokens)
    assert abs(statistics.mean(kept) - said.emitted_given_preverify) < margin(kept)
    spread = sum(squares) / sum(passes)
    assert abs(spread - departures.variance(pearl_at(a, g, k=k))) < ratio_margin(squares, passes)


@pytest.mark.parametrize(("a", "g"), [(0.3, 2), (0.8, 5), (0.95, 8)])
def test_speculative_decoding_driven_by_coins_does_what_theory_says(a: float, g: int) -> None:
    tally = tally_of(policies.speculative(g), a, passes=20_000)
    tokens, _ = tally.runs()
    mean = sd(a, g).tokens_per_pass
    squares = [(n - mean) ** 2 for n in tally.tokens]

    assert abs(tally.tokens_per_pass - mean) < margin(tally.tokens)
    assert abs(statistics.mean(tokens) - sd(a, g).emitted_per_run) < margin(tokens)
    assert abs(statistics.mean(squares) - departures.variance(sd_at(a, g))) < margin(squares)


def test_gamma_one_is_autoregressive_decoding() -> None:
    played = run(policies.pearl(1), 0.7, passes=500).tokens

    assert played == run(policies.AUTOREGRESSIVE, 0.7, passes=500).tokens
    assert pearl(np.linspace(0, 1, 101), 1).tokens_per_pass.tolist() == [1.0] * 101
    assert pearl(np.linspace(0, 1, 101), 1, 1).speedup.tolist() == [1.0] * 101


# -- numbers that are quoted -----------------------------------------------------------------------

TABLE: Final = [
    (0.50, 5, 1.319, 1.250, 2, 1.055),
    (0.50, 10, 1.333, 1.458, 2, 0.914),
    (0.80, 5, 2.283, 1.868, 4, 1.223),
    (0.90, 5, 3.127, 2.373, 7, 1.318),
    (0.90, 10, 4.198, 3.431, 10, 1.224),
    (0.96, 5, 4.032, 3.028, 12, 1.332),
    (0.98, 10, 7.865, 5.839, 26, 1.347),
]
"""a, c = g, speed of PEARL, of speculative decoding at its best gamma, that gamma, their ratio."""


@pytest.mark.parametrize(("a", "c", "parallel", "in_turns", "best", "ratio"), TABLE)
def test_every_row_of_the_table_is_met(
    *, a: float, c: int, parallel: float, in_turns: float, best: int, ratio: float
) -> None:
    speed = pearl(a, c, c).speedup
    other = sd(a, best, c).speedup
    found = theory.best_gamma(sd_at(a, c=c))

    assert round(speed, 3) == pytest.approx(parallel)
    assert round(other, 3) == pytest.approx(in_turns)
    assert speed / other == pytest.approx(ratio, abs=6e-4)
    assert sd(a, found, c).speedup == pytest.approx(other, rel=1e-9)
    assert found == (1 if (a, c) == (0.5, 5) else best)  # there gamma 1 and 2 are equally fast


def test_one_trace_has_a_length_in_each_convention() -> None:
    """At a = .96, g = 5: 24, 25 and 4.03; 28.4 for SD, which is a run without its replacement."""
    said, other = pearl(0.96, 5), sd(0.96, 5)

    assert said.accepted_per_run == pytest.approx(24)
    assert said.emitted_per_run == pytest.approx(25)
    assert said.emitted_given_preverify == pytest.approx(26)
    assert round(said.tokens_per_pass, 2) == pytest.approx(4.03)
    assert other.accepted_per_run == pytest.approx(24)
    assert round(other.emitted_per_run - 1, 1) == pytest.approx(28.4)


@pytest.mark.parametrize(("l", "a"), [(0.05, 0.22), (0.1, 0.30), (0.2, 0.41), (0.5, 0.59)])
def test_break_even_is_where_it_is_said_to_be(l: float, a: float) -> None:
    found = brentq(lambda x: pearl(x, 5, 5).break_even_overhead - l, 0, 1)

    assert round(found, 2) == a
    assert pearl(found, 5, 5, 0, l).speedup == pytest.approx(1)


def test_break_even_with_a_head_start_is_where_the_speed_is_that_of_ar() -> None:
    for (a, g, k), c in itertools.product(POINTS, RATIOS):
        l = pearl(a, g, c, k).break_even_overhead
        if l >= 0:
            assert pearl(a, g, c, k, l).speedup == pytest.approx(1)
        else:
            assert pearl(a, g, c, k).speedup < 1


def test_at_a_high_rate_about_half_of_the_drafts_are_wasted() -> None:
    assert [round(w, 2) for w in pearl(0.9, [5, 10]).wasted] == [0.44, 0.62]


def test_pearl_has_fewer_tokens_of_a_pass_than_speculative_decoding() -> None:
    assert round(pearl(0.9, 5).tokens_per_pass, 2) == pytest.approx(3.13)
    assert round(sd(0.9, 5).tokens_per_pass, 2) == pytest.approx(4.69)


@pytest.mark.parametrize(("a", "c"), [(0.5, 7), (0.8, 14)])
def test_pearl_loses_to_speculative_decoding_where_the_draft_is_very_fast(a: float, c: int) -> None:
    def gain(c: int) -> float:
        best = theory.best_gamma(sd_at(a, c=c))
        return float(pearl(a, c, c).speedup / sd(a, best, c).speedup)

    assert [gain(c) >= 1 for c in range(2, c + 6)] == [True] * (c - 2) + [False] * 6


def test_the_gain_over_speculative_decoding_stays_below_1_365() -> None:
    """About 1.35 up to c = 10; it grows a little with c."""
    a, c = np.meshgrid(np.linspace(0.8, 1, 201), np.arange(1, 51))
    best = theory.best_gamma(sd_at(a, c=c))
    gain = pearl(a, c, c).speedup / sd(a, best, c).speedup

    assert 1.345 < gain[c <= 10].max() < 1.355
    assert gain.max() < 1.365


# -- limits ----------------------------------------------------------------------------------------


def test_the_limits_are_exact() -> None:
    """Warnings are errors here, so none of these divides by 0 in silence either."""
    g = np.array([1, 2, 7, 1000])

    assert pearl(0, g).tokens_per_pass.tolist() == [1] * 4
    assert pearl(1, g).tokens_per_pass.tolist() == g.tolist()
    assert sd(0, g).tokens_per_pass.tolist() == [1] * 4
    assert sd(1, g).tokens_per_pass.tolist() == (g + 1).tolist()
    assert sd(LIMITS, 7).wasted.tolist() == [1, 0]
    assert pearl(LIMITS, 7).wasted.tolist() == [1, 0]
    assert pearl(LIMITS, 7).emitted_per_run.tolist() == [1, math.inf]
    assert pearl(LIMITS, 5, 5, 3, 0.5).speedup.tolist() == [1 / 2.1, 5 / 1.5]
    assert [departures.variance(pearl_at(a, 5)) for a in LIMITS] == [0, 0]
    assert [departures.variance(sd_at(a, 5)) for a in LIMITS] == [0, 0]


def test_run_lengths_have_limits_in_every_convention() -> None:
    for said in (pearl(LIMITS, 5), sd(LIMITS, 5)):
        assert said.accepted_per_run.tolist() == [0, math.inf]
        assert said.emitted_per_run.tolist() == [1, math.inf]
        assert said.emitted_given_preverify.tolist() == [2, math.inf]
    assert sd(0, 1).emitted_given_preverify == 3  # with its bonus


@pytest.mark.parametrize("a", [1e-300, 1e-9, 0.5, 0.9, 0.999])
def test_a_window_without_end_yields_the_limit_of_tau(a: float) -> None:
    assert pearl(a, 10**9).tokens_per_pass == pytest.approx(1 / ((1 - a) * (1 + a)))
    assert sd(a, 10**9).tokens_per_pass == pytest.approx(1 / (1 - a))


def test_nothing_is_lost_to_cancellation_next_to_the_limit() -> None:
    a = 1 - 2.0**-50

    assert pearl(a, 7).tokens_per_pass == pytest.approx(7, rel=1e-13)
    assert sd(a, 7).tokens_per_pass == pytest.approx(8, rel=1e-13)


def test_devices_wait_as_the_speed_ratio_says() -> None:
    parallel = pearl(0.7, [2, 5, 10], 5)
    in_turns = sd(0.7, 3, 5)

    assert parallel.draft_idle == pytest.approx([3 / 5, 0, 0])
    assert parallel.target_idle == pytest.approx([0, 0, 1 / 2])
    assert (in_turns.draft_idle, in_turns.target_idle) == pytest.approx((5 / 8, 3 / 8))


def test_numbers_give_numbers_and_arrays_are_broadcast() -> None:
    found = pearl([[0.5], [0.9]], [3, 5, 8], 5).speedup

    assert isinstance(pearl(0.5, 5, 5).speedup, float)
    assert found.shape == (2, 3)
    assert found[1, 1] == pearl(0.9, 5, 5).speedup
    assert theory.best_gamma(pearl_at([[0.5], [0.9]], c=[3, 5, 8])).tolist() == [[3, 5, 8]] * 2


# -- what holds everywhere -------------------------------------------------------------------------


@given(a=rates, c=windows)
def test_pearl_at_the_speed_ratio_is_never_slower_than_ar(a: float, c: int) -> None:
    assert pearl(a, c, c).speedup >= 1 - 1e-12


@given(a=rates, c=windows)
def test_with_its_best_head_start_pearl_never_loses_to_speculative_decoding(
    a: float, c: int
) -> None:
    k, g = theory.best_head_start(pearl_at(a, c, c)), theory.best_gamma(sd_at(a, c=c))
    speed, other = pearl(a, c, c, k).speedup, sd(a, g, c).speedup

    assert speed >= other * (1 - 1e-9)


@given(a=rates, b=rates, g=windows, c=st.floats(0.5, 20))
def test_a_better_draft_is_never_slower(a: float, b: float, g: int, c: float) -> None:
    low, high = min(a, b), max(a, b)

    def grows(form: Callable[[float], float]) -> bool:
        return form(high) >= form(low) - 1e-12 * g

    assert grows(lambda a: pearl(a, g, c).speedup)
    assert grows(lambda a: sd(a, g, c).speedup)
    assert grows(lambda a: pearl(a, g).tokens_per_pass)
    assert grows(lambda a: -pearl(a, g).wasted)
    assert grows(lambda a: -sd(a, g).wasted)


def test_with_a_head_start_a_better_draft_can_have_fewer_tokens_of_a_pass() -> None:
    """It is paid for once a run: with narrow windows it is most of what a short run gains."""
    assert pearl([0.5, 1], 1, k=1).tokens_per_pass == pytest.approx([4 / 3, 1])


@given(a=rates, g=windows, k=st.integers(0, 10), c=st.floats(0.5, 20), l=st.floats(0, 2))
def test_shares_are_shares(a: float, g: int, k: int, c: float, l: float) -> None:
    for said in (pearl(a, g, c, k, l), sd(a, g, c, l)):
        for share in (said.draft_idle, said.target_idle, said.wasted):
            assert -1e-12 <= share <= 1


@given(a=st.floats(0.3, 0.99), c=st.integers(2, 12))
def test_the_best_window_is_the_speed_ratio(a: float, c: int) -> None:
    """Theorem 1 where it is exact; a half more and it is one of the two neighbours."""
    assert theory.best_gamma(pearl_at(a, c=c)) == c
    assert theory.best_gamma(pearl_at(a, c=c + 0.5)) in {c, c + 1}


@given(
    a=rates,
    c=st.floats(0.1, 10),
    k=st.integers(0, 4),
    l=st.floats(0, 2),
    growth=st.floats(0, 1),
    link=st.floats(0, 2),
)
def test_at_its_best_gamma_no_schedule_is_slower_than_ar(
    a: float, c: float, k: int, **costs: float
) -> None:
    """Whatever the draft is like and whatever it costs: a gamma of 0 is AR."""
    for assumed in (sd_at(a, c=c, **costs), pearl_at(a, c=c, k=k, **costs)):
        best = theory.best_gamma(assumed)
        found = expected(dataclasses.replace(assumed, gamma=best))

        assert found.speedup > 1 if best else found.speedup == 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_window_every_schedule_is_ar(schedule: str) -> None:
    """Alone and within an array, with a head start and with costs, which only drafts have."""
    costs = {"overhead": 0.5, "growth": 0.1, "link": 0.3}
    found = expected(Assumptions(schedule, 0.8, [0, 4], 5, head_start=2, **costs))
    alone = expected(Assumptions("ar", 0.8, 1, 5))

    for name in ("tokens_per_pass", "speedup", "draft_idle", "target_idle", "emitted_per_run"):
        assert getattr(found, name)[0] == getattr(alone, name), name
    assert math.isnan(found.wasted[0])
    assert departures.passes_of(Assumptions(schedule, 0.8, 0, 5, head_start=2), 100) == 100


def test_a_draft_that_costs_more_than_it_brings_is_left_out() -> None:
    """One that is as slow as the target, one that is rarely right, one behind slow links."""
    assert theory.best_gamma(sd_at(0.8, c=[1, 5])).tolist() == [0, 4]
    assert theory.best_gamma(pearl_at([0.2, 0.8], c=1.5, growth=0.2)).tolist() == [0, 2]
    assert theory.best_gamma(pearl_at(0.8, c=5, link=[0.2, 3])).tolist() == [4, 0]


def test_an_overhead_takes_the_best_window_above_the_speed_ratio() -> None:
    assert theory.best_gamma(pearl_at(0.98, c=5, k=0, l=[0, 1])).tolist() == [5, 13]


@given(a=st.floats(0.0, 0.98), g=st.integers(1, 12), c=st.floats(1, 15))
def test_the_criterion_finds_the_best_head_start(a: float, g: int, c: float) -> None:
    """For windows above the speed ratio too, with max(g, c) in place of c."""
    fits = theory.head_start_criterion(pearl_at(a, g, c, np.arange(257)))
    first, best = int(fits.argmax()), theory.best_head_start(pearl_at(a, g, c))

    speeds = pearl(a, g, c, np.array([first, best])).speedup
    assert speeds[0] == pytest.approx(speeds[1], rel=1e-11)  # equal choices may differ in k
    assert fits[first:].all()


def test_of_equal_choices_the_smaller_is_taken() -> None:
    assert theory.best_gamma(pearl_at(0, c=5)) == 0  # nothing is ever kept: as fast as AR
    assert theory.best_gamma(sd_at(0.5, c=5)) == 1  # as fast as gamma 2
    assert theory.best_head_start(pearl_at(1, 5, 5)) == 0
    assert theory.best_head_start(pearl_at(0, 5, 5)) == 0


# -- distributions ---------------------------------------------------------------------------------


def test_acceptance_is_what_the_distributions_share() -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    kept = sum(q[i] * min(1, p[i] / q[i]) for i in range(3))  # the rejection rule, token by token

    assert acceptance_from_distributions(p, q) == pytest.approx(kept) == pytest.approx(0.7)
    assert acceptance_from_distributions([p, q], q) == pytest.approx([0.7, 1])
    assert coupled_bound([1, 0], [0, 1]) == 0


def test_where_both_are_uniform_the_coupled_bound_is_attained() -> None:
    """The largest noise is equally often at each token that either has; both take a shared one."""
    for shared, apart in ((1, 1), (2, 1), (5, 3)):
        own, none = np.ones(shared + apart) / (shared + apart), np.zeros(apart)
        p, q = np.append(own, none), np.append(none, own)

        assert coupled_bound(p, q) == pytest.approx(shared / (shared + 2 * apart))


def test_shared_gumbel_noise_agrees_at_least_as_often_as_the_bound() -> None:
    rng = np.random.default_rng(1)
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.3, 0.3, 0.4])
    noise = rng.gumbel(size=(40_000, 3))

    same = (noise + np.log(p)).argmax(axis=1) == (noise + np.log(q)).argmax(axis=1)
    assert same.mean() + margin(same.astype(float).tolist()) > coupled_bound(p, q)


# -- beyond independence ---------------------------------------------------------------------------


def test_equal_rates_uncorrelated_luck_and_equal_prompts_are_independence() -> None:
    for a, g in itertools.product((*ALPHAS, 1.0), GAMMAS):
        in_turns, parallel = (
            sd(a, g).tokens_per_pass,
            pearl(a, g).tokens_per_pass,
        )
        same = departures.mixed_prompts(pearl_at(a, g), [a, a], [1, 2])

        assert departures.tokens_by_position(sd_at(1, g), [a]) == pytest.approx(in_turns)
        assert departures.tokens_by_position(pearl_at(1, g), [a, a]) == pytest.approx(parallel)
        assert departures.tokens_in_bursts(sd_at(a, g), 0) == pytest.approx(in_turns)
        assert departures.tokens_in_bursts(pearl_at(a, g), 0) == pytest.approx(parallel)
        assert same.tokens_per_pass == pytest.approx(parallel)
        assert same.jensen_gap == pytest.approx(0, abs=1e-9)


def simulated(
    schedule: str,
    g: int,
    luck: Independent | Bursts | Positions,
    *,
    tokens: int = 2000,
    times: int = 16,
) -> Any:
    settings = Settings(schedule=schedule, gamma=g, strict=schedule == "pearl")
    scenario = Scenario(
        settings=settings,
        pair=Pair.of(speed_ratio=5),
        acceptance=luck,
        workload=Workload(output=Fixed(tokens)),
    )
    return simulate(scenario, replications=times)


def near(found: Any, expected: float) -> bool:
    """Within three times half the 95 % interval, and what the end of a text may cost."""
    low, high = found.interval
    return bool(abs(found.value - expected) <= 1.5 * (high - low) + 0.002 * expected)


RATES: Final = (0.9, 0.7, 0.5)


@pytest.mark.slow
def test_rates_by_position_give_what_the_simulation_gives() -> None:
    for g in (2, 5):
        parallel = simulated("pearl", g, Positions(RATES)).tokens_per_target_pass
        in_turns = simulated("sd", g, Positions(RATES)).tokens_per_target_pass

        assert near(parallel, departures.tokens_by_position(pearl_at(1, g), RATES))
        assert near(in_turns, departures.tokens_by_position(sd_at(1, g), RATES))


def test_bursts_give_what_the_simulation_gives() -> None:
    a, r, g = 0.8, 0.4, 4
    parallel = simulated("pearl", g, Bursts(a, r)).tokens_per_target_pass
    in_turns = simulated("sd", g, Bursts(a, r)).tokens_per_target_pass

    assert near(parallel, departures.tokens_in_bursts(pearl_at(a, g), r))
    assert near(in_turns, departures.tokens_in_bursts(sd_at(a, g), r))


def test_bursts_have_the_law_of_their_runs() -> None:
    """P(L >= n) = a (1 - r) b^(n - 1), summed."""
    for a, r, g in itertools.product((0.05, 0.5, 0.9), (0.0, 0.3, 0.8), GAMMAS):
        b = a + r * (1 - a)
        n = np.arange(1, 6000)
        least = a * (1 - r) * b ** (n - 1.0)
        tokens = 1 + least.sum()

        passes = 1 + least[::g].sum()
        assert departures.tokens_in_bursts(pearl_at(a, g), r) == pytest.approx(tokens / passes)
        passes = 1 + least[g :: g + 1].sum()
        assert departures.tokens_in_bursts(sd_at(a, g), r) == pytest.approx(tokens / passes)


def test_a_mean_rate_understates_prompts_that_differ() -> None:
    """A text of each kind: their passes add up, and Jensen's gap is what the mean rate misses."""
    found = departures.mixed_prompts(pearl_at(0.5, 10), [0.5, 0.95], [1, 1])
    passes = sum(1 / chain(a, 10).tokens_per_round for a in (0.5, 0.95))

    assert found.tokens_per_pass == pytest.approx(2 / passes)
    assert found.mean_rate == pytest.approx(0.725)
    assert found.at_mean_rate == pytest.approx(pearl(0.725, 10).tokens_per_pass)
    assert found.jensen_gap > 0


# -- texts that end --------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 2, 7, 40])
def test_a_text_that_ends_takes_the_passes_the_simulation_makes(tokens: int) -> None:
    a, g = 0.8, 4
    luck = Independent(a)
    parallel = simulated("pearl", g, luck, tokens=tokens, times=300).target_passes
    in_turns = simulated("sd", g, luck, tokens=tokens, times=300).target_passes

    assert near(parallel, departures.passes_of(pearl_at(a, g), tokens))
    assert near(in_turns, departures.passes_of(sd_at(a, g), tokens))


@pytest.mark.parametrize("g", [1, 3, 5])
def test_a_text_of_certain_luck_takes_a_certain_number_of_passes(g: int) -> None:
    for n, k in itertools.product((5, 17, 100), (0, 2)):
        assert departures.passes_of(pearl_at(0, g, k=k), n) == n
        assert departures.passes_of(pearl_at(1, g, k=k), n) == 1 + math.ceil((n - k - 1) / g)
        assert departures.passes_of(sd_at(0, g), n) == n
        assert departures.passes_of(sd_at(1, g), n) == math.ceil(n / (g + 1))


def test_a_long_text_takes_the_passes_of_one_without_end() -> None:
    """The start and the end cost the same for every long text, so differences tell."""
    for a, g, k in [(0.5, 2, 0), (0.9, 5, 0), (0.9, 5, 3)]:
        further = departures.passes_of(pearl_at(a, g, k=k), 3000) - departures.passes_of(
            pearl_at(a, g, k=k), 2000
        )
        assert 1000 / further == pytest.approx(pearl(a, g, k=k).tokens_per_pass)
        further = departures.passes_of(sd_at(a, g), 3000) - departures.passes_of(sd_at(a, g), 2000)
        assert 1000 / further == pytest.approx(sd(a, g).tokens_per_pass)
    assert departures.passes_of(pearl_at(0.5, 3), 0) == 0


# -- what cannot be --------------------------------------------------------------------------------

REFUSED: Final[dict[str, Callable[[], object]]] = {
    "acceptance is 1.5; it must be from 0 to 1": lambda: pearl(1.5).emitted_per_run,
    "a is nan; it must be from 0 to 1": lambda: chain(math.nan, 5),
    "acceptance is -0.5; it must be from 0 to 1": lambda: pearl([0.5, -0.5], 5).wasted,
    "acceptance is 'high'; it must be from 0 to 1": lambda: pearl("high", 5).tokens_per_pass,
    "gamma is -1; it must be a whole number, 0 or more": lambda: pearl(0.5, -1, 5).speedup,
    "gamma is 2.5; it must be a whole number, 0 or more": lambda: sd(0.5, 2.5).wasted,
    "gamma is inf; it must be a whole number, 0 or more": lambda: pearl(0.5, math.inf),
    "schedule is 'both'; it must be one of ar, sd, pearl": lambda: Assumptions("both", 0.5),
    "speed_ratio is 0; it must be more than 0, from 1e-12 to 1e+12": lambda: sd(0.5, 5, 0),
    "head_start is -1; it must be a whole number, 0 or more": lambda: pearl(0.5, 5, 5, -1).speedup,
    "overhead is -0.1; it must be 0 or more, at most 1e+12":
        lambda: pearl(0.5, 5, 5, 0, -0.1).speedup,
    "widest is 0; it must be a whole number, 1 or more":
        lambda: theory.best_gamma(pearl_at(0.5, c=5), widest=0),
    "correlation is 1; it must be from 0 to below 1":
        lambda: departures.tokens_in_bursts(pearl_at(0.5, 5), 1),
    "rates is []; it must be one rate or more":
        lambda: departures.tokens_by_position(pearl_at(1, 5), []),
    "weights is [1]; it must be one for each of the rates":
        lambda: departures.mixed_prompts(pearl_at(0.5, 5), [0.5, 0.6], [1]),
    "tokens is -1; it must be a whole number, 0 or more":
        lambda: departures.passes_of(pearl_at(0.5, 5), -1),
    "the sum of q is 0.9; it must be 1":
        lambda: acceptance_from_distributions([0.5, 0.5], [0.5, 0.4]),
    "q is over 3 tokens; it must be over 2, as p is":
        lambda: coupled_bound([0.5, 0.5], [0.5, 0.4, 0.1]),
}  # fmt: skip


@pytest.mark.parametrize("complaint", list(REFUSED))
def test_what_makes_no_sense_is_named_with_what_is_allowed(complaint: str) -> None:
    with pytest.raises(SettingError) as refusal:
        REFUSED[complaint]()

    assert str(refusal.value) == complaint
