"""How far other verifiers could go: bounds on acceptance from the distributions themselves.

The project verifies token by token, with one draft. The literature has two ways to keep more: to
judge a window as a whole, and to have several candidates for one token. What is said here of them
is exact where a docstring says so, else a bound.

Notation: p next-token probabilities of the target, q those of the draft, a acceptance rate,
g gamma, n candidates.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from analysis.theory import (
    Array,
    acceptance_from_distributions,
    distributions,
    speculative_tokens_per_pass,
)
from decoding.errors import SettingError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A value lies between `least` and `most`; where both are the same it is known."""

    least: float
    most: float


def block_tokens_per_pass(p: ArrayLike, q: ArrayLike) -> float:
    """Tokens of a pass of speculative decoding with block verification; exact.

    The window is kept up to i tokens with chance h_i = min(h_(i-1) p(x_i) / q(x_i), 1), h_0 = 1,
    so that a token that the draft wrote too rarely makes up for one that it wrote too often. In a
    pass there are 1 + E[h_1] + … + E[h_g] tokens.

    Args:
        p, q: for each place of the window, whatever stands before it; shape (g, vocab). All
            windows are enumerated, but for places with equal ratios: their number grows with
            the distinct values of h.

    Source: Sun, Mendlovic, Leviathan et al. 2024, arXiv:2403.10444, algorithm 2 and theorem 1.
    """
    target, draft = _windows(p, q)
    held, chances = np.ones(1), np.ones(1)  # the values that h takes, and how likely each is
    tokens = 1.0
    for wanted, wrote in zip(target, draft, strict=True):
        some = wrote > 0  # the draft writes nothing else
        ratio = wanted[some] / wrote[some]
        held = np.minimum(held[:, None] * ratio, 1.0).ravel()
        chances = (chances[:, None] * wrote[some]).ravel()
        tokens += float(held @ chances)
        held, chances = _merged(held, chances)
    return tokens


def block_tokens_bounds(a: float, g: int) -> Bounds:
    """What block verification can yield where only the acceptance rate is known.

    At least what token-by-token verification yields, (1 - a^(g + 1)) / (1 - a); at most 1 + g a,
    for no token of a window is kept more often than if it stood first.

    Source: Sun et al. 2024, arXiv:2403.10444, theorem 2 for the lower bound.
    """
    least = float(speculative_tokens_per_pass(a, g))
    return Bounds(least=least, most=1 + g * float(a))


def prefix_tokens_bound(p: ArrayLike, q: ArrayLike) -> float:
    """Tokens of a pass that no verifier exceeds: 1 + the overlaps of the prefixes' laws.

    No coupling of two texts makes their first i tokens equal more often than
    sum min(P(x_1 … x_i), Q(x_1 … x_i)). The prefixes are enumerated: vocab^g must be small.

    Args:
        p, q: for each place of the window, shape (g, vocab).
    """
    target, draft = _windows(p, q)
    one, other, tokens = np.ones(1), np.ones(1), 1.0
    for wanted, wrote in zip(target, draft, strict=True):
        one = (one[:, None] * wanted).ravel()
        other = (other[:, None] * wrote).ravel()
        tokens += float(np.minimum(one, other).sum())
    return tokens


def several_drafts_acceptance(p: ArrayLike, q: ArrayLike, n: int) -> float:
    """Chance that one of n candidates for a token is kept, judged one after the other; exact.

    Each candidate is drawn from q, kept with min(1, p/q), and where it is refused the next is
    judged against what is left of p, norm(max(p - q, 0)): recursive rejection sampling.

    Args:
        p, q: shape (vocab,).
        n: candidates, drawn independently of each other.

    Source: Miao et al. 2024, arXiv:2305.09781, algorithm 2.
    """
    target, draft = _tokens(p, q, n)
    refused = 1.0
    for _ in range(n):
        kept = float(acceptance_from_distributions(target, draft))
        refused *= 1 - kept
        left = np.maximum(target - draft, 0)
        if refused <= 0 or not left.any():
            return 1.0
        target = left / left.sum()
    return 1 - refused


def several_drafts_bound(p: ArrayLike, q: ArrayLike, n: int) -> float:
    """Chance that no verifier of n independent candidates exceeds.

    sum min(p(x), 1 - (1 - q(x))^n): a token cannot be kept more often than it is wanted, nor more
    often than it is among the candidates. Never more than n a.

    Source: Sun et al. 2023, arXiv:2310.15141 (SpecTr), section 4.
    """
    target, draft = _tokens(p, q, n)
    return float(np.minimum(target, 1 - (1 - draft) ** n).sum())


def _windows(p: ArrayLike, q: ArrayLike) -> tuple[Array, Array]:
    target, draft = distributions(p, "p"), distributions(q, "q")
    if target.shape != draft.shape or target.ndim != 2:  # noqa: PLR2004 - (g, vocab)
        shapes = f"{target.shape} and {draft.shape}"
        raise SettingError(f"p and q have the shapes {shapes}; both must be (g, vocab)")
    return target, draft


def _tokens(p: ArrayLike, q: ArrayLike, n: int) -> tuple[Array, Array]:
    target, draft = distributions(p, "p"), distributions(q, "q")
    if target.shape != draft.shape or target.ndim != 1:
        shapes = f"{target.shape} and {draft.shape}"
        raise SettingError(f"p and q have the shapes {shapes}; both must be (vocab,)")
    if n < 1:
        raise SettingError(f"n is {n}; it must be 1 or more")
    return target, draft


def _merged(held: Array, chances: Array) -> tuple[Array, Array]:
    """Equal values together: many windows are held back as much as another."""
    values, places = np.unique(held.round(12), return_inverse=True)
    sums: Array = np.bincount(places.ravel(), weights=chances).astype(float)
    return values, sums
