"""How long a forward takes on a virtual device.

A cost is a function of the tokens that the longest row reads, of the rows in the batch, and of
the context behind the longest row: rows are padded to the longest, as the real runners do it.
A draft step reads one token (two after a fully kept window of speculative decoding), a pass of
the target reads the pending tokens and one more, a first pass reads the prompt.

Measured times know two things more, which a device says when it begins a forward: for how long it
has rested, and what the other one does meanwhile: tokens that the draft is to write beside a pass,
or whether a pass is under way beside a step.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from pearl.decoding.errors import SettingError
from pearl.decoding.sampling import refuse_unless

Array: TypeAlias = NDArray[np.float64]
CHUNK: Final = 1024
SHORTEST_S, LONGEST_S = 1e-12, 1e9
"""Between them lies every time that a device can take, and sums and ratios of them are numbers."""
TIMES: Final = f"more than 0, from {SHORTEST_S:g} to {LONGEST_S:g}"
LEAST_SPREAD: Final = 1e-6
WIDEST_SPREAD: Final = 10.0  # of a factor; with a wider one most factors are 0, to a computer
QUANTILES: Final = 32  # that stand for how times spread
Clock: TypeAlias = Callable[[int, int, int, float, int], float]
"""Seconds by tokens, rows, context, seconds of rest, and tokens of the other device beside it."""


class Constant(msgspec.Struct, frozen=True, tag=True):
    """The same time for every forward: the assumption of the closed forms."""

    per_forward: float

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        fine = SHORTEST_S <= self.per_forward <= LONGEST_S
        refuse_unless(self, "per_forward", f"seconds, {TIMES}", fine=fine)

    def seconds(self, tokens: int, batch: int = 1, context: int = 0) -> float:  # noqa: ARG002 - constant
        """Always the same."""
        return self.per_forward


class Affine(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A base, and so much more for every further token, row and context position, in seconds."""

    base: float
    per_token: float = 0.0
    per_row: float = 0.0
    per_position: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        for name in self.__struct_fields__:
            fine = 0 <= getattr(self, name) <= LONGEST_S
            refuse_unless(self, name, f"seconds, from 0 to {LONGEST_S:g}", fine=fine)
        refuse_unless(self, "base", f"seconds, {TIMES}", fine=self.base >= SHORTEST_S)

    def seconds(self, tokens: int, batch: int = 1, context: int = 0) -> float:
        """The base is the forward of one row over one token without context."""
        further = batch * tokens - 1
        return (
            self.base
            + self.per_token * further
            + self.per_row * (batch - 1)
            + self.per_position * batch * context
        )


class Roofline(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The slower of moving the bytes and doing the operations (Williams et al. 2009).

    Args:
        weight_bytes: of the model, read once a forward.
        position_bytes: of the KV cache, per context position and row.
        token_flops: operations per token read: about twice the number of weights.
        bandwidth: bytes per second of the device.
        rate: operations per second of the device.
        launch: seconds that a forward takes in any case.
    """

    weight_bytes: float
    position_bytes: float = 0.0
    token_flops: float
    bandwidth: float
    rate: float
    launch: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no machine has."""
        for name in ("weight_bytes", "token_flops", "bandwidth", "rate"):
            refuse_unless(self, name, "more than 0", fine=0 < getattr(self, name) < float("inf"))
        for name in ("position_bytes", "launch"):
            refuse_unless(self, name, "0 or more", fine=0 <= getattr(self, name) < float("inf"))
        if not SHORTEST_S <= (taken := self.seconds(1, 1, 1)) <= LONGEST_S:
            message = f"a forward takes {taken:g} s with these numbers; it must take {TIMES}"
            raise SettingError(message)

    def seconds(self, tokens: int, batch: int = 1, context: int = 0) -> float:
        """Bound by memory for few tokens, by arithmetic for many."""
        moved = self.weight_bytes + batch * context * self.position_bytes
        done = batch * tokens * self.token_flops
        return self.launch + max(moved / self.bandwidth, done / self.rate)


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """How much longer passes take while the draft writes a window: two busy models share caches.

    Args:
        window: tokens of it.
        single, several: times as long, of a pass over one token and over more.
    """

    window: int
    single: float = 1.0
    several: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no window, and no factor."""
        refuse_unless(self, "window", "1 or more", fine=self.window >= 1)
        for name in ("single", "several"):
            fine = 0 < getattr(self, name) < float("inf")
            refuse_unless(self, name, "more than 0", fine=fine)


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What was measured, with straight lines between the points and beyond them.

    Args:
        tokens: sizes that were measured, ascending.
        batches: numbers of rows that were measured, ascending, beginning with 1.
        grid: seconds, one row for each of `batches`, one column for each of `tokens`.
        context: positions behind the rows when the grid was measured.
        per_position: further seconds for every further position and row.
        rests: seconds, ascending from 0.
        waking, waking_beside: how much longer the first forward behind each rest takes, with
            nothing beside it and beside a forward of the other model, which has taken the caches.
        beside: how much longer a pass takes while windows are written beside it, ascending.
        spread: factors of the mean, each as likely as the others; of mean 1.
    """

    tokens: tuple[int, ...]
    batches: tuple[int, ...]
    grid: tuple[tuple[float, ...], ...]
    context: float = 0.0
    per_position: float = 0.0
    rests: tuple[float, ...] = (0.0,)
    waking: tuple[float, ...] = (0.0,)
    waking_beside: tuple[float, ...] = (0.0,)
    beside: tuple[Beside, ...] = ()
    spread: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse a table with holes."""
        for name in ("tokens", "batches"):
            axis = getattr(self, name)
            fine = bool(axis) and list(axis) == sorted(set(axis)) and axis[0] >= 1
            refuse_unless(self, name, "whole numbers from 1 on, ascending", fine=fine)
        full = len(self.grid) == len(self.batches)
        full = full and all(len(row) == len(self.tokens) for row in self.grid)
        full = full and all(SHORTEST_S <= time <= LONGEST_S for row in self.grid for time in row)
        if not full:
            wanted = f"{len(self.batches)} rows of {len(self.tokens)} times, each {TIMES}"
            raise SettingError(f"grid is {self.grid}; it must be {wanted}")
        fine = list(self.rests) == sorted(set(self.rests)) and self.rests[:1] == (0.0,)
        refuse_unless(self, "rests", "seconds from 0 on, ascending", fine=fine)
        for name in ("waking", "waking_beside"):
            times = getattr(self, name)
            fine = len(times) == len(self.rests) and all(0 <= s <= LONGEST_S for s in times)
            refuse_unless(self, name, "seconds, one for each of the rests", fine=fine)
        windows = [each.window for each in self.beside]
        fine = windows == sorted(set(windows))
        refuse_unless(self, "beside", "ascending by window", fine=fine)
        fine = bool(self.spread) and all(0 < each < float("inf") for each in self.spread)
        refuse_unless(self, "spread", "factors, more than 0", fine=fine)

    def seconds(self, tokens: int, batch: int = 1, context: int = 0) -> float:
        """Of a device that did not rest, with nothing written beside it.

        Linear in each argument between the points; never below half of the nearest point.
        """
        there = self.measured(tokens, batch)
        behind = self.per_position * batch * (context - self.context)
        return max(there + behind, there / 2)

    def measured(self, tokens: int, batch: int = 1) -> float:
        """Seconds at the context of the grid."""
        nearest = [_on_line(self.tokens, row, tokens) for row in self.grid]
        return _on_line(self.batches, nearest, batch)

    def woken(self, rest_s: float, *, beside: bool = False) -> float:
        """Further seconds of the first forward behind a rest; behind the longest as behind it."""
        waking = self.waking_beside if beside else self.waking
        return _on_line(self.rests, waking, min(rest_s, self.rests[-1]))

    def slower(self, tokens: int, window: int) -> float:
        """How many times as long a pass takes while so much is written beside it."""
        if not window or not self.beside:
            return 1.0
        windows = [each.window for each in self.beside]
        factors = [each.single if tokens == 1 else each.several for each in self.beside]
        return _on_line(windows, factors, min(window, windows[-1]))

    def slowed(self, factor: float) -> Measured:
        """The same device on a machine that is so many times as slow."""
        return msgspec.structs.replace(
            self,
            grid=tuple(tuple(factor * seconds for seconds in row) for row in self.grid),
            per_position=factor * self.per_position,
            waking=tuple(factor * seconds for seconds in self.waking),
            waking_beside=tuple(factor * seconds for seconds in self.waking_beside),
        )


def _on_line(at: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """The value at `wanted` of the line through the two points nearest to it.

    Before the first point it is flat: smaller forwards are not faster for being smaller.
    """
    if len(at) == 1 or wanted <= at[0]:
        return values[0]
    right = min(bisect.bisect_left(at, wanted), len(at) - 1)
    left = right - 1
    share = (wanted - at[left]) / (at[right] - at[left])
    value = values[left] + share * (values[right] - values[left])
    return max(value, values[right] / 2) if wanted > at[right] else value


class Spread(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Another cost, times a random factor: gamma distributed, of mean 1.

    Args:
        around: the cost of the mean.
        variation: standard deviation of the factor.
    """

    around: Constant | Affine | Roofline
    variation: float

    def __post_init__(self) -> None:
        """Refuse what is no spread."""
        fine = LEAST_SPREAD <= self.variation <= WIDEST_SPREAD
        allowed = f"from {LEAST_SPREAD:g} to {WIDEST_SPREAD:g}"
        refuse_unless(self, "variation", allowed, fine=fine)

    def seconds(self, tokens: int, batch: int = 1, context: int = 0) -> float:
        """The mean."""
        return self.around.seconds(tokens, batch, context)

    def factors(self, rng: np.random.Generator) -> Iterator[float]:
        """One factor a forward."""
        shape = self.variation**-2
        while True:
            yield from rng.gamma(shape, 1 / shape, CHUNK).tolist()


AnyCost: TypeAlias = Constant | Affine | Roofline | Measured | Spread


def scatter(cost: AnyCost) -> Array:
    """Factors of the mean, each as likely as the others, that stand for how a cost spreads."""
    match cost:
        case Measured():
            return np.array(cost.spread)
        case Spread():
            shape = cost.variation**-2
            middles = (np.arange(QUANTILES) + 0.5) / QUANTILES
            factors = gammaincinv(shape, middles) / shape
            return np.asarray(factors / factors.mean())
        case _:
            return np.ones(1)


def clock(cost: AnyCost, rng: np.random.Generator) -> Clock:
    """The cost as a device asks for it, forward by forward."""
    match cost:
        case Measured():
            return _measured_clock(cost, rng)
        case Spread():
            mean, factors = cost.around.seconds, cost.factors(rng)
            return lambda tokens, batch, context, _r, _b: (
                mean(tokens, batch, context) * next(factors)
            )
        case Constant():
            always = cost.per_forward
            return lambda _t, _n, _c, _r, _b: always
        case _:
            certain = cost.seconds
            return lambda tokens, batch, context, _r, _b: certain(tokens, batch, context)


def _measured_clock(cost: Measured, rng: np.random.Generator) -> Clock:
    mean = functools.lru_cache(maxsize=None)(cost.measured)  # of a few sizes, asked for each pass
    slower = functools.lru_cache(maxsize=None)(cost.slower)
    factors = _drawn(cost.spread, rng)

    def seconds(tokens: int, batch: int, context: int, rest_s: float, beside: int) -> float:
        there = mean(tokens, batch)
        behind = cost.per_position * batch * (context - cost.context)
        level = max(there + behind, there / 2) + cost.woken(rest_s, beside=beside > 0)
        return level * slower(tokens, beside) * next(factors)

    return seconds


def _drawn(spread: Sequence[float], rng: np.random.Generator) -> Iterator[float]:
    if len(spread) == 1:
        yield from itertools.repeat(spread[0])
    while True:
        yield from rng.choice(spread, CHUNK).tolist()
