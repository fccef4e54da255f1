"""The schedules against the closed forms of the theory, under independent acceptance.

The forms are written out here again, so that neither `pearl.decoding.policies` nor `analysis` is
trusted. Notation: a acceptance rate, g gamma, k head start.
"""

from __future__ import annotations

import functools
import statistics
from typing import Final

import pytest

from tests.decoding.certainty import margin, ratio_margin
from tests.decoding.policies import AUTOREGRESSIVE, pearl, speculative
from tests.decoding.scripted import Tally, run

PASSES: Final = 10_000  # of each combination
ALPHAS: Final = (0.3, 0.8, 0.95)
GAMMAS: Final = (1, 2, 5)

tally_of = functools.cache(run)


def run_in_passes(a: float, g: int, k: int = 0) -> float:
    """Mean passes from one rejection to the next: one, and the later ones over g tokens each."""
    return 1 + a ** (k + 1) / (1 - a**g)


def require_mean(tally: Tally, tokens_per_pass: float) -> None:
    """By runs, for passes of one run depend on each other."""
    tokens, passes = tally.runs()
    found = sum(tokens) / sum(passes)

    assert abs(found - tokens_per_pass) <= ratio_margin(tokens, passes)


@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize("g", GAMMAS)
def test_speculative_decoding_yields_a_geometric_sum_per_pass(a: float, g: int) -> None:
    """(1 - a^(g + 1)) / (1 - a); Leviathan et al. 2023, equation 1."""
    tally = tally_of(speculative(g), a, passes=PASSES)

    expected = (1 - a ** (g + 1)) / (1 - a)
    assert abs(tally.tokens_per_pass - expected) < margin(tally.tokens)
    assert tally.written == g * (PASSES + 1)


@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize("g", GAMMAS)
def test_pearl_yields_tau_tokens_per_pass(a: float, g: int) -> None:
    """The mean is tau = (1 - a^g) / ((1 - a) (1 + a - a^g)), from the chain of the two phases."""
    tally = tally_of(pearl(g), a, passes=PASSES)

    require_mean(tally, (1 - a**g) / ((1 - a) * (1 + a - a**g)))


@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize("g", GAMMAS)
def test_a_run_has_the_same_tokens_for_every_gamma(a: float, g: int) -> None:
    """1 / (1 - a) tokens, the replacement included; only the passes depend on gamma."""
    tokens, passes = tally_of(pearl(g), a, passes=PASSES).runs()

    assert abs(statistics.mean(tokens) - 1 / (1 - a)) < margin(tokens)
    assert abs(statistics.mean(passes) - run_in_passes(a, g)) < margin(passes)


@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize("k", [1, 2, 6])
def test_a_head_start_saves_the_passes_the_theory_says(a: float, k: int) -> None:
    """A run takes 1 + a^(k + 1) / (1 - a^g) passes, and as many tokens as without."""
    tokens, passes = tally_of(pearl(4, k), a, passes=PASSES).runs()

    assert abs(statistics.mean(tokens) - 1 / (1 - a)) < margin(tokens)
    assert abs(statistics.mean(passes) - run_in_passes(a, 4, k)) < margin(passes)


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0])
def test_pearl_with_gamma_one_needs_as_many_passes_as_autoregressive_decoding(a: float) -> None:
    """Its window is the token the target gives anyway; exact for every coin."""
    assert run(pearl(1), a, passes=500).tokens == run(AUTOREGRESSIVE, a, passes=500).tokens


@pytest.mark.parametrize("g", GAMMAS)
def test_a_draft_that_is_always_wrong_costs_no_pass(g: int) -> None:
    """At a = 0, one token a pass, as without a draft, for SD and PEARL and each head start."""
    for plan in (speculative(g), pearl(g), pearl(g, 2)):
        assert set(run(plan, 0.0, passes=500).tokens) == {1}


@pytest.mark.parametrize("g", GAMMAS)
def test_a_draft_that_is_always_right_fills_every_pass(g: int) -> None:
    """At a = 1, g + 1 tokens for SD; for PEARL g, after a first pass of one token."""
    assert set(run(speculative(g), 1.0, passes=500).tokens) == {g + 1}
    assert run(pearl(g), 1.0, passes=500).tokens == [1] + [g] * 499
    assert run(pearl(g, 3), 1.0, passes=500).tokens == [4] + [g] * 499


@pytest.mark.parametrize("a", ALPHAS)
@pytest.mark.parametrize("k", [0, 2])
def test_strict_and_not_strict_make_the_same_passes(a: float, k: int) -> None:
    """Refinements save time, not passes: with the same coins the tallies are equal."""
    strict = run(pearl(4, k), a, passes=2000, strict=True)
    ordinary = run(pearl(4, k), a, passes=2000)
    hurried = run(pearl(4, k), a, passes=2000, verdict_first=True)

    assert strict.tokens == ordinary.tokens == hurried.tokens
    assert strict.rejected == ordinary.rejected == hurried.rejected


def test_pearl_wastes_what_the_theory_says() -> None:
    """Of g tokens written beside each pass, a tau are kept: the rest, 1 - a tau / g, is waste."""
    a, g = 0.9, 5
    tau = (1 - a**g) / ((1 - a) * (1 + a - a**g))
    tally = tally_of(pearl(g), a, passes=PASSES)
    kept = [n - rejected for n, rejected in zip(tally.tokens, tally.rejected, strict=True)]

    assert abs(sum(kept) / tally.written - a * tau / g) < 2 * margin(kept) / g
