"""All randomness, as a function of (seed, position, purpose).

No generator has a state: the coin of a position is the same whoever tosses it, how often, and in
which order. That is what makes a restarted device repeat itself, and what lets draft and target
share their noise without talking.

Two decisions never share a coin: each has its `Purpose`. (The reference implementation of PEARL
reuses one; that makes it lossy.)

Arrays come from numpy or torch, whichever the caller brought; the integers are the same in both,
bit for bit. Source of the mixing function: Steele, Lea, Flood 2014, "Fast splittable
pseudorandom number generators" (SplitMix64).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeAlias, final

from array_api_compat import array_namespace, device

Array: TypeAlias = Any  # of numpy or torch: no type says both

GOLDEN: Final = 0x9E3779B97F4A7C15
FIRST_MULTIPLIER: Final = 0xBF58476D1CE4E5B9
SECOND_MULTIPLIER: Final = 0x94D049BB133111EB
MASK: Final = (1 << 64) - 1


class Purpose(enum.IntEnum):
    """What a coin decides."""

    CHOOSE = 1  # the token at a position: the target's own, and the draft's where it is coupled
    DRAFT = 2  # the draft's token, where it must be independent of the test
    ACCEPT = 3  # whether the draft's token stands
    REPLACE = 4  # the token in place of one that does not


class Coins(Protocol):
    """Two kinds of toss. Asking again for the same position and purpose gives the same coin."""

    def accepts(self, probability: float, position: int, purpose: Purpose) -> bool:
        """True with this probability."""

    def draw(self, laws: Array, position: int, purpose: Purpose) -> tuple[int, ...]:
        """One index per row of `laws`, shape (rows, vocab); row i is of position `position + i`."""


@final
class CounterCoins:
    """Coins from a seed, any whole number."""

    def __init__(self, seed: int) -> None:
        self._seed = mix(seed & MASK)

    def accepts(self, probability: float, position: int, purpose: Purpose) -> bool:
        """True with this probability; a uniform strictly inside (0, 1) is compared with it."""
        return uniform(self._key(position, purpose)) < probability

    def draw(self, laws: Array, position: int, purpose: Purpose) -> tuple[int, ...]:
        """The winners of exponential races: argmin of E_i / p_i has law p.

        This is the Gumbel-max trick with one logarithm less. Two laws that race with the same
        noise agree with probability at least (1 - TV) / (1 + TV); Daliri, Musco, Suresh 2024,
        arXiv:2408.07978.
        """
        xp, where = array_namespace(laws), device(laws)
        rows, vocab = laws.shape
        keys = [self._key(position + row, purpose) for row in range(rows)]
        drawn = _drawn_lately if rows == 1 and str(where) == "cpu" else exponentials
        noise = drawn(tuple(keys), vocab, xp, where)
        winners = xp.argmax(laws / xp.astype(noise, laws.dtype, copy=False), axis=-1)
        return tuple(winners.tolist())

    def _key(self, position: int, purpose: Purpose) -> int:
        return mix(mix(self._seed + position & MASK) + purpose & MASK)


def mix(z: int) -> int:
    """SplitMix64's finaliser of one 64-bit number."""
    z = (z + GOLDEN) & MASK
    z = (z ^ z >> 30) * FIRST_MULTIPLIER & MASK
    z = (z ^ z >> 27) * SECOND_MULTIPLIER & MASK
    return z ^ z >> 31


def uniform(bits: int) -> float:
    """64 random bits as a number strictly between 0 and 1, exact in float64."""
    return ((bits >> 12) + 0.5) * 2.0**-52


def exponentials(keys: Sequence[int], vocab: int, xp: Any, where: Any) -> Array:
    """Standard exponential noise, shape (keys, vocab), float32.

    The integers are the same on every machine. The logarithm is taken in float64 and rounded to
    float32, so two devices whose logarithms differ in the last place still differ in about one
    number of 2^28, and there only by one place: it could lose an agreement, never a law.
    """
    z = xp.asarray([_signed(key) for key in keys], dtype=xp.int64, device=where)[:, None]
    strides = _kept_strides if str(where) == "cpu" else _strides
    z = z + strides(vocab, xp, where)[None, :]  # (keys, vocab)
    z ^= _shifted(z, 30)
    z *= _signed(FIRST_MULTIPLIER)
    z ^= _shifted(z, 27)
    z *= _signed(SECOND_MULTIPLIER)
    z ^= _shifted(z, 31)
    uniforms = xp.astype(_shifted(z, 12), xp.float64)
    uniforms += 0.5
    uniforms *= 2.0**-52
    return -xp.astype(xp.log(uniforms), xp.float32)


def _strides(vocab: int, xp: Any, where: Any) -> Array:
    """GOLDEN, 2 GOLDEN, 3 GOLDEN, ... modulo 2^64."""
    return xp.arange(1, vocab + 1, dtype=xp.int64, device=where) * _signed(GOLDEN)


# A draft comes to the same positions again after every disagreement, and so to the same noise,
# which is half of what a draw takes. Kept on a CPU only: on a GPU another thread might read, in its
# own queue, what the queue of this one has not computed yet.
_drawn_lately: Final = functools.lru_cache(maxsize=64)(exponentials)
_kept_strides: Final = functools.lru_cache(maxsize=16)(_strides)


def _shifted(z: Array, by: int) -> Array:
    """Logical shift to the right of a signed array."""
    shifted = z >> by
    shifted &= (1 << (64 - by)) - 1
    return shifted


def _signed(bits: int) -> int:
    """The same 64 bits, read as two's complement."""
    return bits - (1 << 64) if bits >> 63 else bits
