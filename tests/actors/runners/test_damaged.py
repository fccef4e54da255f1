"""What is said of a folder before it is loaded is what loading it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.actors.runners.damage import DAMAGE, damaged, words

KINDS = list(DAMAGE)
SAMPLE = [number for lap in (0, 5) for number in range(lap * len(KINDS), (lap + 1) * len(KINDS))]
"""Twice each kind; `benchmarks/damaged.py` goes through hundreds."""


@pytest.mark.slow
@pytest.mark.parametrize("number", SAMPLE)
def test_the_check_before_loading_and_loading_agree(number: int, tmp_path: Path) -> None:
    """To the word, and in one line; what fits is loaded and writes."""
    what = damaged(number, tmp_path / "model")

    before, loading = words(tmp_path / "model")

    assert before == loading, what
    assert "\n" not in before
    assert not before or str(tmp_path) in before or before.endswith("all attention"), what
