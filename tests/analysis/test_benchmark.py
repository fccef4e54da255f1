"""Ratios of the same prompts, medians of rounds, and intervals that say how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pytest
from msgspec.structs import replace

from pearl.analysis import traces
from pearl.analysis.benchmark import (
    BenchmarkRun,
    Difference,
    Quantiles,
    Report,
    System,
    allowed,
    differences,
    first_difference,
    quantiles,
    report,
    token_times,
    whole_requests,
)
from pearl.analysis.parameters import own_constants
from pearl.analysis.statistics import acceptance
from pearl.decoding.estimates import Estimate, of_median, of_ratio
from pearl.decoding.settings import Settings
from pearl.simulator.costs import Affine, Constant
from pearl.simulator.links import Network
from pearl.simulator.world import Pair
from tests.analysis.decoded import decoded
from tests.analysis.forms import pearl
from tests.decoding.two_requests import LONG, SHORT
from tests.simulator.measuring import PASS_S

AR: Final = System(name="AR", settings=Settings(schedule="ar"), devices=1)
SD: Final = System(name="SD 4", settings=Settings(schedule="sd", gamma=4), devices=2)
PEARL: Final = System(name="PEARL 5", settings=Settings(gamma=5), devices=2)
LIBRARY: Final = System(name="HF generate", settings=None, devices=1)
TEXT: Final = tuple(range(8))


def one(system: System, prompt: int, seconds: float, **more: Any) -> BenchmarkRun:
    """Eight tokens in so many seconds, the first of them after a quarter of that."""
    given: dict[str, Any] = {
        "round": 1,
        "tokens": TEXT,
        "arrivals": ((seconds / 4, 1), (seconds, 7)),
    }
    return BenchmarkRun(system=system.name, prompt=prompt, **(given | more))


def runs(system: System, *seconds: float, **more: Any) -> list[BenchmarkRun]:
    """One a prompt."""
    return [one(system, prompt, taken, **more) for prompt, taken in enumerate(seconds)]


def compared(*groups: list[BenchmarkRun], systems: Sequence[System] = (AR, SD, PEARL)) -> Report:
    return report(systems, [run for group in groups for run in group])


# -- speed ---------------------------------------------------------------------------------------


def test_a_speed_is_the_median_over_prompts_of_ratios_on_the_same_prompt() -> None:
    """The prompt that is ten times as long counts once in the median, ten times in the totals."""
    found = compared(runs(AR, 1.0, 1.0, 10.0), runs(SD, 1, 1, 10), runs(PEARL, 0.5, 0.25, 10.0))

    assert found["PEARL 5"].speed_over_ar == Estimate(2.0)
    assert found["PEARL 5"].of_totals == of_ratio([1, 1, 10], [0.5, 0.25, 10])
    assert found["AR"].speed_over_ar == Estimate(1.0)
    assert found["PEARL 5"].tokens_per_s == of_median([16, 32, 0.8])


def test_of_the_rounds_of_a_prompt_the_median_counts() -> None:
    """One disturbed run of three changes nothing."""
    rounds = [one(PEARL, 0, seconds, round=n) for n, seconds in enumerate((0.5, 40.0, 0.4))]

    found = compared(runs(AR, 1.0), runs(SD, 1.0), rounds)

    assert found.rounds == 1
    assert found["PEARL 5"].speed_over_ar == Estimate(2.0)


def test_below_six_prompts_there_is_no_interval_and_with_six_it_reaches_to_the_ends() -> None:
    seconds = (1.0, 0.5, 0.25, 0.2, 0.125, 0.1)

    five = compared(runs(AR, *[1.0] * 5), runs(SD, *seconds[:5]), runs(PEARL, *seconds[:5]))
    six = compared(runs(AR, *[1.0] * 6), runs(SD, *seconds), runs(PEARL, *seconds))

    assert five["PEARL 5"].speed_over_ar.interval is None
    assert six["PEARL 5"].speed_over_ar.interval == (1.0, 10.0)


def test_speed_over_sd_and_per_device_are_of_the_same_prompts() -> None:
    found = compared(runs(AR, 1.0, 2.0), runs(SD, 0.5, 0.5), runs(PEARL, 0.25, 0.25))

    assert found["PEARL 5"].speed_over_sd == Estimate(2.0)
    assert found["PEARL 5"].speed_per_device == Estimate(3.0)
    assert found["AR"].speed_per_device == Estimate(1.0)


def test_without_sd_nothing_is_over_it() -> None:
    found = compared(runs(AR, 1.0), runs(LIBRARY, 2.0), systems=(AR, LIBRARY))

    assert found["HF generate"].speed_over_sd == Estimate(None)
    assert found["HF generate"].speed_over_ar == Estimate(0.5)


def test_a_text_that_ended_early_is_compared_by_its_tokens() -> None:
    short = one(PEARL, 0, 0.5, tokens=TEXT[:4], arrivals=((0.5, 4),))

    found = compared(runs(AR, 1.0), runs(SD, 1.0), [short])

    assert found["PEARL 5"].speed_over_ar == Estimate(1.0)
    assert found["PEARL 5"].of_totals == Estimate(1.0)


# -- times ---------------------------------------------------------------------------------------


def test_tokens_that_come_together_share_the_time_since_those_before() -> None:
    """And the first ones are the time to the first token, which counts apart."""
    run = one(PEARL, 0, 1.0, arrivals=((0.5, 3), (0.75, 1), (1.75, 4)))

    assert token_times(run) == [0.25, 0.25, 0.25, 0.25, 0.25]


def test_the_time_to_the_first_token_is_a_median_like_the_others() -> None:
    found = compared(runs(AR, 4.0, 8.0, 40.0), runs(SD, 1, 1, 1), runs(PEARL, 1, 1, 1))

    assert found["AR"].time_to_first_token_s == Estimate(2.0)


def test_quantiles_are_of_all_tokens_of_all_runs() -> None:
    assert quantiles([float(n) for n in range(101)]) == Quantiles(p50=50, p95=95, p99=99)
    assert quantiles([]) is None


# -- what the scheduler and the machine say --------------------------------------------------------


def test_work_is_that_of_one_round_of_each_prompt() -> None:
    """Rounds of one prompt are no independent requests: the interval must not shrink with them."""
    rounds = [
        one(PEARL, prompt, seconds, round=n, metrics=metrics)
        for prompt, metrics in enumerate((SHORT, LONG))
        for n, seconds in enumerate((0.5, 0.6, 0.7))
    ]

    row = compared(runs(AR, 1, 1), runs(SD, 1, 1), rounds)["PEARL 5"]

    assert row.tokens_per_target_pass == of_ratio([10, 90], [5, 30])
    assert row.acceptance_rate.value == pytest.approx(78 / 93)


def test_of_others_nothing_is_known_of_the_work() -> None:
    row = compared(runs(AR, 1.0), runs(LIBRARY, 2.0), systems=(AR, LIBRARY))["HF generate"]

    assert row.acceptance_rate == row.wasted == row.draft_idle == Estimate(None)
    assert row.allowed is None


def test_memory_is_the_most_of_any_run_and_energy_the_mean_of_a_token() -> None:
    first = one(PEARL, 0, 1.0, memory_bytes=100, joules=4.0)
    second = one(PEARL, 1, 1.0, memory_bytes=300, joules=12.0)

    row = compared(runs(AR, 1, 1), runs(SD, 1, 1), [first, second])["PEARL 5"]

    assert row.memory_bytes == 300
    assert row.joules_per_token == 1.0


def test_a_meter_that_failed_once_says_nothing() -> None:
    known, unknown = one(PEARL, 0, 1.0, joules=4.0), one(PEARL, 1, 1.0)

    row = compared(runs(AR, 1, 1), runs(SD, 1, 1), [known, unknown])["PEARL 5"]

    assert row.joules_per_token is None
    assert row.memory_bytes is None


# -- texts ---------------------------------------------------------------------------------------


def test_a_text_that_is_not_ars_is_named_with_its_place() -> None:
    wrong = one(PEARL, 1, 1.0, tokens=(*TEXT[:5], 99, *TEXT[6:]), round=2)

    found = compared(runs(AR, 1, 1), runs(SD, 1, 1), [*runs(PEARL, 1, 1), wrong])

    assert found.differences == (Difference(system="PEARL 5", prompt=1, round=2, token=5),)
    assert found["PEARL 5"].same_text is False
    assert found["SD 4"].same_text is True


def test_ar_itself_must_write_the_same_in_every_round() -> None:
    again = one(AR, 0, 1.0, tokens=TEXT[:7], round=2)

    (difference,) = differences([AR], [*runs(AR, 1.0), again])

    assert (difference.system, difference.token) == ("AR", 7)


def test_texts_from_other_coins_are_not_compared() -> None:
    sampled = replace(LIBRARY, same_text=False)

    found = report([AR, sampled], [*runs(AR, 1.0), *runs(sampled, 1.0, tokens=(9, 9))])

    assert found.differences == ()
    assert found["HF generate"].same_text is None


def test_texts_part_where_one_ends() -> None:
    assert first_difference((1, 2, 3), (1, 2)) == 2
    assert first_difference((1, 2, 3), (1, 7, 3)) == 1


# -- theory at a run's own values ------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        Settings(schedule="ar"),
        Settings(schedule="sd", gamma=4),
        Settings(gamma=5, strict=True),
        Settings(gamma=4, head_start=1),
    ],
    ids=lambda settings: f"{settings.schedule} {settings.gamma} {settings.head_start}",
)
def test_where_messages_take_no_time_all_that_is_allowed_is_achieved(settings: Settings) -> None:
    found = allowed(decoded(settings))

    assert found is not None
    assert found.efficiency.value == pytest.approx(1)
    assert found.control_us is not None
    assert found.control_us.p99 == pytest.approx(0, abs=1e-6)


def test_what_messages_take_is_missing() -> None:
    """A tenth of a pass for every round, of a target that waits for every command."""
    network = Network(control_s=PASS_S / 10, foresight=False)
    requests = decoded(Settings(schedule="ar"), network=network)

    found = allowed(requests)

    assert found is not None
    assert found.efficiency.value == pytest.approx(1 / 1.1, rel=1e-3)
    assert found.control_us is not None
    assert found.control_us.p50 == pytest.approx(1e5 * PASS_S)


@pytest.mark.parametrize(
    "settings",
    [Settings(schedule="ar"), Settings(gamma=4)],
    ids=lambda settings: str(settings.schedule),
)
def test_messages_that_nobody_waits_for_are_not_missing(settings: Settings) -> None:
    """A target that goes on before it is told: jobs began before they were sent."""
    found = allowed(decoded(settings, network=Network(control_s=PASS_S / 10)))

    assert found is not None
    assert found.efficiency.value == pytest.approx(1, rel=0.005)
    assert found.control_us is not None
    assert found.control_us.p50 == 0.0


def test_theory_is_asked_at_each_requests_own_acceptance() -> None:
    requests = decoded(Settings(gamma=5, strict=True))
    rates = [float(acceptance([request.luck]).independent) for request in requests]

    found = allowed(requests)

    assert found is not None
    assert whole_requests(requests) == pytest.approx(
        [
            len(r.tokens) / (PASS_S + (len(r.tokens) - 1) * PASS_S / pearl(rate, 5, 5).speedup)
            for r, rate in zip(requests, rates, strict=True)
        ]
    )
    assert found.tokens_per_s == of_median(whole_requests(requests)).value


def test_theory_and_measurement_are_of_the_same_whole_requests() -> None:
    """Prompts that take long to be read weigh on both, so what is achieved is about all of it."""
    pair = Pair(draft=Constant(PASS_S / 5), target=Affine(base=PASS_S, per_token=PASS_S / 20))
    alone, ours = Settings(schedule="ar"), Settings(gamma=5, strict=True)
    network = Network(foresight=False)
    found = {s.schedule: decoded(s, pair=pair, prompt=2000, network=network) for s in (alone, ours)}
    speeds = {
        name: [len(r.tokens) / traces.metrics(r).seconds for r in own]
        for name, own in found.items()
    }

    said = allowed(found["pearl"], found["ar"])

    assert said is not None
    assert said.speed_over_ar is not None
    assert whole_requests(found["ar"]) == pytest.approx(speeds["ar"])
    assert whole_requests(found["pearl"]) == pytest.approx(speeds["pearl"], rel=0.06)
    ratios = [own / ar for own, ar in zip(speeds["pearl"], speeds["ar"], strict=True)]
    assert said.speed_over_ar == pytest.approx(of_median(ratios).value, rel=0.04)
    assert said.speed_over_ar < 1.6  # where the tokens behind the first come twice as fast


def test_a_policy_that_never_asked_the_draft_is_allowed_what_ar_is() -> None:
    alone = decoded(Settings(schedule="ar"))
    resting = [replace(request, settings=Settings(gamma="auto")) for request in alone]

    said = allowed(resting, alone)

    assert said is not None
    assert said.speed_over_ar == 1
    assert said.efficiency.value == pytest.approx(1)


def test_times_are_those_behind_the_prompt() -> None:
    """The first pass and the first window read all of it, and are left out."""
    pair = Pair(draft=Affine(base=0.25, per_token=0.25), target=Affine(base=1.0, per_token=0.5))

    found = own_constants(decoded(Settings(gamma=2, strict=True), pair=pair, prompt=100))
    alone = own_constants(decoded(Settings(schedule="ar"), pair=pair, prompt=100))

    assert alone is not None
    assert alone.pass_s == pytest.approx(pair.target.seconds(1))
    assert found is not None
    assert pair.target.seconds(1) <= found.pass_s <= pair.target.seconds(2)
    assert pair.draft.seconds(1) <= found.step_s <= pair.draft.seconds(2)
    assert own_constants([]) is None


def test_what_theory_allows_is_told_over_what_it_allows_ar() -> None:
    traced = {"AR": decoded(AR.settings or Settings()), "PEARL 5": decoded(Settings(gamma=5))}

    found = report([AR, PEARL], [*runs(AR, *[1.0] * 6), *runs(PEARL, *[0.5] * 6)], traced)

    ar, pearl = found["AR"].allowed, found["PEARL 5"].allowed
    assert ar is not None
    assert pearl is not None
    assert ar.speed_over_ar == 1.0
    assert pearl.tokens_per_s is not None
    assert pearl.speed_over_ar == pytest.approx(pearl.tokens_per_s * PASS_S)
