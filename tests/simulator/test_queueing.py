"""A loaded pair against queueing theory: the target alone, one request at a time, is one server."""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
import pytest

from pearl.simulator.answers import run, simulate
from pearl.simulator.links import Network
from pearl.simulator.workload import (
    ClosedLoop,
    Fixed,
    Geometric,
    Lengths,
    Poisson,
    Recorded,
    Times,
    Workload,
)
from pearl.simulator.world import Scenario
from tests.simulator.measuring import AR, PASS_S, latencies, wider

REPLICATIONS: Final = 60
TOLD: Final = Network(foresight=False)


def waiting(service: float, second_moment: float, load: float) -> float:
    """Mean wait in a queue of Poisson arrivals (Pollaczek 1930, Khinchine 1932)."""
    return load / service * second_moment / (2 * (1 - load))


def require_mean_wait(output: Lengths, load: float, mean: float, square: float) -> None:
    """Mean and mean square are those of the outputs' lengths, in tokens."""
    arrivals = Poisson(load / (mean * PASS_S))
    workload = Workload(requests=500, arrivals=arrivals, output=output, slots=1)
    answer = simulate(Scenario(settings=AR, workload=workload), replications=REPLICATIONS, seed=2)

    expected = waiting(mean, square, load) * PASS_S
    # The queue begins empty: the first few requests of the 500 wait less.
    edge = 0.02 * expected
    found = answer.requests.queue_s
    assert abs(float(found) - expected) <= wider(found, REPLICATIONS) + edge


@pytest.mark.slow
@pytest.mark.parametrize("load", [0.3, 0.6])
def test_requests_of_one_length_wait_as_in_an_m_d_1_queue(load: float) -> None:
    require_mean_wait(Fixed(3), load, 3, 9)


@pytest.mark.slow
def test_requests_of_random_length_wait_as_in_an_m_g_1_queue() -> None:
    """Geometric lengths of mean m have the mean square m (2 m - 1)."""
    require_mean_wait(Geometric(4), 0.5, 4, 4 * 7)


def test_two_slots_wait_less_than_one() -> None:
    """With slots for all nobody waits for one; passes are shared, and all are done sooner."""
    load = Workload(requests=200, arrivals=Poisson(4.0), output=Fixed(6), slots=1)
    queue = []
    for slots in (1, 2, None):
        scenario = Scenario(settings=AR, workload=msgspec.structs.replace(load, slots=slots))
        queue.append(float(simulate(scenario, replications=3).requests.queue_s))

    assert queue[0] > queue[1] > queue[2] == 0


@pytest.mark.parametrize("users", [1, 2, 7])
@pytest.mark.parametrize("network", [Network(), TOLD], ids=["foresight", "told"])
def test_users_without_pauses_get_a_token_each_with_every_pass(
    users: int, network: Network
) -> None:
    """A closed loop keeps the batch full; throughput is a token a user and pass."""
    load = Workload(requests=5 * users, arrivals=ClosedLoop(users), output=Fixed(10))
    answer = simulate(Scenario(settings=AR, network=network, workload=load), replications=1)

    assert answer.requests.tokens_per_s.value == pytest.approx(users / PASS_S)
    assert answer.requests.latency_s.value == pytest.approx(10 * PASS_S)


@pytest.mark.parametrize("slots", [1, 2, None])
@pytest.mark.parametrize("network", [Network(), TOLD], ids=["foresight", "told"])
def test_users_without_pauses_obey_littles_law(slots: int | None, network: Network) -> None:
    """Users = throughput x time in the system, whatever the slots, while all of them ask."""
    load = Workload(requests=12, arrivals=ClosedLoop(4), output=Fixed(10), slots=slots)
    played = run(Scenario(settings=AR, network=network, workload=load))

    last_arrival = max(served.arrived for served in played.served)
    until = [
        min(served.finished, last_arrival) - min(served.arrived, last_arrival)
        for served in played.served
    ]
    assert sum(until) == pytest.approx(4 * last_arrival)


def test_arrivals_that_were_recorded_come_when_they_did() -> None:
    seconds = (0.5, 0.75, 3.0)
    load = Workload(requests=3, arrivals=Times(seconds), output=Recorded((4, 8, 2)))
    played = run(Scenario(settings=AR, workload=load))

    arrived = {served.arrived: served.metrics.tokens for served in played.served}
    assert arrived == {0.5: 4, 0.75: 8, 3.0: 2}
    assert len(latencies(played)) == 3


@pytest.mark.slow
def test_poisson_arrivals_come_at_their_rate() -> None:
    """The gaps between 20,000 requests have mean and deviation 1 / rate."""
    load = Workload(requests=20_000, arrivals=Poisson(8.0), output=Fixed(1))
    arrived = sorted(s.arrived for s in run(Scenario(settings=AR, workload=load)).served)
    gaps = np.diff(arrived)

    # Errors of mean and deviation are 0.7 % and 1 %; five of them pass once in a million.
    assert float(gaps.mean()) == pytest.approx(1 / 8, rel=0.035)
    assert float(gaps.std()) == pytest.approx(1 / 8, rel=0.05)
