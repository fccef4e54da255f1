"""The closed forms where passes grow, links are slow, texts end and luck is no coin.

Each against another road: the vectorised twin on the exact law of a run, which knows the schedule
and no closed form, or the event simulation.

Notation: a acceptance rate, g gamma, c speed ratio, k head start, r correlation, e end of text.
"""

from __future__ import annotations

import itertools
from typing import Any, Final, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.analysis import departures, theory
from pearl.analysis.theory import Assumptions, expected
from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.settings import Settings
from pearl.simulator import twin
from pearl.simulator.acceptance import Bursts, Independent, Positions
from pearl.simulator.answers import run
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import Geometric, Workload
from pearl.simulator.world import Pair, Scenario
from tests.analysis.forms import EAGER, pearl, pearl_at, sd, sd_at
from tests.decoding.certainty import ratio_margin

Point: TypeAlias = tuple[float, int, int, float, float, float]  # a, g, k, c, growth, link
PASS_S: Final = 1.0
POINTS: Final[list[Point]] = list(
    itertools.product((0.0, 0.3, 0.8, 0.97), (1, 4, 9), (0, 2), (2.0, 5.5), (0.0, 0.1), (0.0, 0.6))
)


def times(c: float, growth: float, link: float) -> twin.PairTimes:
    """A pass takes 1; the draft's messages take `link`, there and back together."""
    pair = Pair.of(speed_ratio=c, target_s=PASS_S, growth=growth)
    return twin.PairTimes(pair, Network(draft=Link(latency_s=link / 2)))


@pytest.mark.parametrize("point", POINTS)
def test_growing_passes_and_slow_links_cost_what_the_schedule_makes_of_them(point: Point) -> None:
    a, g, k, c, growth, link = point
    scheme = twin.Scheme("pearl", g, k)
    luck, clock = twin.exact(Independent(a), scheme), times(c, growth, link)
    found = twin.figures(luck, scheme, clock, alpha=a)

    said = pearl(a, g, c, k, growth=growth, link=link)

    assert said.speedup == pytest.approx(1 / twin.seconds_per_token(luck, scheme, clock), rel=1e-9)
    assert said.draft_idle == pytest.approx(float(found.draft_idle), abs=1e-9)
    assert said.target_idle == pytest.approx(float(found.target_idle), abs=1e-9)


@pytest.mark.parametrize("point", [point for point in POINTS if point[2] == 0])
def test_speculative_decoding_pays_for_growth_and_links_in_every_round(point: Point) -> None:
    a, g, _, c, growth, link = point
    scheme = twin.Scheme("sd", g)
    luck, clock = twin.exact(Independent(a), scheme), times(c, growth, link)
    found = twin.figures(luck, scheme, clock, alpha=a)

    said = sd(a, g, c, growth=growth, link=link)

    assert said.speedup == pytest.approx(1 / twin.seconds_per_token(luck, scheme, clock), rel=1e-9)
    assert said.draft_idle == pytest.approx(float(found.draft_idle), abs=1e-9)
    assert said.target_idle == pytest.approx(float(found.target_idle), abs=1e-9)


@pytest.mark.parametrize(("a", "g", "c"), [(0.3, 1, 5.0), (0.8, 4, 5.0), (0.97, 9, 5.5)])
def test_a_schedule_that_is_added_has_its_closed_forms(
    a: float, g: int, c: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one entry of the table: what the forms ask of a schedule are its two numbers."""
    monkeypatch.setitem(SCHEDULES, "eager", EAGER)
    scheme = twin.Scheme("eager", g)
    luck, clock = twin.exact(Independent(a), scheme), times(c, 0.1, 0.3)
    found = twin.figures(luck, scheme, clock, alpha=a)

    said = expected(Assumptions("eager", a, g, c, growth=0.1, link=0.3))

    assert said.speedup == pytest.approx(1 / twin.seconds_per_token(luck, scheme, clock), rel=1e-9)
    assert said.draft_idle == pytest.approx(float(found.draft_idle), abs=1e-9)
    assert said.wasted == pytest.approx(float(found.wasted), abs=1e-9)
    assert said.tokens_per_pass == pytest.approx(float(found.tokens_per_target_pass), rel=1e-9)


@given(
    a=st.floats(0.05, 0.95),
    g=st.integers(1, 12),
    k=st.integers(0, 4),
    growth=st.floats(0, 0.3),
    link=st.floats(0, 1),
)
def test_at_the_break_even_overhead_pearl_is_as_fast_as_ar(
    a: float, g: int, k: int, growth: float, link: float
) -> None:
    l = pearl(a, g, 5, k, growth=growth, link=link).break_even_overhead  # noqa: E741 - as there

    if l >= 0:
        speed = pearl(a, g, 5, k, l, growth=growth, link=link).speedup
        assert speed == pytest.approx(1)


def test_theorem_1_breaks_in_both_directions() -> None:
    """The best window is c = 5 with nothing else; what each assumption costs moves it."""
    assert theory.best_gamma(pearl_at(0.9, c=5)) == 5
    assert theory.best_gamma(pearl_at(0.98, c=5, k=0, l=1)) > 5
    assert theory.best_gamma(pearl_at(0.95, c=5, growth=0.1)) > 5
    assert theory.best_gamma(pearl_at(0.5, c=5, growth=0.1)) < 5
    assert theory.best_gamma(pearl_at(0.9, c=5, link=0.4)) < 5


def test_growing_passes_let_the_draft_write_until_the_longer_pass_ends() -> None:
    """g/c = 1 + growth (g - 1): at c = 5 and growth .1 that is g = 9."""
    assert theory.best_gamma(pearl_at(0.99, c=5, growth=0.1)) == 9


def test_a_slow_link_leaves_the_draft_the_rest_of_the_pass() -> None:
    """g/c + link = 1: at c = 10 and a link of .4 that is g = 6."""
    assert theory.best_gamma(pearl_at(0.9, c=10, link=0.4)) == 6


def test_the_best_choices_are_the_best_of_all() -> None:
    given_: dict[str, Any] = {"growth": 0.07, "link": 0.3}
    windows, starts = np.arange(1, 60), np.arange(60)

    in_turns = sd(0.8, windows, 6, 0.1, **given_).speedup
    parallel = pearl(0.8, windows, 6, 2, 0.1, **given_).speedup
    ahead = pearl(0.8, 6, 6, starts, 0.1, **given_).speedup
    assert theory.best_gamma(sd_at(0.8, c=6, l=0.1, **given_)) == 1 + in_turns.argmax()
    assert theory.best_gamma(pearl_at(0.8, c=6, k=2, l=0.1, **given_)) == 1 + parallel.argmax()
    assert theory.best_head_start(pearl_at(0.8, 6, 6, l=0.1, **given_)) == ahead.argmax()


@pytest.mark.parametrize("name", ["growth", "link"])
def test_time_cannot_be_given_back(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name} is -0.1; it must be 0 or more"):
        pearl(0.8, 5, 5, **{name: -0.1})


# -- head starts beyond independence ---------------------------------------------------------------

LAWS: Final = [(0.9, 0.7, 0.5), (0.3,), (0.0, 0.9), (0.99, 0.6, 0.8, 0.4), (0.8, 1.0, 0.0)]


@pytest.mark.parametrize(
    ("rates", "g", "k"), list(itertools.product(LAWS, (1, 3, 6), (0, 1, 2, 5)))
)
def test_head_starts_by_position_are_those_of_the_law_of_a_run(
    rates: tuple[float, ...], g: int, k: int
) -> None:
    scheme = twin.Scheme("pearl", g, k)
    luck = twin.exact(Positions(rates), scheme)
    found = twin.figures(luck, scheme, times(5, 0, 0), alpha=rates[0])

    assert departures.tokens_by_position(pearl_at(1, g, k=k), rates) == pytest.approx(
        float(found.tokens_per_target_pass), rel=1e-9
    )


@pytest.mark.parametrize(
    ("a", "r", "g", "k"),
    list(itertools.product((0.2, 0.8, 0.95), (0.0, 0.4, 0.9), (1, 5), (0, 1, 4))),
)
def test_head_starts_in_bursts_are_those_of_the_law_of_a_run(
    a: float, r: float, g: int, k: int
) -> None:
    scheme = twin.Scheme("pearl", g, k)
    luck = twin.exact(Bursts(a, r), scheme)
    found = twin.figures(luck, scheme, times(5, 0, 0), alpha=a)

    assert departures.tokens_in_bursts(pearl_at(a, g, k=k), r) == pytest.approx(
        float(found.tokens_per_target_pass), rel=1e-9
    )


# -- texts that end --------------------------------------------------------------------------------


def test_passes_of_several_texts_are_those_of_each() -> None:
    lengths = [1, 7, 40]

    parallel = departures.passes_of(pearl_at(0.8, 5, k=2), lengths)
    in_turns = departures.passes_of(sd_at(0.8, 5), lengths)
    assert parallel.tolist() == [departures.passes_of(pearl_at(0.8, 5, k=2), n) for n in lengths]
    assert in_turns.tolist() == [departures.passes_of(sd_at(0.8, 5), n) for n in lengths]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["sd", "pearl"])
def test_texts_that_end_by_chance_take_the_passes_of_the_simulation(schedule: str) -> None:
    """Texts of 20 tokens on average: each token ends one with chance e = .05."""
    assumed = Assumptions(str(schedule), 0.8, 4)
    lengths = np.arange(1, 600)
    chances = 0.05 * 0.95 ** (lengths - 1.0)
    said = chances @ lengths / (chances @ departures.passes_of(assumed, lengths))

    scenario = Scenario(
        settings=Settings(schedule=schedule, gamma=4),
        acceptance=Independent(0.8),
        workload=Workload(requests=4000, output=Geometric(20)),
    )
    served = run(scenario, seed=5).served
    tokens = [float(s.metrics.tokens) for s in served]
    made = [float(s.metrics.target_passes) for s in served]

    assert abs(sum(tokens) / sum(made) - said) <= ratio_margin(tokens, made)


def test_texts_without_end_take_the_passes_of_the_closed_form() -> None:
    n = 20_000

    assert n / departures.passes_of(pearl_at(0.8, 5), n) == pytest.approx(
        pearl(0.8, 5).tokens_per_pass, rel=1e-3
    )
