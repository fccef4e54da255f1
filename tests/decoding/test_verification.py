"""The arithmetic of the verifiers, one decision at a time; whole texts are in test_exact_law."""

from __future__ import annotations

from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pearl.decoding.coins import CounterCoins
from pearl.decoding.errors import ImpossibleDraftError
from pearl.decoding.messages import Drafted
from pearl.decoding.sampling import Sampling
from pearl.decoding.verification import (
    VERIFIERS,
    Coupled,
    Greedy,
    Rejection,
    Verifier,
    acceptance,
    agreement,
    make_verifier,
    residual,
)

WARM: Final = Sampling(temperature=1.0)
VOCAB: Final = 5

laws = st.lists(st.floats(0.001, 1), min_size=VOCAB, max_size=VOCAB).map(
    lambda weights: np.array(weights) / sum(weights)
)


@given(p=laws, q=laws)
def test_accept_or_replace_returns_the_law_of_the_target(
    p: NDArray[np.float64], q: NDArray[np.float64]
) -> None:
    """The identity behind rejection: kept from q, plus what q left of p, is p."""
    kept = np.array([q[token] * acceptance(p, q, token) for token in range(VOCAB)])

    np.testing.assert_allclose(kept + (1 - kept.sum()) * residual(p, q), p, atol=1e-12)


@given(p=laws)
def test_a_draft_like_the_target_leaves_nothing_to_replace(p: NDArray[np.float64]) -> None:
    """Every token is accepted, so the replacement is never drawn; its law is p all the same."""
    assert all(acceptance(p, p.copy(), token) == 1 for token in range(VOCAB))
    np.testing.assert_array_equal(residual(p, p.copy()), p)


def test_a_token_its_draft_cannot_have_drawn_is_refused() -> None:
    """Rejection is legal only with the law a token was really drawn from."""
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])

    with pytest.raises(ImpossibleDraftError, match="token 0 has draft probability 0"):
        acceptance(p, q, 0)


@pytest.mark.parametrize(
    ("tokens", "kept", "token"),
    [((), 0, 7), ((7, 8), 2, 9), ((7, 3), 1, 8), ((3, 8), 0, 7)],
    ids=["nothing to judge", "all agree", "the second differs", "the first differs"],
)
def test_agreement_ends_at_the_first_difference(
    tokens: tuple[int, ...], kept: int, token: int
) -> None:
    """The target chose 7, 8, 9; its choice at the first difference is the replacement."""
    verdict = agreement(tokens, (7, 8, 9))

    assert (verdict.kept, verdict.token) == (kept, token)


@pytest.mark.parametrize(
    "verifier",
    [Greedy(), Coupled(WARM, CounterCoins(1)), Rejection(WARM, CounterCoins(1))],
    ids=["greedy", "coupled", "rejection"],
)
def test_the_same_model_keeps_its_own_tokens(verifier: Verifier) -> None:
    """A draft with the target's logits is always right, in every verifier."""
    logits = np.random.default_rng(4).normal(size=(31, VOCAB))
    written = [verifier.draft(logits[i : i + 1], 10 + i) for i in range(30)]
    drafted = Drafted(
        tokens=tuple(one.tokens[0] for one in written),
        laws=tuple(law for one in written for law in one.laws),
    )

    assert verifier.judge(logits, drafted, 10, hold=False).kept == 30


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_laws_arrive_as_they_left(kind: type[np.floating]) -> None:
    """The bytes of a law are read with the type they were written in, so p equals q exactly."""
    verifier = Rejection(WARM, CounterCoins(1))
    logits = np.random.default_rng(5).normal(size=(2, VOCAB)).astype(kind)
    drafted = verifier.draft(logits[:1], 0)
    verdict = verifier.judge(logits, drafted, 0, hold=True)

    assert np.dtype(kind).itemsize * VOCAB == len(drafted.laws[0])
    assert (verdict.kept, verdict.token) == (1, None)


@pytest.mark.parametrize(("ours", "theirs"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_a_law_of_another_type_is_refused(
    ours: type[np.floating], theirs: type[np.floating]
) -> None:
    """Read with the wrong type it would be noise, and the output silently lossy."""
    verifier = Rejection(WARM, CounterCoins(1))
    logits = np.random.default_rng(5).normal(size=(2, 6))
    drafted = verifier.draft(logits[:1].astype(theirs), 0)

    with pytest.raises(ImpossibleDraftError, match=r"a draft's law has .* bytes"):
        verifier.judge(logits.astype(ours), drafted, 0, hold=True)


def test_only_rejection_holds_and_only_it_carries_laws() -> None:
    """Where tokens are compared, the target chooses whatever the draft will say."""
    logits = np.random.default_rng(6).normal(size=(1, VOCAB))
    for name, kind in VERIFIERS.items():
        verifier = make_verifier(name, WARM, seed=1)

        assert bool(verifier.draft(logits, 0).laws) == kind.carries_law
        held = verifier.judge(logits, Drafted(), 0, hold=True).token is None
        assert held == kind.carries_law


def test_of_equal_logits_greedy_takes_the_first() -> None:
    """A rule, so that draft and target break a tie alike."""
    assert Greedy().draft(np.array([[1.0, 3.0, 3.0]]), 0).tokens == (1,)
