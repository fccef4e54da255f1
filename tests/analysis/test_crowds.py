"""Several requests at once: measured growth, and the one that pass times allow."""

from __future__ import annotations

from typing import Final

import pytest

from pearl.analysis.crowds import BatchTimes, Crowd, allowed, levels
from pearl.analysis.statistics import acceptance
from pearl.analysis.traces import Request
from pearl.decoding.estimates import of_ratio
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run
from pearl.simulator.costs import Affine
from pearl.simulator.workload import ClosedLoop, Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.analysis.decoded import decoded
from tests.analysis.forms import pearl, sd

AR: Final = Settings(schedule="ar")
SD: Final = Settings(schedule="sd", gamma=4)
PEARL: Final = Settings(gamma=5, strict=True)


def step(tokens: int, rows: int) -> float:
    """Of the draft: a further row costs a tenth, a further token a step."""
    return 0.2 * tokens * (0.9 + 0.1 * rows)


def judge(tokens: int, rows: int) -> float:
    """Of the target: a further row costs half a pass, a further token a twentieth."""
    return 0.5 + 0.5 * rows + 0.05 * (tokens - 1)


TIMES: Final = BatchTimes(draft=step, target=judge)


def crowd(name: str, requests: list[Request], seconds: float) -> Crowd:
    """Users with one request each."""
    return Crowd(
        system=name,
        in_flight=len(requests),
        requests=tuple(requests),
        seconds=seconds,
        tokens=sum(len(request.tokens) for request in requests),
    )


def test_growth_is_over_the_smallest_number_and_over_ar_with_as_many() -> None:
    alone, pearl = decoded(AR), decoded(PEARL)  # texts of 200 tokens
    crowds = [
        crowd("AR", alone[:1], 200.0),
        crowd("PEARL", pearl[:1], 100.0),
        crowd("AR", alone[:4], 400.0),
        crowd("PEARL", pearl[:4], 400.0),
    ]

    found = {(n.system, n.in_flight): n for n in levels(crowds, None)}

    assert [n.growth for n in found.values()] == [1, 1, 2, 1]
    assert [n.over_ar for n in found.values()] == [1, 2, 1, 1]
    assert {n.growth_in_theory for n in found.values()} == {None}


def test_crowds_of_one_number_are_one_speed_with_its_interval() -> None:
    alone = decoded(AR)

    (level,) = levels([crowd("AR", alone[:2], 200.0), crowd("AR", alone[2:4], 100.0)], None)

    assert level.in_flight == 2
    assert level.tokens_per_s == of_ratio([400, 400], [200, 100])


def test_numbers_ascend_and_systems_stand_in_one_order_whatever_came_first() -> None:
    alone, pearl = decoded(AR), decoded(PEARL)
    crowds = [
        crowd("AR", alone[:1], 1.0),
        crowd("PEARL", pearl[:1], 1.0),
        crowd("PEARL", pearl[:2], 1.0),
        crowd("AR", alone[:2], 1.0),
    ]

    found = levels(crowds, TIMES)

    names = [(n.in_flight, n.system) for n in found]
    assert names == [(1, "AR"), (1, "PEARL"), (2, "AR"), (2, "PEARL")]


def test_alone_the_target_is_allowed_a_token_a_row_of_each_pass() -> None:
    alone = decoded(AR)

    assert allowed([crowd("AR", alone[:4], 1.0)], TIMES) == pytest.approx(4 / judge(1, 4))


def rate_of(requests: list[Request]) -> float:
    return float(acceptance([request.luck for request in requests]).independent)


def test_with_a_draft_passes_and_steps_are_of_as_many_rows() -> None:
    """A round of three rows lasts as long as its window or its pass, and settles 3 tau."""
    requests = decoded(PEARL)[:3]

    found = allowed([crowd("", requests, 1.0)], TIMES)

    tokens = 3 * pearl(rate_of(requests), 5).tokens_per_pass
    assert found == pytest.approx(tokens / max(5 * step(1, 3), judge(5, 3)))


def test_while_one_request_is_drafted_another_is_judged() -> None:
    """Until the slower of the devices never rests; passes of two rows must not cost more."""
    requests = decoded(SD)[:2]
    dear = BatchTimes(draft=step, target=lambda tokens, rows: rows * judge(tokens, 1))

    found = allowed([crowd("", requests, 1.0)], dear)

    rounds_per_s = 1 / max(4 * step(1, 1), judge(5, 1))
    assert found == pytest.approx(sd(rate_of(requests), 4).tokens_per_pass * rounds_per_s)


def test_one_request_takes_turns_with_itself_alone() -> None:
    requests = decoded(SD)[:1]

    found = allowed([crowd("", requests, 1.0)], TIMES)

    seconds = 4 * step(1, 1) + judge(5, 1)
    assert found == pytest.approx(sd(rate_of(requests), 4).tokens_per_pass / seconds)


@pytest.mark.parametrize("users", [1, 3])
def test_a_simulated_crowd_is_as_fast_as_it_is_allowed_to_be(users: int) -> None:
    """Passes and steps whose time depends on the rows alone, so that all users stay in step."""
    pair = Pair(draft=Affine(base=0.01, per_row=0.001), target=Affine(base=0.04, per_row=0.02))
    load = Workload(requests=users, arrivals=ClosedLoop(users), output=Fixed(2000))
    scenario = Scenario(settings=PEARL, acceptance=Independent(0.8), pair=pair, workload=load)
    records = run(scenario, seed=4, trace=True).records
    own = [tuple(record for record in records if record.request == n) for n in range(users)]
    requests = [Request(name="", settings=PEARL, prompt=1, records=each) for each in own]
    seconds = min(each[-1].at - each[0].at for each in own)

    found = allowed(
        [crowd("", requests, seconds)],
        BatchTimes(draft=pair.draft.seconds, target=pair.target.seconds),
    )

    assert found == pytest.approx(users * 2000 / seconds, rel=0.05)


def test_growth_in_theory_is_over_that_of_the_smallest_number() -> None:
    alone = decoded(AR)
    crowds = [crowd("AR", alone[:1], 200.0), crowd("AR", alone[:4], 300.0)]

    one, four = levels(crowds, TIMES)

    assert one.growth_in_theory == 1
    assert four.growth_in_theory == pytest.approx(4 * judge(1, 1) / judge(1, 4))
