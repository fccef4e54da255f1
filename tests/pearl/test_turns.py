"""Who runs when: everybody equally often, and nobody always in the same place."""

from __future__ import annotations

import itertools
from collections import Counter

from pearl.harness.turns import rotated, turns


def test_every_prompt_is_decoded_by_every_system_in_every_round() -> None:
    found = turns(["AR", "SD"], ["a", "b", "c"], rounds=2)

    assert Counter(
        (turn.system, turn.prompt, turn.number, turn.round) for turn in found
    ) == Counter(
        (system, prompt, number, lap)
        for system in ("AR", "SD")
        for number, prompt in enumerate("abc")
        for lap in range(2)
    )
    assert [turn.round for turn in found] == [0] * 6 + [1] * 6
    assert {turn.system for turn in found[::2]} == {"AR", "SD"}, "each prompt begins with another"


def test_everybody_comes_first_and_behind_everybody_else_equally_often() -> None:
    """Seven systems in forty-two orders: also the cold caches of a neighbour are shared."""
    orders = [rotated("ABCDEFG", by) for by in range(42)]

    assert all(sorted(order) == list("ABCDEFG") for order in orders)
    assert set(Counter(order[0] for order in orders).values()) == {6}
    pairs = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert len(pairs) == 42
    assert set(pairs.values()) == {6}
    assert rotated("A", 5) == ["A"]
    assert rotated("", 5) == []
