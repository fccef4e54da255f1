"""Other verifiers, enumerated: what they keep lies between the bounds, and they lose nothing."""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from analysis import bounds, theory
from decoding.errors import SettingError

Array = NDArray[np.float64]
CLOSE: Final = 1e-9


@st.composite
def laws(draw: st.DrawFn, places: int | None = None) -> tuple[Array, Array]:
    """Probabilities of target and draft over 2 to 4 tokens; for a window of 1 to 4 places."""
    g = draw(st.integers(1, 4)) if places is None else places
    vocab = draw(st.integers(2, 4))
    weights = st.lists(st.integers(0, 9), min_size=vocab, max_size=vocab).filter(any)
    found = [np.array([draw(weights) for _ in range(g)], dtype=float) for _ in range(2)]
    p, q = (rows / rows.sum(axis=1, keepdims=True) for rows in found)
    return p, q


def windows(q: Array) -> list[tuple[tuple[int, ...], float]]:
    """Every window that the draft can write, with its chance."""
    chances = itertools.product(*(range(q.shape[1]) for _ in q))
    return [(w, float(np.prod([q[i, x] for i, x in enumerate(w)]))) for w in chances]


@given(laws())
def test_block_verification_keeps_what_its_rule_says_window_by_window(
    pair: tuple[Array, Array],
) -> None:
    """The recursion h_i = min(h_(i-1) p/q, 1), written out over all windows."""
    p, q = pair
    tokens = 1.0
    for window, chance in windows(q):
        held = 1.0
        for place, token in enumerate(window):
            if chance:
                held = min(held * p[place, token] / q[place, token], 1.0)
                tokens += chance * held

    assert bounds.block_tokens_per_pass(p, q) == pytest.approx(tokens, abs=CLOSE)


@given(laws())
def test_block_verification_lies_between_token_by_token_and_the_best_there_is(
    pair: tuple[Array, Array],
) -> None:
    p, q = pair
    rates = np.atleast_1d(theory.acceptance_from_distributions(p, q))
    one_by_one = theory.speculative_tokens_by_position(rates.tolist(), len(rates))

    found = bounds.block_tokens_per_pass(p, q)
    assert one_by_one - CLOSE <= found <= bounds.prefix_tokens_bound(p, q) + CLOSE


@given(laws(places=1), st.integers(1, 5))
def test_where_only_the_rate_is_known_block_verification_lies_between_the_bounds(
    pair: tuple[Array, Array], g: int
) -> None:
    """Every place of the window alike."""
    p, q = (np.repeat(rows, g, axis=0) for rows in pair)
    rate = float(theory.acceptance_from_distributions(p[0], q[0]))

    found = bounds.block_tokens_bounds(rate, g)
    assert found.least - CLOSE <= bounds.block_tokens_per_pass(p, q) <= found.most + CLOSE


def test_of_one_token_there_is_nothing_to_be_had() -> None:
    p, q = np.array([[0.6, 0.4]]), np.array([[0.3, 0.7]])

    assert bounds.block_tokens_per_pass(p, q) == pytest.approx(1.7)
    assert bounds.prefix_tokens_bound(p, q) == pytest.approx(1.7)
    both = bounds.block_tokens_bounds(0.7, 1)
    assert [both.least, both.most] == pytest.approx([1.7, 1.7])


def test_a_block_makes_up_for_what_a_token_loses() -> None:
    """Two places, p = (2/3, 1/3), q the other way round: 10/9 kept one by one, 11/9 as a block.

    The example of Sun et al. 2024, section 2.
    """
    p, q = np.array([[2, 1]] * 2) / 3, np.array([[1, 2]] * 2) / 3
    one_by_one = theory.speculative_tokens_by_position([2 / 3, 2 / 3], 2)

    assert one_by_one - 1 == pytest.approx(10 / 9)
    assert bounds.block_tokens_per_pass(p, q) - 1 == pytest.approx(11 / 9)


# -- several candidates ----------------------------------------------------------------------------


def recursive(p: Array, q: Array, n: int) -> tuple[float, Array]:
    """Chance that a candidate is kept, and the law of what comes out; every outcome followed."""
    if n == 0:
        return 0.0, p
    accepted = np.minimum(p, q)
    left = np.maximum(p - q, 0)
    if not left.any():
        return 1.0, p
    kept, law = recursive(left / left.sum(), q, n - 1)
    refused = 1 - accepted.sum()
    return float(accepted.sum() + refused * kept), accepted + refused * law


@given(laws(places=1), st.integers(1, 5))
def test_recursive_rejection_keeps_the_law_and_as_many_as_is_said(
    pair: tuple[Array, Array], n: int
) -> None:
    p, q = pair[0][0], pair[1][0]
    kept, law = recursive(p, q, n)

    np.testing.assert_allclose(law, p, atol=CLOSE)
    assert bounds.several_drafts_acceptance(p, q, n) == pytest.approx(kept, abs=1e-6)


@given(laws(places=1))
def test_more_candidates_are_never_worse_and_never_beyond_the_bound(
    pair: tuple[Array, Array],
) -> None:
    p, q = pair[0][0], pair[1][0]
    found = [bounds.several_drafts_acceptance(p, q, n) for n in range(1, 7)]
    rate = float(theory.acceptance_from_distributions(p, q))

    assert found[0] == pytest.approx(rate)
    assert all(after >= before - CLOSE for before, after in itertools.pairwise(found))
    for n, share in enumerate(found, start=1):
        bound = bounds.several_drafts_bound(p, q, n)
        assert share <= bound + 1e-6
        assert bound <= min(1.0, n * rate) + CLOSE


@pytest.mark.parametrize(
    ("p", "q", "words"),
    [
        ([[0.5, 0.5]], [[0.5, 0.3, 0.2]], r"the shapes \(1, 2\) and \(1, 3\)"),
        ([0.5, 0.5], [0.5, 0.5], r"both must be \(g, vocab\)"),
        ([[0.5, 0.6]], [[0.5, 0.5]], "the sum of p is 1.1; it must be 1"),
    ],
)
def test_windows_that_make_no_sense_are_refused(p: list[float], q: list[float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        bounds.block_tokens_per_pass(p, q)


def test_no_candidate_is_refused() -> None:
    with pytest.raises(SettingError, match="n is 0; it must be 1 or more"):
        bounds.several_drafts_bound([0.5, 0.5], [0.5, 0.5], 0)
    with pytest.raises(SettingError, match=r"both must be \(vocab,\)"):
        bounds.several_drafts_acceptance([[1.0]], [[1.0]], 2)
