"""Rounds that follow each other: the rule against the event simulation, its means against the rule.

Seconds are in passes. A round is told from the next by the commands that leave.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.decoding.messages import Judge
from pearl.decoding.rounds import RoundTimes
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Sent
from pearl.simulator import leads
from pearl.simulator.acceptance import Independent, Replay
from pearl.simulator.answers import run
from pearl.simulator.leads import Walk, carried, told
from pearl.simulator.links import Link, Network
from pearl.simulator.twin import PairTimes, Scheme, exact, seconds_per_token
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.decoding.certainty import margin
from tests.simulator.measuring import AR, pearl

TEXT: Final = "1101111101011111111100111110110111111111101011"
LINKS: Final = {
    "near": Network(draft=Link(latency_s=0.02), target=Link(latency_s=0.03), control_s=0.01),
    "far": Network(draft=Link(latency_s=0.1), target=Link(latency_s=0.2), control_s=0.05),
    "farther than a pass": Network(draft=Link(latency_s=0.1), target=Link(latency_s=0.9)),
    "far draft": Network(draft=Link(latency_s=0.6), target=Link(latency_s=0.05)),
    "none": Network(),
    "busy": Network(draft=Link(latency_s=0.1), target=Link(latency_s=0.2), onward_s=0.06),
}
RATIOS: Final = (2.0, 4.0, 4.5, 8.0)
"""Windows of four: in time, nearly so, and late."""


def walked(times: RoundTimes, most: float, rounds: Iterable[int]) -> list[float]:
    """The rule, round by round: 0 is a first one, anything else a later one."""
    seconds, lead = [], 0.0
    for behind in rounds:
        seconds.append(max(times.beside, (times.later if behind else times.first) - lead))
        lead = min(seconds[-1] - times.beside, most)
    return seconds


def of_runs(later: Iterable[int]) -> list[int]:
    return [place for count in later for place in range(count + 1)]


# -- the rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("foresight", [True, False], ids=["foresight", "told"])
def test_simulated_rounds_follow_the_rule(ratio: float, link: str, *, foresight: bool) -> None:
    """Round by round, with passes that grow: from the sending of a job to that of the next."""
    network, g = msgspec.structs.replace(LINKS[link], foresight=foresight), 4
    pair = Pair.of(ratio, 1.0, growth=0.05)
    scenario = Scenario(
        settings=pearl(g),
        pair=pair,
        network=network,
        acceptance=Replay((TEXT,)),
        workload=Workload(output=Fixed(400)),
    )
    judged = [
        (record.at, len(record.command.pending))
        for record in run(scenario, trace=True).records
        if isinstance(record, Sent) and isinstance(record.command, Judge)
    ]

    times = PairTimes(pair, network)
    expected = walked(times.rounds(0, g).times, times.most_lead, [pending for _, pending in judged])
    found = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(judged)]
    whole = len(found) - 4  # the last windows are cut to fit
    assert whole > 100
    assert found[:whole] == pytest.approx(expected[:whole], rel=1e-9)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[RoundTimes, float]:
    """PairTimes, and the longest lead."""
    most = draw(st.sampled_from([0.0, 0.05, 0.4, 1.5]))
    first = draw(st.floats(0.5, 2)) + most
    later = first + draw(st.sampled_from([0.0, 0.01, 0.2]))
    return RoundTimes(beside=draw(st.floats(0, 3)), first=first, later=later), most


@given(given_times=rounds(), later=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_no_round_is_shorter_than_its_halves_nor_longer_than_a_told_one(
    given_times: tuple[RoundTimes, float], later: list[int]
) -> None:
    counts, (times, most) = np.array(later), given_times
    walk = Walk(times, most)

    for paces in (told(walk), carried(walk, counts, np.ones(len(counts)))):
        found = [paces.first, paces.second, paces.third, paces.fourth]
        for judge, seconds in zip([times.first, *[times.later] * 3], found, strict=True):
            assert max(times.beside, judge - most) <= seconds + 1e-9
            assert seconds <= max(times.beside, judge) + 1e-9


@given(given_times=rounds())
def test_two_rounds_in_turn_take_as_long_together_as_any_two_behind_them(
    given_times: tuple[RoundTimes, float],
) -> None:
    """What the means rest on: from its third round on, a run repeats itself."""
    seconds = walked(*given_times, range(30))

    for first, second in itertools.pairwise(seconds[2:]):
        assert first + second == pytest.approx(seconds[2] + seconds[3])


# -- its means -------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("link", ["far", "farther than a pass", "far draft", "busy"])
@pytest.mark.parametrize("growth", [0.0, 0.05])
def test_a_long_text_takes_what_the_mean_says(
    alpha: float, ratio: float, link: str, growth: float
) -> None:
    """20,000 runs, walked round by round; batches of them are nearly independent."""
    rng, g = np.random.default_rng(7), 4
    times = PairTimes(Pair.of(ratio, 1.0, growth), LINKS[link])
    own, most = times.rounds(0, g).times, times.most_lead
    runs = rng.geometric(1 - alpha, 20_000) - 1
    later = np.where(runs > 0, (runs - 1) // g + 1, 0)
    luck = exact(Independent(alpha), Scheme("pearl", g))

    behind = np.where(luck.runs > 0, (luck.runs - 1) // g + 1, 0)
    paces = carried(Walk(own, most), behind, luck.weights)
    seconds = np.add.reduceat(
        walked(own, most, of_runs(later.tolist())), np.cumsum([0, *later[:-1] + 1])
    )
    away = (seconds - paces.seconds(later)).reshape(200, 100).mean(axis=1)
    assert abs(away.mean()) <= margin(away.tolist()) + 1e-5 * most


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("link", LINKS)
def test_where_nothing_is_left_to_chance_the_twin_is_the_event_simulation(
    alpha: float, ratio: float, link: str
) -> None:
    """To rounding; the difference of two texts has neither a beginning nor an end."""
    pair, network = Pair.of(ratio, 1.0), LINKS[link]
    for settings, scheme in (
        (AR, Scheme("ar")),
        (pearl(4), Scheme("pearl", 4)),
        (pearl(4, 2), Scheme("pearl", 4, 2)),
    ):
        twin = seconds_per_token(
            exact(Independent(alpha), scheme), scheme, PairTimes(pair, network)
        )

        assert _apart(settings, pair, network, alpha) == pytest.approx(twin, rel=1e-5)


def _apart(settings: Settings, pair: Pair, network: Network, alpha: float) -> float:
    """Seconds of a token, far from both ends."""
    lengths = (400, 800)
    short, long = (
        run(
            Scenario(
                settings=settings,
                pair=pair,
                network=network,
                acceptance=Independent(alpha),
                workload=Workload(output=Fixed(tokens)),
            )
        ).seconds
        for tokens in lengths
    )
    return (long - short) / (lengths[1] - lengths[0])


def test_leads_without_number_are_reckoned_with_in_the_coarse() -> None:
    """Passes that grow by next to nothing let a lead wander by as little with each run."""
    counts = np.arange(6)
    exactly = RoundTimes(beside=2.0, first=2.5, later=2.5)
    nearly = RoundTimes(beside=2.0, first=2.5, later=2.5 + 1 / 997)

    found, expected = (carried(Walk(each, 1.0), counts, np.ones(6)) for each in (nearly, exactly))

    assert len(leads._reached(Walk(nearly, 1.0), leads.FINE)) > leads.MOST
    assert len(leads._leads(Walk(nearly, 1.0))) <= leads.MOST
    assert found.seconds(counts).mean() == pytest.approx(expected.seconds(counts).mean(), rel=2e-3)
