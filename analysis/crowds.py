"""Several requests at once: what a whole batch gains, and what its pass times allow it.

A *crowd* is so many users at once: each asks for the next text when the last has ended. Its speed
counts the time in which every user had a request under way. Theory has the same closed forms as for
one request, with passes and steps of as many rows. Requests that take turns with the draft leave
the target to others meanwhile: so a crowd may also go in groups, and what the pass times allow is
that of the best number of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from pearl.analysis.parameters import Constants, rate_of, tokens_per_s, window
from pearl.analysis.theory import Assumptions
from pearl.analysis.traces import Request
from pearl.decoding.errors import SettingError
from pearl.decoding.estimates import Estimate, of_ratio
from pearl.decoding.settings import Settings

PassTime: TypeAlias = Callable[[int, int], float]
"""Seconds of a pass over so many tokens in each of so many rows."""


class BatchTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long passes take, as measured: of the draft, whose steps read one token, and the target.

    Outside what was measured they continue as straight lines.
    """

    draft: PassTime
    target: PassTime


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """One system serving so many users.

    Args:
        requests: all that they asked for.
        seconds, tokens: while all users had a request under way.
    """

    system: str
    in_flight: int
    requests: tuple[Request, ...]
    seconds: float
    tokens: int


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One system at one number of requests at once.

    Args:
        tokens_per_s: while all users had a request under way.
        growth: that over what the smallest number gives; None where that was not run.
        growth_in_theory: the same of the closed forms, at the measured pass times.
        over_ar: over AR at the same number.
    """

    system: str
    in_flight: int
    tokens_per_s: Estimate
    growth: float | None
    growth_in_theory: float | None
    over_ar: float | None


def levels(crowds: Sequence[Crowd], times: BatchTimes | None) -> list[Level]:
    """Of all crowds, by number of users, and of each number by system, as they came first.

    Args:
        crowds: of equally many users where they are of one level.
        times: of the pair; None where too little was measured.
    """
    found: dict[tuple[str, int], list[Crowd]] = {}
    for crowd in crowds:
        found.setdefault((crowd.system, crowd.in_flight), []).append(crowd)
    names = dict.fromkeys(system for system, _ in found)
    sizes = sorted({number for _, number in found})
    fewest = min(sizes, default=0)
    speeds = {key: of_ratio(*_sums(own)) for key, own in found.items()}
    said = {} if times is None else {key: allowed(own, times) for key, own in found.items()}
    settings = {crowd.system: crowd.requests[0].settings for crowd in crowds}
    alone = next((name for name, own in settings.items() if not own.kind.drafts), "")
    return [
        Level(
            system=system,
            in_flight=number,
            tokens_per_s=speeds[system, number],
            growth=_over(speeds[system, number].value, speeds.get((system, fewest))),
            growth_in_theory=_over(said.get((system, number)), said.get((system, fewest))),
            over_ar=_over(speeds[system, number].value, speeds.get((alone, number))),
        )
        for number in sizes
        for system in names
        if (system, number) in found
    ]


def _sums(crowds: Sequence[Crowd]) -> tuple[list[int], list[float]]:
    return [crowd.tokens for crowd in crowds], [crowd.seconds for crowd in crowds]


def _over(above: float | None, below: Estimate | float | None) -> float | None:
    base = below.value if isinstance(below, Estimate) else below
    return None if above is None or not base else above / base


def allowed(crowds: Sequence[Crowd], times: BatchTimes) -> float | None:
    """Tokens a second that the closed forms give a crowd; None where nothing was compared."""
    requests = [request for crowd in crowds for request in crowd.requests]
    settings, number = requests[0].settings, crowds[0].in_flight
    rate = rate_of(requests)
    if rate is None:
        return None
    try:
        gamma = window(requests)
    except SettingError:
        return None  # the draft was never asked for anything
    return max(
        rows * _row_speed(settings, gamma, rate, times, rows=rows, groups=number // rows)
        for rows in range(1, number + 1)
    )


def _row_speed(
    settings: Settings, gamma: int, rate: float, times: BatchTimes, *, rows: int, groups: int
) -> float:
    """Tokens a second of all groups together, for each row of a group.

    While one group is drafted another is judged, until the slower device never rests.
    """
    assumed = Assumptions(settings.schedule, rate, max(gamma, 1), head_start=settings.head_start)
    constants = Constants(
        step_s=times.draft(1, rows), pass_s=times.target(int(assumed.later), rows)
    )
    drafting = 0.0 if assumed.kind.parallel else float(assumed.before) * constants.step_s
    slower, faster = max(drafting, constants.pass_s), min(drafting, constants.pass_s)
    return min(groups, 1 + faster / slower) * tokens_per_s(settings, gamma, rate, constants)
