from __future__ import annotations

import pytest

from pearl.actors.training.budget import Budget, RowBudget


def test_the_learning_rate_warms_up_stays_and_ends_at_zero() -> None:
    budget = Budget(minutes=1.0, rate=0.004, warm_up_steps=10, decay_from=0.6)

    assert budget.rate_at(0.0, 0) == pytest.approx(0.0004)
    assert budget.rate_at(0.6, 100) == pytest.approx(0.004)
    assert budget.rate_at(0.8, 200) == pytest.approx(0.002)
    assert budget.rate_at(1.0, 300) == 0.0


def test_training_ends_with_the_longest_sequences() -> None:
    """Positions that were never trained would be noise, so the last part reads long sequences."""
    budget = Budget(minutes=1.0, rate=0.004, lengths=((0.0, 256), (0.8, 1024)))

    assert [budget.length(progress) for progress in (0.0, 0.79, 0.8, 1.0)] == [256, 256, 1024, 1024]


def test_rows_are_written_until_there_are_enough() -> None:
    assert RowBudget(tokens=1000, length=10, at_once=10).batches == 10
    assert RowBudget(tokens=1001, length=10, at_once=10).batches == 11
