"""The luck of a text: its rates, its correlations, and that it is the same for whoever asks."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.decoding.errors import SettingError
from pearl.simulator.acceptance import (
    CHUNK,
    LONGEST,
    Acceptance,
    Bursts,
    Independent,
    Mixture,
    Positions,
    Replay,
)
from tests.decoding.certainty import Z, margin

COUNT: Final = 200_000


def luck(acceptance: Acceptance, count: int = COUNT, *, seed: int = 0, number: int = 0) -> Any:
    text = acceptance.text(np.random.default_rng(seed), number)
    return np.array(text.window(0, count), dtype=float)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.9, 1.0])
def test_independent_luck_has_its_rate_and_no_memory(rate: float) -> None:
    values = luck(Independent(rate))

    centred = values - rate
    assert abs(centred.mean()) <= margin(values.tolist())
    assert abs((centred[1:] * centred[:-1]).mean()) <= Z * rate * (1 - rate) / COUNT**0.5


@pytest.mark.parametrize(("rate", "correlation"), [(0.5, 0.0), (0.8, 0.4), (0.9, 0.9), (0.2, 0.6)])
def test_bursts_have_their_rate_and_the_correlation_of_neighbours_they_say(
    rate: float, correlation: float
) -> None:
    """By blocks that are long against the memory, so that they count as independent."""
    centred = luck(Bursts(rate, correlation)) - rate
    products = centred[1:] * centred[:-1] - correlation * rate * (1 - rate)

    for values in (centred, products):
        blocks = values[: len(values) // 1000 * 1000].reshape(-1, 1000).mean(axis=1)
        assert abs(blocks.mean()) <= margin(blocks.tolist())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_bursts_without_chance_never_change(rate: float) -> None:
    assert set(luck(Bursts(rate, 0.5), 1000)) == {rate}


def test_rare_misses_in_long_bursts_take_no_more_text_than_is_asked_for() -> None:
    """Runs of a million tokens are drawn one at a time, not by thousands."""
    text = Bursts(0.99999, 0.99).text(np.random.default_rng(0))
    text.window(0, 10)

    assert len(text._known) <= 2 * LONGEST  # type: ignore[attr-defined]


def test_positions_have_a_rate_each_and_the_last_one_goes_on() -> None:
    rates = (0.9, 0.5, 0.2)
    text = Positions(rates).text(np.random.default_rng(0))
    windows = np.array([text.window(start, 5) for start in range(0, COUNT, 5)])

    for found, rate in zip(windows.mean(axis=0), (*rates, 0.2, 0.2), strict=True):
        assert abs(found - rate) <= Z * (rate * (1 - rate) / len(windows)) ** 0.5


def test_a_mixture_gives_each_request_one_of_its_rates() -> None:
    """Rates of 0 and 1 show which: no request has both."""
    mixture = Mixture((0.0, 1.0), (1, 3))
    rng = np.random.default_rng(0)
    means = np.array([np.mean(mixture.text(rng).window(0, 8)) for _ in range(4000)])

    assert set(means) == {0.0, 1.0}
    assert abs(means.mean() - 0.75) <= Z * (0.75 * 0.25 / 4000) ** 0.5
    assert mixture.mean == 0.75


def test_a_replay_gives_back_its_texts_in_turn_and_over_again() -> None:
    replay = Replay(("1101", "0"))

    assert "".join(str(int(v)) for v in luck(replay, 10, number=0)) == "1101110111"
    assert set(luck(replay, 10, number=1)) == {0}
    assert set(luck(replay, 10, number=3)) == {0}
    assert replay.mean == 3 / 5


def test_a_replay_draws_what_was_never_compared_with_the_mean_rate() -> None:
    replay = Replay(("1?0?11",))
    values = luck(replay, 6 * 5000).reshape(-1, 6)

    assert (values[:, [0, 2, 4, 5]] == [1, 0, 1, 1]).all()
    drawn = values[:, [1, 3]].ravel()
    assert abs(drawn.mean() - 0.75) <= margin(drawn.tolist())


@pytest.mark.parametrize(
    ("texts", "runs"),
    [
        (("1101",), [[2, 0]]),
        (("11010",), [[2, 1]]),
        (("0",), [[0]]),
        (("111",), [[2]]),
        (("1?10?1", "0110"), [[2, 0], [0, 2]]),
    ],
)
def test_the_runs_of_a_replay_count_every_position_once(
    texts: tuple[str, ...], runs: list[list[int]]
) -> None:
    """Where the end cuts a run short, its last token stands for the miss."""
    assert [found.tolist() for found in Replay(texts).runs()] == runs


@pytest.mark.parametrize("acceptance", [Independent(0.7), Bursts(0.8, 0.5), Independent(0.0)])
def test_runs_are_those_of_the_text(acceptance: Independent | Bursts) -> None:
    """The twin's form of the same law: mean and mean square agree within chance."""
    runs = acceptance.runs(np.random.default_rng(1), 20_000).astype(float)
    ends = np.flatnonzero(luck(acceptance) == 0)
    spelled = np.diff(ends, prepend=-1).astype(float) - 1

    for power in (1, 2):
        a, b = (runs**power).tolist(), (spelled**power).tolist()
        assert abs(np.mean(a) - np.mean(b)) <= margin(a) + margin(b)


def test_a_certain_draft_has_runs_without_end() -> None:
    assert set(Independent(1.0).runs(np.random.default_rng(0), 9)) == {LONGEST}
    assert set(Bursts(1.0, 0.3).runs(np.random.default_rng(0), 9)) == {LONGEST}


ANY: Final[list[Acceptance]] = [
    Independent(0.6),
    Bursts(0.6, 0.5),
    Positions((0.6,)),
    Mixture((0.2, 0.9), (1, 1)),
    Replay(("1?0",)),
]


@given(
    acceptance=st.sampled_from(ANY),
    windows=st.lists(st.tuples(st.integers(0, 3 * CHUNK), st.integers(1, 300)), max_size=8),
)
def test_luck_does_not_depend_on_who_asks_or_in_which_order(
    acceptance: Acceptance, windows: list[tuple[int, int]]
) -> None:
    """With rates of one kind of position, a window is a slice of the text."""
    whole = acceptance.text(np.random.default_rng(5)).window(0, 3 * CHUNK + 300)
    asked = acceptance.text(np.random.default_rng(5))

    for start, count in windows:
        assert asked.window(start, count) == whole[start : start + count]


def test_a_better_draft_agrees_wherever_a_worse_one_did() -> None:
    """Common random numbers between acceptance rates."""
    assert (luck(Independent(0.5)) <= luck(Independent(0.6))).all()


@pytest.mark.parametrize(
    ("kind", "given_", "name"),
    [
        (Independent, {"rate": 1.1}, "rate"),
        (Independent, {"rate": float("nan")}, "rate"),
        (Bursts, {"rate": -0.1, "correlation": 0.1}, "rate"),
        (Bursts, {"rate": 0.5, "correlation": 1.0}, "correlation"),
        (Bursts, {"rate": 0.5, "correlation": -0.1}, "correlation"),
        (Positions, {"rates": ()}, "rates"),
        (Positions, {"rates": (0.5, 1.5)}, "rates"),
        (Mixture, {"rates": (), "weights": ()}, "rates"),
        (Mixture, {"rates": (0.5, 2.0), "weights": (1, 1)}, "rates"),
        (Mixture, {"rates": (0.5,), "weights": (1, 1)}, "weights"),
        (Mixture, {"rates": (0.5,), "weights": (0,)}, "weights"),
        (Replay, {"texts": ()}, "texts"),
        (Replay, {"texts": ("01", "")}, "texts"),
        (Replay, {"texts": ("012",)}, "texts"),
        (Replay, {"texts": ("??",)}, "texts"),
    ],
)
def test_luck_that_cannot_be_is_refused(kind: Any, given_: Any, name: str) -> None:
    """In one line, which names the setting, its value and what it must be."""
    with pytest.raises(SettingError, match=f"^{name} (is|are) .+; (it|they) must be .+$"):
        kind(**given_)
