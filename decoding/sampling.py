"""From logits to the law a token is drawn from: temperature, top-k, top-p and min-p.

Draft and target are warped alike, before anything is compared or drawn. The order and the
meaning of the filters are those of Hugging Face transformers, but for ties: tokens that are
equally likely at a border are all kept, so that the law does not depend on how a device sorts.
"""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, Final

import msgspec
import numpy as np
from array_api_compat import array_namespace

from pearl.decoding.coins import Array
from pearl.decoding.errors import SettingError

LEAST: Final = float(np.finfo(np.float32).smallest_normal)
MOST: Final = float(np.finfo(np.float32).max)
LARGEST_WHOLE: Final = 2**63 - 1  # what a wire carries


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How a law is made of logits. Temperature 0 is greedy: the most likely token, no coins.

    Args:
        temperature: divides the logits, 0 or more.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the fewest most likely tokens that have this probability together; 1 keeps all.
        min_p: keep tokens at least this likely relative to the most likely; 0 keeps all.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        take_number(self, "temperature", "0 or more")
        refuse_unless(self, "temperature", "0 or more", fine=0 <= self.temperature < math.inf)
        take_whole(self, "top_k", "0 (keep all) or a positive whole number", least=0)
        take_number(self, "top_p", "above 0 and at most 1")
        refuse_unless(self, "top_p", "above 0 and at most 1", fine=0 < self.top_p <= 1)
        take_number(self, "min_p", "from 0 to 1")
        refuse_unless(self, "min_p", "from 0 to 1", fine=0 <= self.min_p <= 1)

    def laws(self, logits: Array) -> Array:
        """Probabilities, shape and type as `logits` (..., vocab); temperature above 0.

        A row with NaN or plus infinity, or with nothing but minus infinity, becomes NaN throughout.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # torch is silent by itself
            return self._laws(logits)

    def _laws(self, logits: Array) -> Array:
        xp = array_namespace(logits)
        best = xp.max(logits, axis=-1, keepdims=True)
        # In the numbers of the logits a low temperature or probability must not become 0.
        scaled = (logits - best) / min(max(self.temperature, LEAST), MOST)  # at most 0
        if 0 < self.top_k < logits.shape[-1]:
            scaled = _top_k(scaled, self.top_k, xp)
        laws = _softmax(scaled, xp)
        if self.top_p < 1:
            laws = _top_p(laws, max(self.top_p, LEAST), xp)
        if self.min_p > 0:
            least = self.min_p * xp.max(laws, axis=-1, keepdims=True)
            laws = xp.where(laws < least, xp.zeros_like(laws), laws)
        if self.top_p < 1 or self.min_p > 0:
            laws = laws / xp.sum(laws, axis=-1, keepdims=True)
        return laws


def refuse_unless(owner: Any, name: str, allowed: str, *, fine: bool) -> None:
    """Raise a SettingError that names the setting, its value and what is allowed."""
    if not fine:
        message = f"{name.replace('_', '-')} is {getattr(owner, name)}; it must be {allowed}"
        raise SettingError(message)


def take_whole(
    owner: Any, name: str, allowed: str, *, least: int, most: int = LARGEST_WHOLE
) -> None:
    """Take a whole number of any library for an int, in its range; refuse all else, 3.0 too."""
    value = getattr(owner, name)
    is_whole = hasattr(value, "__index__") and not isinstance(value, bool)
    fine = is_whole and least <= operator.index(value) <= most
    refuse_unless(owner, name, allowed, fine=fine)
    msgspec.structs.force_setattr(owner, name, operator.index(value))


def take_number(owner: Any, name: str, allowed: str) -> None:
    """Take a real number of any library for a float; refuse all else, and what no float holds."""
    value = getattr(owner, name)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    fine = is_number and not (isinstance(value, int) and abs(value) > LARGEST_WHOLE)
    refuse_unless(owner, name, allowed, fine=fine)
    msgspec.structs.force_setattr(owner, name, float(value))


def take_flag(owner: Any, name: str) -> None:
    """Refuse whatever is neither True nor False."""
    refuse_unless(owner, name, "True or False", fine=isinstance(getattr(owner, name), bool))


def _softmax(scaled: Array, xp: Any) -> Array:
    weights = xp.exp(scaled)
    return weights / xp.sum(weights, axis=-1, keepdims=True)


def _top_k(scaled: Array, k: int, xp: Any) -> Array:
    least = xp.sort(scaled, axis=-1, descending=True)[..., k - 1 : k]
    return xp.where(scaled < least, xp.full_like(scaled, -xp.inf), scaled)


def _top_p(laws: Array, p: float, xp: Any) -> Array:
    ordered = xp.sort(laws, axis=-1, descending=True)
    before = xp.cumulative_sum(ordered, axis=-1) - ordered
    kept = xp.where(before < p, ordered, xp.full_like(ordered, xp.inf))
    least = xp.min(kept, axis=-1, keepdims=True)
    return xp.where(laws < least, xp.zeros_like(laws), laws)
