"""Several requests at once: measured growth, and the one that pass times allow."""

from __future__ import annotations

from typing import Final

import pytest

from analysis import theory
from analysis.crowds import BatchTimes, Crowd, allowed, levels
from analysis.statistics import acceptance
from analysis.traces import Request
from decoding.estimates import of_ratio
from decoding.settings import ScheduleName, Settings
from tests.analysis.test_benchmark import decoded

AR: Final = Settings(schedule=ScheduleName.AR)
SD: Final = Settings(schedule=ScheduleName.SD, gamma=4)
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


def closed_form(settings: Settings, requests: list[Request], rows: int) -> float:
    """Tokens a second of as many rows that go together."""
    form = theory.pearl_speedup if settings is PEARL else theory.speculative_speedup
    rate = float(acceptance([request.luck for request in requests]).independent)
    pass_s = judge(5, rows)  # of gamma, or of gamma and the token before
    return rows * float(form(rate, int(settings.gamma), pass_s / step(1, rows))) / pass_s


def test_with_a_draft_the_closed_form_has_passes_and_steps_of_as_many_rows() -> None:
    requests = decoded(PEARL)[:3]

    found = allowed([crowd("", requests, 1.0)], TIMES)

    assert found == pytest.approx(closed_form(PEARL, requests, 3))


def test_while_one_request_is_drafted_another_is_judged() -> None:
    """Until the slower of the devices never rests; passes of two rows must not cost more."""
    requests = decoded(SD)[:2]
    dear = BatchTimes(draft=step, target=lambda tokens, rows: rows * judge(tokens, 1))
    drafting, judging = 4 * step(1, 1), judge(5, 1)

    found = allowed([crowd("", requests, 1.0)], dear)

    assert found == pytest.approx(
        closed_form(SD, requests, 1) * (drafting + judging) / max(drafting, judging)
    )


def test_one_request_takes_turns_with_itself_alone() -> None:
    requests = decoded(SD)[:1]

    assert allowed([crowd("", requests, 1.0)], TIMES) == pytest.approx(closed_form(SD, requests, 1))


def test_growth_in_theory_is_over_that_of_the_smallest_number() -> None:
    alone = decoded(AR)
    crowds = [crowd("AR", alone[:1], 200.0), crowd("AR", alone[:4], 300.0)]

    one, four = levels(crowds, TIMES)

    assert one.growth_in_theory == 1
    assert four.growth_in_theory == pytest.approx(4 * judge(1, 1) / judge(1, 4))
