"""Answers over replications: intervals, and the target alone beside them."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from pearl.decoding.errors import SettingError
from pearl.decoding.messages import TARGET
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Independent, Mixture
from pearl.simulator.answers import Answer, run, runs_of, simulate
from pearl.simulator.costs import Constant, Spread
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.parallel import spread
from pearl.simulator.workload import Fixed, Geometric, Poisson, Workload
from pearl.simulator.world import Pair, Scenario
from tests.simulator.measuring import AR, PASS_S, one, pearl, sd, several, total_tokens

PLAIN: Final = Scenario(settings=pearl(5), workload=one(300))
LOADED: Final = Scenario(
    settings=pearl(5, strict=False),
    acceptance=Mixture((0.5, 0.9), (1, 1)),
    workload=Workload(requests=5, arrivals=Poisson(2.0), output=Geometric(40), slots=2),
)


def test_an_answer_does_not_depend_on_the_number_of_workers() -> None:
    answers = [simulate(LOADED, seed=4, replications=3, workers=workers) for workers in (1, 2)]

    assert answers[0] == answers[1]


def test_jobs_are_done_in_their_order_whoever_does_them() -> None:
    assert list(spread(abs, range(-20, 0), workers=2)) == list(range(20, 0, -1))


def test_the_same_seed_gives_the_same_answer_and_another_one_another() -> None:
    first, again, other = (simulate(LOADED, seed=seed, replications=2) for seed in (4, 4, 5))

    assert first == again
    assert first.seconds != other.seconds


def test_the_first_replications_stay_when_more_are_made() -> None:
    assert run(LOADED, seed=1, replication=2) == run(LOADED, seed=1, replication=2)
    few, many = (simulate(PLAIN, replications=n).as_json() for n in (2, 3))
    runs = [run(PLAIN, replication=n).seconds for n in range(3)]

    assert few["seconds"] == pytest.approx(sum(runs[:2]) / 2)
    assert many["seconds"] == pytest.approx(sum(runs) / 3)


def test_the_target_alone_is_its_own_measure() -> None:
    answer = simulate(Scenario(settings=AR, workload=one(50)), replications=2)

    assert answer.speedup_over_ar.interval == (1.0, 1.0)
    assert answer.draft_idle.value == 1.0
    assert answer.wasted.value == 0.0
    assert answer.acceptance_rate.value is None
    assert answer.gamma == 0


def test_the_speedup_is_against_the_same_requests_with_the_same_luck() -> None:
    """Mean time of a request with the target alone, over the same with the schedule."""
    alone = msgspec.structs.replace(LOADED, settings=AR)

    def mean_s(scenario: Scenario) -> float:
        served = [s for n in range(3) for s in run(scenario, seed=2, replication=n).served]
        return sum(s.finished - s.arrived for s in served) / len(served)

    answer = simulate(LOADED, seed=2, replications=3)

    assert answer.speedup_over_ar.value == pytest.approx(mean_s(alone) / mean_s(LOADED))


VARIED: Final = Pair(draft=Constant(PASS_S / 5), target=Spread(around=Constant(1), variation=0.1))


@pytest.mark.parametrize(
    ("scenario", "runs"),
    [
        (PLAIN, 4 + 1),
        (msgspec.structs.replace(PLAIN, settings=AR), 4),
        (msgspec.structs.replace(PLAIN, pair=VARIED), 4 + 4),
        (LOADED, 4 + 4),
    ],
)
def test_events_are_counted_once_for_each_run_that_was_made(scenario: Scenario, runs: int) -> None:
    """The target alone is run once where it always does the same."""
    made: list[None] = []
    answer = simulate(scenario, replications=4, progress=lambda: made.append(None))

    assert len(made) == runs_of(scenario, 4) == runs
    alone = msgspec.structs.replace(scenario, settings=AR)
    events = [run(scenario, replication=n).events for n in range(4)]
    events += [run(alone, replication=n).events for n in range(runs - 4)]
    assert answer.events == sum(events)


def test_faults_strike_the_target_alone_as_well() -> None:
    """The comparison is with the same scenario."""
    crash = Fault(device=TARGET, kind=FaultKind.CRASH, at=0.0, seconds=5.0)
    scenario = msgspec.structs.replace(PLAIN, faults=(crash,))
    answer = simulate(scenario, replications=1)

    expected = (5 + 300 * PASS_S) / run(scenario).seconds
    assert answer.speedup_over_ar.value == pytest.approx(expected)


def test_one_replication_gives_values_without_intervals() -> None:
    answer = simulate(PLAIN, replications=1)

    assert answer.speedup_over_ar.interval is None
    assert answer.speedup_over_ar.value is not None


def test_where_nothing_is_random_intervals_have_no_width() -> None:
    scenario = msgspec.structs.replace(PLAIN, acceptance=Independent(1.0))
    answer = simulate(scenario, replications=3)

    assert answer.seconds.low == answer.seconds.high == answer.seconds.value


def test_the_parts_of_a_devices_time_sum_to_the_run() -> None:
    answer = simulate(LOADED, replications=3)

    for waiting in (answer.draft, answer.target):
        parts = [float(part) for part in msgspec.structs.astuple(waiting)]
        assert sum(parts) == pytest.approx(float(answer.seconds))


def test_an_answer_is_flat_for_machines_with_intervals_apart() -> None:
    answer = simulate(PLAIN, replications=2)
    flat = answer.as_json()

    assert flat["speedup_over_ar"] == answer.speedup_over_ar.value
    assert flat["interval"]["speedup_over_ar"] == answer.speedup_over_ar.interval
    assert flat["run_length"]["emitted"] == answer.run_length.emitted.value
    assert flat["interval"]["run_length"]["emitted"] == answer.run_length.emitted.interval
    assert set(flat) - {"interval"} == set(Answer.__struct_fields__)
    assert msgspec.json.decode(msgspec.json.encode(flat))["replications"] == 2


@pytest.mark.parametrize("settings", [sd(3), pearl(3), Settings(gamma="auto", strict=True)])
def test_an_answer_adds_up_what_its_requests_did(settings: Settings) -> None:
    scenario = Scenario(settings=settings, workload=several(3, 50))
    played = run(scenario)
    answer = simulate(scenario, replications=1)

    passes = sum(served.metrics.target_passes for served in played.served)
    assert answer.tokens.value == total_tokens(played) == 150
    assert answer.target_passes.value == passes
    assert answer.tokens_per_target_pass.value == pytest.approx(150 / passes)
    assert answer.requests.tokens_per_s.value == pytest.approx(150 / played.seconds)
    assert answer.requests.served == 3
    assert answer.schedule is settings.schedule


def test_quantiles_of_the_latency_lie_in_order() -> None:
    found = simulate(LOADED, replications=2).requests
    ordered = [found.latency_p50_s, found.latency_p95_s, found.latency_p99_s]

    assert sorted(map(float, ordered)) == [*map(float, ordered)]
    assert float(found.first_token_s) < float(found.latency_s)
    assert float(found.queue_s) < float(found.first_token_s)


@pytest.mark.parametrize("replications", [0, -3])
def test_no_replications_are_refused(replications: int) -> None:
    message = f"^replications is {replications}; it must be 1 or more$"
    with pytest.raises(SettingError, match=message):
        simulate(PLAIN, replications=replications)


def test_the_scenario_of_the_theory_is_the_default() -> None:
    """PEARL with a barrier, gamma = c = 5, a = 0.8, one request, nothing between the devices."""
    scenario = Scenario(workload=Workload(output=Fixed(30)))

    assert scenario.settings.schedule == "pearl"
    assert scenario.settings.strict
    assert scenario.settings.gamma == scenario.pair.speed_ratio == 5
    assert scenario.acceptance == Independent(0.8)
