"""What theory is asked, in the letters of its notation."""
# ruff: noqa: E741 - l is the letter of the notation

from __future__ import annotations

from typing import Any

from pearl.analysis.theory import Assumptions, Expected, expected
from pearl.decoding.kinds import ScheduleKind

EAGER = ScheduleKind(
    title="EAGER",
    summary="the draft writes before the first pass of a run and beside every pass",
    numbers=lambda gamma, _: (gamma, gamma),
    settings=frozenset({"strict"}),
)
"""A schedule that no table has."""


def pearl_at(a: Any, g: Any = 1, c: Any = 1, k: Any = 0, l: Any = 0, **costs: Any) -> Assumptions:
    """PEARL with acceptance a, gamma g, speed ratio c, head start k and overhead l."""
    return Assumptions("pearl", a, g, c, head_start=k, overhead=l, **costs)


def sd_at(a: Any, g: Any = 1, c: Any = 1, l: Any = 0, **costs: Any) -> Assumptions:
    """Speculative decoding, the same."""
    return Assumptions("sd", a, g, c, overhead=l, **costs)


def pearl(a: Any, g: Any = 1, c: Any = 1, k: Any = 0, l: Any = 0, **costs: Any) -> Expected:
    """What theory says of it."""
    return expected(pearl_at(a, g, c, k, l, **costs))


def sd(a: Any, g: Any = 1, c: Any = 1, l: Any = 0, **costs: Any) -> Expected:
    """What theory says of it."""
    return expected(sd_at(a, g, c, l, **costs))
