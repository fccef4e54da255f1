"""Coins: the right law, no two alike, and the same everywhere."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pearl.decoding.coins import CounterCoins, Purpose, exponentials, mix, uniform
from tests.decoding.certainty import Z, chi_square_limit

LAWS: Final = {
    "two tokens": [0.3, 0.7],
    "three tokens": [0.2, 0.5, 0.3],
    "one rare token": [0.001, 0.9, 0.099],
    "one impossible token": [0.4, 0.0, 0.6],
    "fifty tokens": (np.arange(1, 51) / np.arange(1, 51).sum()).tolist(),
}
laws = st.lists(st.floats(0.01, 1), min_size=3, max_size=3).map(lambda w: np.array(w) / sum(w))


def repeated(law: list[float], rows: int) -> NDArray[np.float64]:
    return np.broadcast_to(np.array(law), (rows, len(law)))


def agreement(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Probability that two races with the same noise have the same winner.

    Token i wins both when E_j > E_i max(p_j / p_i, q_j / q_i) for every other j, and the
    smallest of exponentials with rates r_j is the i-th with probability r_i / sum(r).
    """
    both = [i for i in range(len(p)) if p[i] > 0 and q[i] > 0]
    return sum(1 / float(np.maximum(p / p[i], q / q[i]).sum()) for i in both)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_race_is_won_with_the_probabilities_of_the_law(law: list[float]) -> None:
    """Chi-square over 10^5 positions of one seed; impossible tokens never win."""
    rows = 100_000
    winners = CounterCoins(1).draw(repeated(law, rows), 0, Purpose.CHOOSE)

    wins = np.bincount(winners, minlength=len(law))
    expected = rows * np.array(law)
    possible = expected > 0
    chi_square = ((wins - expected)[possible] ** 2 / expected[possible]).sum()
    assert chi_square < chi_square_limit(int(possible.sum()) - 1)
    assert not wins[~possible].any()


@pytest.mark.parametrize("probability", [0.001, 0.3, 0.5, 0.9])
def test_a_test_passes_with_its_probability(probability: float) -> None:
    """And with probabilities 0 and 1 it is certain: the uniform is strictly inside (0, 1)."""
    coins, tosses = CounterCoins(2), 50_000
    passed = sum(coins.accepts(probability, i, Purpose.ACCEPT) for i in range(tosses))

    spread = (tosses * probability * (1 - probability)) ** 0.5
    assert abs(passed - tosses * probability) < Z * spread
    assert not any(coins.accepts(0.0, i, Purpose.ACCEPT) for i in range(1000))
    assert all(coins.accepts(1.0, i, Purpose.ACCEPT) for i in range(1000))


def test_the_extreme_bits_are_strictly_inside_the_unit_interval() -> None:
    """Neither log(0) nor an acceptance of probability 0 can happen."""
    assert 0 < uniform(0) < uniform((1 << 64) - 1) < 1


def test_noise_is_positive_and_finite() -> None:
    """A zero would win every race, whatever the law."""
    noise = exponentials([mix(key) for key in range(200)], 5000, np, "cpu")

    assert noise.dtype == np.float32
    assert (noise > 0).all()
    assert np.isfinite(noise).all()


def test_noise_is_exponential() -> None:
    """Twenty bins of equal probability, chi-square; mean and neighbours' correlation too."""
    noise = exponentials([mix(key) for key in range(100)], 2000, np, "cpu").astype(np.float64)
    bins = np.bincount((20 * np.exp(-noise.ravel())).astype(int), minlength=20)
    each = noise.size / 20
    centred = noise - 1

    assert ((bins - each) ** 2 / each).sum() < chi_square_limit(19)
    assert abs(centred.mean()) < Z / noise.size**0.5
    for one, other in ((centred[:, 1:], centred[:, :-1]), (centred[1:], centred[:-1])):
        assert abs((one * other).mean()) < Z / one.size**0.5


def test_no_two_coins_are_the_same() -> None:
    """Seeds, positions and purposes that are close together do not collide."""
    keys = {
        CounterCoins(seed)._key(position, purpose)
        for seed, position, purpose in itertools.product(range(-20, 20), range(500), Purpose)
    }

    assert len(keys) == 40 * 500 * len(Purpose)


@pytest.mark.parametrize(
    "other",
    [(7, 100, Purpose.DRAFT), (7, 101, Purpose.CHOOSE), (8, 100, Purpose.CHOOSE)],
    ids=["another purpose", "the next position", "the next seed"],
)
def test_coins_that_differ_in_one_thing_are_independent(other: tuple[int, int, Purpose]) -> None:
    """The joint law of two draws is the product of theirs."""
    seed, start, purpose = other
    law, rows = [0.2, 0.5, 0.3], 50_000
    one = CounterCoins(7).draw(repeated(law, rows), 100, Purpose.CHOOSE)
    two = CounterCoins(seed).draw(repeated(law, rows), start, purpose)

    seen = np.bincount(3 * np.array(one) + np.array(two), minlength=9)
    expected = rows * np.outer(law, law).ravel()
    assert ((seen - expected) ** 2 / expected).sum() < chi_square_limit(8)


def test_a_coin_does_not_depend_on_who_tosses_it_nor_when() -> None:
    """Rows drawn together, one by one or in another order: a restarted device repeats itself."""
    law = repeated([0.2, 0.5, 0.3], 50)
    together = CounterCoins(3).draw(law, 10, Purpose.CHOOSE)
    coins = CounterCoins(3)
    apart = {i: coins.draw(law[:1], 10 + i, Purpose.CHOOSE)[0] for i in reversed(range(50))}

    assert together == tuple(apart[i] for i in range(50))


def test_seeds_of_any_size_are_taken() -> None:
    """A seed is a whole number; what is beyond 64 bits is folded."""
    law = repeated([0.5, 0.5], 64)

    draws = {CounterCoins(seed).draw(law, 0, Purpose.CHOOSE) for seed in (-1, 0, 2**63, 2**80 + 1)}
    assert len(draws) == 4


@given(p=laws, q=laws)
def test_shared_noise_agrees_at_least_as_often_as_the_theory_says(
    p: NDArray[np.float64], q: NDArray[np.float64]
) -> None:
    """(1 - TV) / (1 + TV) <= P(agree) <= 1 - TV; Daliri, Musco, Suresh 2024, theorem 1."""
    variation = abs(p - q).sum() / 2

    assert agreement(p, q) >= (1 - variation) / (1 + variation) - 1e-12
    assert agreement(p, q) <= 1 - variation + 1e-12


def test_counter_coins_agree_as_often_as_the_formula_says() -> None:
    """The formula above describes the races that are really run."""
    p, q, rows = [0.2, 0.5, 0.3], [0.4, 0.4, 0.2], 100_000
    one = CounterCoins(5).draw(repeated(p, rows), 0, Purpose.CHOOSE)
    two = CounterCoins(5).draw(repeated(q, rows), 0, Purpose.CHOOSE)

    share = np.mean(np.array(one) == np.array(two))
    expected = agreement(np.array(p), np.array(q))
    assert abs(share - expected) < Z * (expected * (1 - expected) / rows) ** 0.5


def test_numpy_and_torch_toss_the_same_coins() -> None:
    """Bit for bit: a draft in torch and a proof in numpy, or two devices, share their noise."""
    torch: Any = pytest.importorskip("torch")
    from array_api_compat import torch as xp  # noqa: PLC0415 - needs torch

    keys = [mix(key) for key in range(64)]
    ours = exponentials(keys, 4096, np, "cpu")
    theirs = exponentials(keys, 4096, xp, torch.device("cpu")).numpy()
    law = np.random.default_rng(1).dirichlet(np.ones(100), size=200)
    draws = CounterCoins(9).draw(law, 0, Purpose.CHOOSE)

    np.testing.assert_array_equal(ours.view(np.int32), theirs.view(np.int32))
    assert draws == CounterCoins(9).draw(torch.from_numpy(law), 0, Purpose.CHOOSE)
