"""The interval of an estimate, asked for by tests."""

from __future__ import annotations

from pearl.decoding.estimates import (
    Estimate,
)


def ends(found: Estimate) -> tuple[float, float]:
    """Its interval, which it has."""
    assert found.interval is not None
    return found.interval


def holds(found: Estimate, truth: float) -> bool:
    low, high = ends(found)
    return low <= truth <= high
