"""How long a forward takes on a virtual device.

A cost is a function of the tokens that the longest row reads, of the rows in the batch, and of
the context behind the longest row: rows are padded to the longest, as the real runners do it.
A draft step reads one token (two after a fully kept window of speculative decoding), a pass of
the target reads the pending tokens and one more, a first pass reads the prompt.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec
import numpy as np

from pearl.decoding.errors import SettingError
from pearl.decoding.sampling import refuse_unless

CHUNK: Final = 1024
SHORTEST_S, LONGEST_S = 1e-12, 1e9
"""Between them lies every time that a device can take, and sums and ratios of them are numbers."""
TIMES: Final = f"more than 0, from {SHORTEST_S:g} to {LONGEST_S:g}"
LEAST_SPREAD: Final = 1e-6
WIDEST_SPREAD: Final = 10.0  # of a factor; with a wider one most factors are 0, to a computer
Clock: TypeAlias = Callable[[int, int, int], float]


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


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What was measured, with straight lines between the points and beyond them.

    Args:
        tokens: sizes that were measured, ascending.
        batches: numbers of rows that were measured, ascending, beginning with 1.
        grid: seconds, one row for each of `batches`, one column for each of `tokens`.
        context: positions behind the rows when the grid was measured.
        per_position: further seconds for every further position and row.
    """

    tokens: tuple[int, ...]
    batches: tuple[int, ...]
    grid: tuple[tuple[float, ...], ...]
    context: float = 0.0
    per_position: float = 0.0

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

    def seconds(self, tokens: int, batch: int = 1, context: int = 0) -> float:
        """Linear in each argument between the points; never below half of the nearest point."""
        there = self.measured(tokens, batch)
        behind = self.per_position * batch * (context - self.context)
        return max(there + behind, there / 2)

    def measured(self, tokens: int, batch: int = 1) -> float:
        """Seconds at the context of the grid."""
        nearest = [_on_line(self.tokens, row, tokens) for row in self.grid]
        return _on_line(self.batches, nearest, batch)


def _on_line(at: Sequence[int], values: Sequence[float], wanted: int) -> float:
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

    around: Constant | Affine | Roofline | Measured
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


def clock(cost: AnyCost, rng: np.random.Generator) -> Clock:
    """The cost as a device asks for it, forward by forward."""
    if not isinstance(cost, Spread):
        return cost.seconds
    mean, factors = cost.around.seconds, cost.factors(rng)
    return lambda tokens, batch, context: mean(tokens, batch, context) * next(factors)
