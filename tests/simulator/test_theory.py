"""The simulator against the closed forms of the theory, which are written out here once more.

Three ways: the twin's exact laws, the twin with luck drawn, and the simulation event by event.

Notation: a acceptance rate, g gamma, c speed ratio (a pass over a draft step), k head start,
lag l: what messages take there and back, in passes. Seconds are in passes, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import pytest

from pearl.decoding.estimates import Estimate
from pearl.decoding.settings import Settings
from pearl.simulator import twin
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run, simulate
from pearl.simulator.twin import PairTimes, Scheme
from pearl.simulator.world import Pair, Run, Scenario
from tests.simulator.measuring import (
    AR,
    PASS_S,
    Runs,
    committed,
    delayed,
    one,
    pearl,
    require_equal,
    runs_of,
    sd,
)

Law: TypeAlias = Callable[[float, int, float, int, float], "Form"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What theory says of a schedule: passes, steps and seconds of a run, and its tokens."""

    tokens: float
    kept: float
    passes: float
    steps: float
    seconds: float
    writing: float

    @property
    def draft_idle(self) -> float:
        return 1 - self.writing / self.seconds

    @property
    def target_idle(self) -> float:
        return 1 - self.passes / self.seconds

    @property
    def wasted(self) -> float:
        return 1 - self.kept / self.steps


def speculative_form(a: float, g: int, c: float, lag: float) -> Form:
    """A pass yields (1 - a^(g + 1)) / (1 - a) tokens; a share 1 - a^g of them ends a run."""
    passes = 1 / (1 - a**g)
    return Form(
        tokens=passes * (1 - a ** (g + 1)) / (1 - a),
        kept=a / (1 - a),
        passes=passes,
        steps=g * passes,
        # The window and the pass each travel there and back.
        seconds=passes * (g / c + 1 + 2 * lag),
        writing=passes * g / c,
    )


def pearl_form(a: float, g: int, c: float, k: int, lag: float) -> Form:
    """1 / (1 - a) tokens in 1 + a^(k + 1) / (1 - a^g) passes, and k steps before them."""
    passes = 1 + a ** (k + 1) / (1 - a**g)
    steps = k + g * passes
    ahead = k / c + lag if k else 0.0
    return Form(
        tokens=1 / (1 - a),
        kept=a / (1 - a),
        passes=passes,
        steps=steps,
        seconds=ahead + passes * (max(g / c, 1) + lag),
        writing=steps / c,
    )


def tau(a: float, g: int) -> float:
    """Tokens per target pass of PEARL, from the chain of its two phases."""
    return (1 - a**g) / ((1 - a) * (1 + a - a**g))


def times(c: float, lag: float = 0.0) -> PairTimes:
    return PairTimes(Pair.of(c, PASS_S), delayed(lag))


def exactly(scheme: Scheme, a: float, c: float, lag: float = 0.0) -> twin.Point:
    luck = twin.exact(Independent(a), scheme)
    return twin.figures(luck, scheme, times(c, lag), alpha=a)


def require_form(point: twin.Point, form: Form, lag: float, check: Callable[..., None]) -> None:
    """All figures of the twin; its baseline, the target alone, pays for its messages as well."""
    pairs = {
        "tokens_per_target_pass": form.tokens / form.passes,
        "speedup_over_ar": form.tokens * (1 + lag) / form.seconds,
        "tokens_per_s": form.tokens / (form.seconds * PASS_S),
        "draft_idle": form.draft_idle,
        "target_idle": form.target_idle,
        "wasted": form.wasted,
        "accepted": form.kept,
        "emitted": form.tokens,
        "acceptance_rate": form.kept / (form.kept + 1),
    }
    for name, expected in pairs.items():
        check(getattr(point, name), expected)


# -- the twin --------------------------------------------------------------------------------------

ALPHAS: Final = (0.05, 0.3, 0.5, 0.8, 0.9, 0.96, 0.99)
GAMMAS: Final = (1, 2, 4, 5, 7, 12)
RATIOS: Final = (1.0, 2.5, 5.0, 8.3)
OVERHEADS: Final = (0.0, 0.2)
POINTS: Final = list(itertools.product(ALPHAS, GAMMAS, RATIOS, OVERHEADS))
RUNS: Final = 2_000  # of each point: there are many, and the exact law is held against them all


def _exact(found: Estimate, expected: float) -> None:
    assert found.interval is None
    assert found.value == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_the_exact_law_of_speculative_decoding_is_the_closed_form() -> None:
    for a, g, c, lag in POINTS:
        point = exactly(Scheme("sd", g), a, c, lag)

        require_form(point, speculative_form(a, g, c, lag), lag, _exact)


@pytest.mark.parametrize("k", [0, 1, 3, 8])
def test_the_exact_law_of_pearl_is_the_closed_form(k: int) -> None:
    for a, g, c, lag in POINTS:
        point = exactly(Scheme("pearl", g, k), a, c, lag)

        require_form(point, pearl_form(a, g, c, k, lag), lag, _exact)


def test_pearl_without_a_head_start_yields_tau_tokens_per_pass() -> None:
    """The run form above and the chain of the two phases are the same law."""
    for a, g in itertools.product(ALPHAS, GAMMAS):
        point = exactly(Scheme("pearl", g), a, 5.0)

        _exact(point.tokens_per_target_pass, tau(a, g))
        _exact(point.wasted, 1 - a * tau(a, g) / g)


def test_a_window_without_end_yields_the_limit_of_tau() -> None:
    """In the limit of g, tau is 1 / (1 - a^2)."""
    point = exactly(Scheme("pearl", 3000), 0.9, 5.0)

    _exact(point.tokens_per_target_pass, 1 / (1 - 0.9**2))


@pytest.mark.parametrize(
    ("a", "c", "parallel", "in_turns", "best"),
    [
        (0.50, 5, 1.319, 1.250, 2),
        (0.50, 10, 1.333, 1.458, 2),
        (0.80, 5, 2.283, 1.868, 4),
        (0.90, 5, 3.127, 2.373, 7),
        (0.90, 10, 4.198, 3.431, 10),
        (0.96, 5, 4.032, 3.028, 12),
        (0.98, 10, 7.865, 5.839, 26),
    ],
)
def test_the_exact_law_gives_the_table_of_the_theory(
    a: float, c: int, parallel: float, in_turns: float, best: int
) -> None:
    """PEARL at g = c against speculative decoding at its own best window."""
    speeds = [float(exactly(Scheme("sd", g), a, c).speedup_over_ar) for g in range(1, 40)]
    speed = float(exactly(Scheme("pearl", c), a, c).speedup_over_ar)

    assert round(speed, 3) == parallel
    assert round(max(speeds), 3) == in_turns
    assert speeds[best - 1] == pytest.approx(max(speeds))


@pytest.mark.parametrize("c", [1, 3, 6, 10])
def test_the_best_window_of_pearl_is_the_speed_ratio(c: int) -> None:
    """Theorem 1 of the paper, where it is exact: whole c, no overhead, flat passes."""
    for a in ALPHAS:
        speeds = [float(exactly(Scheme("pearl", g), a, c).tokens_per_s) for g in range(1, 25)]

        assert speeds.index(max(speeds)) == c - 1


def test_the_twin_with_luck_drawn_meets_the_closed_forms() -> None:
    for a, g, c, lag in POINTS[::9]:
        for k in (0, 2):
            scheme = Scheme("pearl", g, k)
            point = twin.answer(Independent(a), scheme, times(c, lag), runs=RUNS)
            require_form(point, pearl_form(a, g, c, k, lag), lag, _within_chance)
        point = twin.answer(Independent(a), Scheme("sd", g), times(c, lag), runs=RUNS)
        require_form(point, speculative_form(a, g, c, lag), lag, _within_chance)


def _within_chance(found: Estimate, expected: float) -> None:
    require_equal(found, expected, slack=1e-9)


def test_the_target_alone_makes_a_pass_a_token_in_the_twin() -> None:
    point = exactly(Scheme("ar"), 0.7, 5.0, 0.25)

    assert point.tokens_per_target_pass == Estimate(1.0)
    assert point.speedup_over_ar == Estimate(1.0)
    assert point.draft_idle == Estimate(1.0)
    _exact(point.target_idle, 0.25 / 1.25)


# -- event by event --------------------------------------------------------------------------------

PLACES: Final = [
    (0.3, 2, 5.0, 0.0),
    (0.3, 5, 5.0, 0.3),
    (0.8, 3, 4.5, 0.0),
    (0.8, 5, 5.0, 0.0),
    (0.8, 8, 5.0, 0.1),
    (0.95, 5, 2.5, 0.0),
    (0.95, 10, 8.0, 0.2),
]
"""a, g, c, l: windows below, at and above the speed ratio."""


def require_runs(runs: Runs, form: Form) -> None:
    """Every figure of the theory, measured run by run."""
    runs.require_mean("tokens", form.tokens)
    runs.require_mean("kept", form.kept)
    runs.require_ratio("tokens", "passes", form.tokens / form.passes)
    runs.require_ratio("seconds", "tokens", form.seconds * PASS_S / form.tokens)
    runs.require_ratio("writing", "seconds", 1 - form.draft_idle)
    runs.require_ratio("working", "seconds", 1 - form.target_idle)
    runs.require_ratio("kept", "steps", 1 - form.wasted)


@pytest.mark.parametrize(("a", "g", "c", "lag"), PLACES)
def test_simulated_speculative_decoding_meets_the_closed_forms(
    a: float,
    g: int,
    c: float,
    lag: float,
) -> None:
    runs = runs_of(sd(g), Independent(a), speed_ratio=c, overhead=lag)

    require_runs(runs, speculative_form(a, g, c, lag))


@pytest.mark.parametrize(("a", "g", "c", "lag"), PLACES)
def test_simulated_pearl_meets_the_closed_forms(
    a: float,
    g: int,
    c: float,
    lag: float,
) -> None:
    runs = runs_of(pearl(g), Independent(a), speed_ratio=c, overhead=lag)

    require_runs(runs, pearl_form(a, g, c, 0, lag))
    runs.require_ratio("tokens", "passes", tau(a, g))


@pytest.mark.parametrize(("a", "g", "c", "lag"), [PLACES[i] for i in (1, 3, 6)])
@pytest.mark.parametrize("k", [1, 4])
def test_simulated_pearl_with_a_head_start_meets_the_closed_forms(
    a: float,
    g: int,
    c: float,
    lag: float,
    k: int,
) -> None:
    runs = runs_of(pearl(g, k), Independent(a), speed_ratio=c, overhead=lag)

    require_runs(runs, pearl_form(a, g, c, k, lag))


@pytest.mark.parametrize(("a", "g"), [(0.5, 4), (0.9, 5)])
def test_the_paper_counts_runs_in_which_the_first_token_was_kept(a: float, g: int) -> None:
    """Theorem 2: 1 / (1 - a) + 1 given that pre-verify accepted; 1 / (1 - a) without."""
    runs = runs_of(pearl(g), Independent(a), speed_ratio=5.0)

    runs.require_mean("tokens", 1 / (1 - a))
    runs.where_anything_was_kept().require_mean("tokens", 1 / (1 - a) + 1)


@pytest.mark.slow
def test_an_answer_says_what_its_runs_say() -> None:
    """The conventions of run length, and the shares, from sums over all replications."""
    a, g, c = 0.8, 4, 5.0
    form = pearl_form(a, g, c, 0, 0.0)
    scenario = Scenario(
        settings=pearl(g), pair=Pair.of(c), acceptance=Independent(a), workload=one(1000)
    )
    answer = simulate(scenario, replications=60)

    lengths = answer.run_length
    edge = 0.01  # the text ends within a run
    require_equal(lengths.accepted, a / (1 - a), edge * form.kept)
    require_equal(lengths.emitted, 1 / (1 - a), edge * form.tokens)
    require_equal(lengths.emitted_given_preverify, 1 / (1 - a) + 1, edge * form.tokens)
    require_equal(lengths.per_verify_step, tau(a, g), edge * tau(a, g))
    require_equal(answer.tokens_per_target_pass, tau(a, g), edge * tau(a, g))
    require_equal(answer.speedup_over_ar, tau(a, g), edge * tau(a, g))
    require_equal(answer.acceptance_rate, a, edge)
    require_equal(answer.draft_idle, 1 - g / c, edge)
    require_equal(answer.target_idle, 0.0, 1e-9)
    require_equal(answer.wasted, 1 - a * tau(a, g) / g, edge)


# -- where nothing is left to chance ---------------------------------------------------------------

TOKENS: Final = 203


def certain(settings: Settings, a: float, c: float = 8.0, lag: float = 0.0) -> Run:
    """A run at a rate of 0 or 1; times are binary fractions, so that sums are exact."""
    scenario = Scenario(
        settings=settings,
        pair=Pair.of(c, PASS_S),
        acceptance=Independent(a),
        network=delayed(lag),
        workload=one(TOKENS),
    )
    return run(scenario, trace=True)


@pytest.mark.parametrize("a", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("lag", [0.0, 0.25])
def test_pearl_with_windows_of_one_token_is_autoregressive_decoding(
    a: float,
    lag: float,
) -> None:
    """Its window is the token that the target gives anyway: the same passes, the same seconds."""
    alone, together = certain(AR, a, lag=lag), certain(pearl(1), a, lag=lag)

    assert together.served[0].metrics.target_passes == TOKENS
    assert together.seconds == alone.seconds == TOKENS * PASS_S * (1 + lag)
    assert committed(together) == committed(alone)


@pytest.mark.parametrize("g", [1, 2, 5, 8])
def test_a_draft_that_is_always_wrong_costs_pearl_no_time(g: int) -> None:
    """At a = 0 and g <= c: a pass a token; the last token is never written by the draft."""
    played = certain(pearl(g), 0.0)

    metrics = played.served[0].metrics
    assert metrics.target_passes == TOKENS
    assert played.seconds == TOKENS * PASS_S
    assert (metrics.kept, metrics.rejections) == (0, TOKENS - 1)
    assert metrics.draft_steps == sum(min(g, room) for room in range(TOKENS))


@pytest.mark.parametrize("g", [1, 2, 5, 8])
def test_a_draft_that_is_always_wrong_costs_speculative_decoding_its_windows(g: int) -> None:
    played = certain(sd(g), 0.0)

    metrics = played.served[0].metrics
    steps = sum(min(g, room) for room in range(TOKENS))
    assert metrics.target_passes == TOKENS
    assert (metrics.kept, metrics.rejections, metrics.draft_steps) == (0, TOKENS - 1, steps)
    assert played.seconds == TOKENS * PASS_S + steps * PASS_S / 8


@pytest.mark.parametrize("g", [1, 2, 5, 8])
@pytest.mark.parametrize("k", [0, 3])
def test_a_draft_that_is_always_right_fills_every_pass_of_pearl(g: int, k: int) -> None:
    """At a = 1: k + 1 tokens with the first pass, g with every later one."""
    played = certain(pearl(g, k), 1.0)

    metrics = played.served[0].metrics
    passes = 1 + math.ceil((TOKENS - k - 1) / g)
    assert metrics.target_passes == passes
    assert played.seconds == (k / 8 + passes) * PASS_S
    assert metrics.rejections == 0
    assert metrics.acceptance_rate == 1.0


@pytest.mark.parametrize("g", [1, 2, 5, 8])
def test_a_draft_that_is_always_right_gives_speculative_decoding_its_bonus_token(g: int) -> None:
    played = certain(sd(g), 1.0)

    metrics = played.served[0].metrics
    passes = math.ceil(TOKENS / (g + 1))
    assert metrics.target_passes == passes
    assert metrics.kept == metrics.draft_steps == TOKENS - passes
    assert played.seconds == passes * PASS_S + metrics.draft_steps * PASS_S / 8


def test_pearl_at_the_speed_ratio_is_never_slower_than_the_target_alone() -> None:
    """At g = c and l = 0 a round lasts as long as a pass, and yields a token at least."""
    for a in (0.0, 0.1, 0.3, 0.6):
        assert certain(pearl(8), a).seconds <= certain(AR, a).seconds
