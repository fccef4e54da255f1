"""Figures are drawn by scripts, and the drawings in the repository are the ones they make."""

from __future__ import annotations

import runpy
from pathlib import Path

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"


def test_the_picture_of_the_rounds_is_what_its_script_draws() -> None:
    script = runpy.run_path(str(FIGURES / "rounds.py"))

    assert script["draw"]() == (FIGURES / "rounds.svg").read_text(encoding="utf-8")


def test_the_picture_commits_as_many_tokens_as_the_rules_say() -> None:
    """Counted by hand: one error at token 12, six target passes' time, windows of four."""
    script = runpy.run_path(str(FIGURES / "rounds.py"))

    committed = {
        name: [round_.committed for round_ in script[name]()]
        for name in ("autoregressive", "speculative", "parallel")
    }

    assert committed == {
        "autoregressive": [1, 1, 1, 1, 1, 1],
        "speculative": [5, 5, 2],
        "parallel": [1, 4, 4, 3, 1, 4],
    }


def test_the_table_of_states_in_the_documentation_is_the_one_in_the_code() -> None:
    script = runpy.run_path(str(FIGURES / "transitions.py"))
    page = script["PAGE"].read_text(encoding="utf-8")

    assert f"{script['BEGIN']}{script['draw']()}{script['END']}" in page
