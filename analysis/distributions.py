"""The acceptance rate of a token, from the laws that target and draft have for it.

Notation: p next-token probabilities of the target, q those of the draft, TV the total variation
between them, half the sum of |p - q|.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from pearl.analysis.theory import Array, Numbers, as_array
from pearl.decoding.errors import SettingError

SUM: Final = 1e-6  # by which probabilities may miss 1


def acceptance_from_distributions(p: ArrayLike, q: ArrayLike) -> Numbers:
    """Chance that the rejection verifier keeps a token: sum min(p, q) = 1 - TV(p, q).

    Args:
        p, q: probabilities of target and draft, shape (..., vocab).

    Source: Leviathan et al. 2023, arXiv:2211.17192, theorem 3.5 and corollary 3.6.
    """
    target, draft = _distributions(p, "p"), _distributions(q, "q")
    if target.shape[-1] != draft.shape[-1]:
        message = f"q is over {draft.shape[-1]} tokens; it must be over {target.shape[-1]}, as p is"
        raise SettingError(message)
    return np.minimum(np.minimum(target, draft).sum(axis=-1), 1.0)[()]


def coupled_bound(p: ArrayLike, q: ArrayLike) -> Numbers:
    """Least chance that the coupled verifier keeps a token: (1 - TV) / (1 + TV).

    Source: Daliri, Musco and Suresh 2024, arXiv:2408.07978, for Gumbel sampling with shared coins.
    """
    kept = acceptance_from_distributions(p, q)
    return kept / (2 - kept)


def _distributions(p: ArrayLike, name: str) -> Array:
    """Probabilities, each row summing to 1."""
    known = as_array(p, name, "probabilities, 0 or more", lambda x: (x >= 0) & np.isfinite(x))
    if known.ndim == 0:
        raise SettingError(f"{name} is {p!r}; it must be probabilities, one for each token")
    as_array(known.sum(axis=-1), f"the sum of {name}", "1", lambda x: np.abs(x - 1) <= SUM)
    return known
