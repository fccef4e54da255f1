"""How often a draft is right, how long it stays right, and whether its luck is independent.

Held against luck that is drawn under a known law, against the closed forms where the schedules
themselves have met that luck, and against texts short enough to count by hand.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pytest
from scipy import stats

from pearl.analysis.statistics import (
    Independence,
    acceptance,
    independence,
    run_length,
    survival,
)
from pearl.decoding.estimates import LEVEL, Estimate, of_share
from pearl.decoding.exchanges import agreement
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Independent, Positions
from pearl.simulator.answers import run
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.analysis.forms import pearl, sd
from tests.decoding.certainty import ALPHA, Z
from tests.decoding.intervals import ends, holds

ALPHAS: Final = (0.3, 0.5, 0.8, 0.9, 0.96)
NOTHING_COMPARED: Final[tuple[list[str], ...]] = ([], [""], ["?????"], ["", "?"])
ALL_ALIKE: Final = (["1" * 50], ["0" * 50], ["111", "11?1"], ["1"], ["0"])


def texts(rng: np.random.Generator, a: float, count: int, tokens: int, r: float = 0.0) -> list[str]:
    """Luck of so many requests: a coin, or a chain whose neighbours have correlation r."""
    luck = np.empty((count, tokens), dtype=np.uint8)
    agreed = rng.random(count) < a
    for place, draws in enumerate(rng.random((tokens, count))):
        agreed = draws < np.where(agreed, a + r * (1 - a), a * (1 - r))
        luck[:, place] = agreed
    return [(row + ord("0")).tobytes().decode() for row in luck]


def held(settings: Settings, law: Independent | Positions) -> list[str]:
    """The luck that a schedule leaves in its trace, of 32 requests of 200 tokens."""
    scenario = Scenario(
        settings=settings,
        pair=Pair.of(speed_ratio=5),
        acceptance=law,
        workload=Workload(requests=32, output=Fixed(200)),
    )
    return list(agreement(run(scenario, trace=True).records).values())


def sure(found: Estimate, truth: float, count: int) -> bool:
    """Whether the truth is within the interval, were that one wrong with chance ALPHA."""
    value, (low, high) = float(found), ends(found)
    wider = stats.t.ppf(1 - ALPHA / 2, count - 1) / stats.t.ppf((1 + LEVEL) / 2, count - 1)
    return bool(abs(value - truth) <= wider * max(high - value, value - low))


# -- the rate --------------------------------------------------------------------------------------


def test_texts_that_cut_their_last_run_short_do_not_bend_the_rate() -> None:
    """Short texts at a high rate: nearly half of their tokens are in a run that is cut."""
    a, tokens, count = 0.9, 12, 20_000
    lucks = texts(np.random.default_rng(1), a, count, tokens)
    runs = [[len(run) for run in luck.split("0")] for luck in lucks]
    complete = [length for *whole, _ in runs for length in whole]
    kept, chance = sum(map(sum, runs)), Z * math.sqrt(a * (1 - a) / (count * tokens))

    found = acceptance(lucks).independent.value
    only_complete = 1 - 1 / (1 + np.mean(complete))
    cut_as_complete = kept / (kept + len(complete) + count)

    assert found == pytest.approx(a, abs=chance)
    assert only_complete < a - 10 * chance
    assert cut_as_complete < a - 10 * chance


def test_a_rate_counts_what_was_compared_and_nothing_else() -> None:
    found = acceptance(["1101?", "??10", ""])

    assert (found.kept, found.rejections) == (4, 2)
    assert found.independent == of_share(4, 2)
    assert found.over_requests.value == pytest.approx(4 / 6)


def test_one_request_says_nothing_of_others() -> None:
    found = acceptance(["1110"])

    assert found.independent.interval is not None
    assert found.over_requests == Estimate(0.75)


@pytest.mark.parametrize("lucks", NOTHING_COMPARED)
def test_where_nothing_was_compared_there_is_no_rate(lucks: list[str]) -> None:
    found = acceptance(lucks)

    assert found.independent == found.over_requests == Estimate(None)


@pytest.mark.parametrize("tokens", [64, 128, 512, 2048])
def test_the_interval_of_an_independent_rate_holds_it_as_often_as_it_says(tokens: int) -> None:
    """Exactly: summed over all that may be counted. The rates are those of real pairs."""
    counts = np.arange(tokens + 1)
    low, high = np.array([ends(of_share(int(n), tokens - int(n))) for n in counts]).T

    for a in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95):
        covered = stats.binom.pmf(counts, tokens, a)[(low <= a) & (a <= high)].sum()
        assert covered == pytest.approx(LEVEL, abs=0.02)


def test_texts_that_differ_show_only_over_requests() -> None:
    rng = np.random.default_rng(2)
    lucks = [luck for a in (0.5, 0.6, 0.9, 0.95) for luck in texts(rng, a, 3, 200)]

    found = acceptance(lucks)

    (low, high), (least, most) = ends(found.independent), ends(found.over_requests)
    assert most - least > 4 * (high - low)


# -- runs ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize(("gamma", "head_start"), [(5, 0), (4, 2)])
def test_runs_of_pearl_are_as_long_as_theory_says(a: float, gamma: int, head_start: int) -> None:
    said = pearl(a, gamma, k=head_start)

    found = run_length(held(Settings(gamma=gamma, head_start=head_start), Independent(a)))

    assert sure(found.accepted, said.accepted_per_run, 32)
    assert sure(found.emitted, said.emitted_per_run, 32)
    assert sure(found.emitted_given_preverify, said.emitted_given_preverify, 32)
    assert sure(found.first_kept, a, 32)


@pytest.mark.slow
@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize("gamma", [1, 4])
def test_runs_of_speculative_decoding_are_as_long_as_theory_says(a: float, gamma: int) -> None:
    """Its bonus tokens, which nobody compares, belong to the runs that they stand in."""
    said = sd(a, gamma)
    lucks = held(Settings(schedule="sd", gamma=gamma), Independent(a))

    found = run_length(lucks)

    assert "?" in lucks[0].rstrip("?")
    assert sure(found.accepted, said.accepted_per_run, 32)
    assert sure(found.emitted, said.emitted_per_run, 32)
    assert sure(found.emitted_given_preverify, said.emitted_given_preverify, 32)


def test_the_conventions_counted_by_hand() -> None:
    """110 10 0 11: the last run is cut short, and then comes the target's own last token."""
    found = run_length(["11010011?"])

    assert found.accepted.value == pytest.approx(5 / 3)
    assert found.emitted.value == pytest.approx(8 / 3)  # of 8 places, in which 3 could and did end
    assert found.first_kept.value == pytest.approx(3 / 4)
    # Behind a first token that was kept: 10, 0 and 1, in which 2 ended.
    assert found.emitted_given_preverify.value == pytest.approx(1 + 4 / 2)


def test_the_conventions_with_a_bonus_token_counted_by_hand() -> None:
    """Windows of two: 11 and a bonus, then 1 and a rejection; a rejection at once."""
    found = run_length(["11?100"])

    assert found.accepted.value == pytest.approx(3 / 2)
    assert found.emitted.value == pytest.approx(6 / 2)
    assert found.first_kept.value == pytest.approx(1 / 2)
    assert found.emitted_given_preverify.value == pytest.approx(5)


def test_a_run_whose_first_token_nobody_compared_neither_began_well_nor_badly() -> None:
    """1 and a rejection, then a token without the draft; of the three runs left one began well."""
    found = run_length(["10?1000"])

    assert found.first_kept.value == pytest.approx(1 / 3)
    assert found.emitted.value == pytest.approx(7 / 4)


def test_short_texts_do_not_make_runs_shorter_or_longer() -> None:
    """As many tokens in texts of 16 and of 2048: each has a last token that nobody compared."""
    rng, a = np.random.default_rng(3), 0.9
    for count, tokens in ((12_800, 15), (100, 2047)):
        found = run_length([luck + "?" for luck in texts(rng, a, count, tokens)])

        assert sure(found.accepted, a / (1 - a), count)
        assert sure(found.emitted, 1 / (1 - a), count)
        assert sure(found.emitted_given_preverify, 1 / (1 - a) + 1, count)
        assert sure(found.first_kept, a, count)


def test_bursts_part_the_conventions() -> None:
    """Theorem 2 is 1 / (1 - a) + 1 only where the first token of a run is as lucky as others."""
    a, r = 0.8, 0.3
    found = run_length(texts(np.random.default_rng(4), a, 400, 400, r))

    assert sure(found.accepted, a / (1 - a), 400)
    assert sure(found.first_kept, a * (1 - r), 400)
    assert sure(found.emitted_given_preverify, 1 + 1 / ((1 - a) * (1 - r)), 400)


def test_a_single_request_has_intervals_over_its_runs() -> None:
    (luck,) = texts(np.random.default_rng(5), 0.8, 1, 4000)

    found = run_length([luck])

    for length, truth in ((found.accepted, 4), (found.emitted, 5), (found.first_kept, 0.8)):
        assert sure(length, truth, luck.count("0"))
        assert length.value == pytest.approx(truth, rel=0.2)


def test_a_run_without_an_end_has_no_length_and_one_that_nobody_saw_none_at_all() -> None:
    endless, unseen = run_length(["1111"]), run_length(["?????"])

    assert endless.accepted == endless.emitted == Estimate(math.inf)
    assert endless.first_kept == of_share(1, 0)
    assert unseen == run_length([]) == run_length([""])
    assert unseen.accepted == unseen.emitted == unseen.first_kept == Estimate(None)


# -- survival --------------------------------------------------------------------------------------


def test_independent_runs_survive_geometrically() -> None:
    a = 0.8
    shares = survival(texts(np.random.default_rng(6), a, 400, 50))

    for n, share in enumerate(shares[:12]):
        assert share.value is not None
        greenwood = a**n * math.sqrt(n * (1 - a) / a / (4000 * a**n))  # of 4000 runs, none cut
        assert share.value == pytest.approx(a**n, abs=1.2 * Z * greenwood)
    assert shares[0] == Estimate(1.0, 1.0, 1.0)


def test_survival_counted_by_hand() -> None:
    """Runs 110, 0 and 1…: of three one ends at once; then one is left, whose end is the last."""
    whole, first, second = survival(["11001"])

    assert whole.value == 1
    assert first.value == second.value == pytest.approx(2 / 3)
    assert first.interval == pytest.approx((0.0541, 0.9452), abs=1e-4)


def test_a_run_that_is_cut_short_counts_as_far_as_it_was_seen() -> None:
    """Two of three tokens in the first place, one of two in the second; 1 ? 1 are neighbours."""
    shares = survival(["110", "1?1", "0", "10"])

    assert [share.value for share in shares] == pytest.approx([1, 3 / 4, 3 / 4 * 2 / 3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "tokens", "more"), [(1, 600, 0.0), (6, 100, 0.03), (24, 100, 0.02)]
)
def test_a_share_of_runs_is_held_as_often_as_it_says(count: int, tokens: int, more: float) -> None:
    """Over requests a little more often: the wider of two intervals is taken."""
    rng, a, n, tries = np.random.default_rng(7), 0.8, 4, 2000
    covered = sum(holds(survival(texts(rng, a, count, tokens))[n], a**n) for _ in range(tries))

    chance = Z * math.sqrt(LEVEL * (1 - LEVEL) / tries)
    assert LEVEL - chance <= covered / tries <= LEVEL + chance + more


@pytest.mark.parametrize("lucks", NOTHING_COMPARED)
def test_where_nothing_was_compared_no_run_is_seen(lucks: list[str]) -> None:
    assert survival(lucks) == (Estimate(1.0, 1.0, 1.0),)


def test_requests_that_differ_make_a_share_of_runs_less_sure_and_alike_ones_do_not() -> None:
    rng = np.random.default_rng(12)
    alike = texts(rng, 0.8, 12, 100)
    different = [*texts(rng, 0.5, 6, 100), *texts(rng, 0.95, 6, 100)]

    def wider(lucks: list[str]) -> float:
        """Than if all runs were those of one text."""
        (low, high), (least, most) = (ends(survival(x)[4]) for x in (lucks, ["0".join(lucks)]))
        return (high - low) / (most - least)

    assert wider(alike) == pytest.approx(1, abs=0.3)
    assert wider(different) > 2


def test_where_no_run_ended_all_survive_without_an_interval() -> None:
    assert survival(["111"])[1:] == (Estimate(1.0),) * 3


# -- independence ----------------------------------------------------------------------------------

TESTS: Final = ("bursts", "lengths", "requests")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "tokens", "a"),
    [(1, 256, 0.8), (3, 128, 0.5), (6, 128, 0.8), (6, 128, 0.95), (24, 64, 0.95), (24, 128, 0.99)],
)
def test_independent_luck_is_accused_as_seldom_as_it_says(
    count: int, tokens: int, a: float
) -> None:
    """Also in short texts, few requests and at high rates; or too little was compared to tell."""
    rng, tries = np.random.default_rng(count + tokens), 800
    found = [independence(texts(rng, a, count, tokens)) for _ in range(tries)]

    for name in TESTS:
        known = [p for p in (getattr(each, name).p for each in found) if p is not None]
        for level in (0.01, 0.05, 0.25) if len(known) > tries / 2 else ():
            share = sum(p < level for p in known) / len(known)
            assert share <= level + Z * math.sqrt(level * (1 - level) / len(known)) + 0.1 * level
    false = sum(not each.holds for each in found) / tries
    assert false <= 1 - LEVEL + Z * math.sqrt(LEVEL * (1 - LEVEL) / tries)


@pytest.mark.slow
def test_of_enough_luck_the_chances_are_spread_evenly() -> None:
    rng, tries = np.random.default_rng(8), 800
    found = [independence(texts(rng, 0.8, 12, 128)) for _ in range(tries)]
    farthest = math.sqrt(math.log(2 / ALPHA) / (2 * tries))  # Dvoretzky, Kiefer, Wolfowitz, Massart

    for name in TESTS:
        chances = [getattr(each, name).p for each in found]
        assert stats.kstest(chances, "uniform").statistic <= farthest


@functools.cache
def in_bursts() -> Independence:
    return independence(texts(np.random.default_rng(9), 0.8, 24, 256, r=0.3))


def test_bursts_are_found() -> None:
    found = in_bursts()

    assert found.bursts.p is not None
    assert found.bursts.p < ALPHA
    assert found.bursts.statistic is not None
    assert found.bursts.statistic < -5  # fewer and longer runs
    assert found.lengths.refuted  # behind a rejection a token has another chance
    assert not found.holds


def test_correlation_is_that_of_the_chain_and_fades_with_distance() -> None:
    found = in_bursts()
    chance = Z / math.sqrt(24 * 256)

    for lag in (1, 2, 3):
        assert found.autocorrelation[lag - 1] == pytest.approx(0.3**lag, abs=chance + 0.005)
    assert found.correlation == pytest.approx(0.3, abs=chance)
    assert found.correlation_within == found.autocorrelation[0]


def test_luck_that_takes_turns_is_no_burst_and_not_independent() -> None:
    found = independence(["10" * 50] * 3)

    assert found.bursts.refuted
    assert found.bursts.statistic is not None
    assert found.bursts.statistic > 0
    assert found.correlation < 0


@pytest.mark.slow
def test_prompts_that_differ_are_found_and_not_taken_for_bursts() -> None:
    """All bursts there are lie between the texts; in each, luck is a coin."""
    rng, tries, blamed = np.random.default_rng(10), 400, 0
    for _ in range(tries):
        found = independence([*texts(rng, 0.5, 6, 128), *texts(rng, 0.95, 6, 128)])
        assert found.requests.refuted
        assert found.correlation > found.correlation_within
        blamed += found.bursts.refuted

    level = 1 - LEVEL
    assert blamed / tries <= level + Z * math.sqrt(level * (1 - level) / tries)


def test_chances_by_position_are_found_by_the_lengths_of_runs() -> None:
    """Rates that fall along the window, met by PEARL itself."""
    lucks = held(Settings(gamma=6), Positions((0.95, 0.9, 0.8, 0.65, 0.5)))

    found = independence(lucks)

    assert found.lengths.p is not None
    assert found.lengths.p < ALPHA
    assert not found.requests.refuted


@pytest.mark.parametrize("lucks", [*NOTHING_COMPARED, *ALL_ALIKE, ["10"], ["1" * 63 + "0"]])
def test_nothing_is_refuted_where_nothing_can_be_told(lucks: list[str]) -> None:
    found = independence(lucks)

    assert [getattr(found, name).p for name in TESTS] == [None] * 3
    assert found.holds
    assert not any(getattr(found, name).refuted for name in TESTS)


def test_tokens_that_nobody_compared_are_left_out() -> None:
    (plain,) = texts(np.random.default_rng(11), 0.7, 1, 300)
    halves = [plain[:150], plain[150:]]
    spaced = ["?".join(half) + "??" for half in halves]

    found, expected = independence(spaced), independence(halves)

    assert found.bursts == expected.bursts
    assert found.lengths == expected.lengths
    assert found.requests == expected.requests


# -- the stored study ------------------------------------------------------------------------------


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A line of `benchmarks/coverage.json`, as `benchmarks/coverage.py` writes it."""

    over: str
    law: str
    rate: float
    requests: int
    tokens: int
    claimed: dict[str, float]
    beyond: dict[str, float]


class Study(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    repetitions: int
    seed: int
    level: float
    enough: tuple[float, float]
    versions: dict[str, str]
    rows: list[Row]


@functools.cache
def study() -> Study:
    file = Path(__file__).parents[2] / "benchmarks" / "coverage.json"
    return msgspec.json.decode(file.read_bytes(), type=Study)


def test_the_study_of_coverage_says_how_it_was_made() -> None:
    found = study()

    assert found.command.startswith("python benchmarks/coverage.py")
    assert found.repetitions >= 4000
    assert (found.level, found.enough) == (LEVEL, (0.93, 0.97))
    assert {"python", "numpy", "scipy"} <= set(found.versions)


def test_intervals_for_which_it_is_claimed_hold_the_truth_93_to_97_times_in_a_hundred() -> None:
    low, high = study().enough

    outside = [
        (row.over, row.law, row.rate, row.requests, row.tokens, name, value)
        for row in study().rows
        for name, value in row.claimed.items()
        if not low <= value <= high
    ]
    assert outside == []


def test_most_is_claimed_of_every_kind_of_interval_and_every_law() -> None:
    rows = study().rows
    claimed, beyond = (
        sum(len(found) for found in kind)
        for kind in ([row.claimed for row in rows], [row.beyond for row in rows])
    )

    assert {row.over for row in rows if row.claimed} == {"tokens", "requests", "runs"}
    assert len({row.law for row in rows if row.claimed and row.over == "requests"}) == 5
    assert claimed > beyond
