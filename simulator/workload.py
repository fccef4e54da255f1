"""Which requests come, when, and how long they are.

A length or a gap is a number, or a distribution with its own stream.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import msgspec
import numpy as np

from pearl.decoding.errors import SettingError
from pearl.decoding.sampling import refuse_unless
from pearl.simulator.costs import LEAST_SPREAD, LONGEST_S, WIDEST_SPREAD

MOST_TOKENS: Final = 10**8
"""That one replication writes: half an hour of a core. More is a mistake, or wants a sweep."""
MOST_REQUESTS: Final = 10**6
LONGEST: Final = 10**9  # tokens of one text
RATES: Final = (1e-9, 1e9)  # requests a second


class Fixed(msgspec.Struct, frozen=True, tag=True):
    """Always the same length."""

    tokens: int

    def __post_init__(self) -> None:
        """Refuse what is no length."""
        fine = 1 <= self.tokens <= LONGEST
        refuse_unless(self, "tokens", f"1 or more, at most {LONGEST}", fine=fine)

    @property
    def expected(self) -> float:
        """The mean."""
        return float(self.tokens)

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:  # noqa: ARG002 - no chance in it
        """`count` lengths."""
        return [self.tokens] * count


class Uniform(msgspec.Struct, frozen=True, tag=True):
    """Every length from `low` to `high`, equally often."""

    low: int
    high: int

    def __post_init__(self) -> None:
        """Refuse what is no range."""
        fine = 1 <= self.low <= self.high
        refuse_unless(self, "low", f"from 1 to high, {self.high}", fine=fine)
        refuse_unless(self, "high", f"at most {LONGEST}", fine=self.high <= LONGEST)

    @property
    def expected(self) -> float:
        """The mean."""
        return (self.low + self.high) / 2

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """`count` lengths."""
        return list(rng.integers(self.low, self.high, count, endpoint=True).tolist())


class Geometric(msgspec.Struct, frozen=True, tag=True):
    """As if a coin after each token decided whether the text ends."""

    mean: float

    def __post_init__(self) -> None:
        """Refuse what is no mean."""
        refuse_unless(self, "mean", f"from 1 to {LONGEST}", fine=1 <= self.mean <= LONGEST)

    @property
    def expected(self) -> float:
        """The mean."""
        return self.mean

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """`count` lengths."""
        return list(rng.geometric(1 / self.mean, count).tolist())


class LogNormal(msgspec.Struct, frozen=True, tag=True):
    """Many short ones and a few very long: the usual shape of prompts and answers.

    Args:
        mean: of the lengths.
        variation: standard deviation over mean.
    """

    mean: float
    variation: float

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        refuse_unless(self, "mean", f"from 1 to {LONGEST}", fine=1 <= self.mean <= LONGEST)
        fine = LEAST_SPREAD <= self.variation <= WIDEST_SPREAD
        allowed = f"from {LEAST_SPREAD:g} to {WIDEST_SPREAD:g}"
        refuse_unless(self, "variation", allowed, fine=fine)

    @property
    def expected(self) -> float:
        """The mean."""
        return self.mean

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:
        """`count` lengths, rounded, at least 1."""
        s2 = math.log1p(self.variation**2)
        drawn = rng.lognormal(math.log(self.mean) - s2 / 2, math.sqrt(s2), count)
        return [max(1, round(length)) for length in drawn.tolist()]


class Recorded(msgspec.Struct, frozen=True, tag=True):
    """Lengths that were seen, in this order, counted around."""

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse what is no list of lengths."""
        fine = len(self.lengths) > 0 and min(self.lengths) >= 1
        refuse_unless(self, "lengths", "one or more, each 1 or more", fine=fine)

    @property
    def expected(self) -> float:
        """The mean."""
        return sum(self.lengths) / len(self.lengths)

    def draw(self, rng: np.random.Generator, count: int) -> list[int]:  # noqa: ARG002 - no chance in it
        """`count` lengths."""
        return [self.lengths[number % len(self.lengths)] for number in range(count)]


Lengths: TypeAlias = Fixed | Uniform | Geometric | LogNormal | Recorded


class ClosedLoop(msgspec.Struct, frozen=True, tag=True):
    """So many users, each of whom sends the next request when the last one is done."""

    users: int = 1

    def __post_init__(self) -> None:
        """Refuse an empty house."""
        refuse_unless(self, "users", "1 or more", fine=self.users >= 1)


class Poisson(msgspec.Struct, frozen=True, tag=True):
    """Requests that know nothing of each other: `rate` a second."""

    rate: float

    def __post_init__(self) -> None:
        """Refuse what is no rate."""
        fine = RATES[0] <= self.rate <= RATES[1]
        allowed = f"requests a second, more than 0, from {RATES[0]:g} to {RATES[1]:g}"
        refuse_unless(self, "rate", allowed, fine=fine)


class Times(msgspec.Struct, frozen=True, tag=True):
    """Requests that came at these seconds, ascending."""

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse a clock that runs backwards."""
        fine = len(self.seconds) > 0
        fine = fine and all(0 <= second <= LONGEST_S for second in self.seconds)
        fine = fine and list(self.seconds) == sorted(self.seconds)
        allowed = f"one or more, from 0 to {LONGEST_S:g}, ascending"
        refuse_unless(self, "seconds", allowed, fine=fine)


Arrivals: TypeAlias = ClosedLoop | Poisson | Times


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the pair.

    Args:
        requests: how many, in all.
        arrivals: when they come.
        prompt: tokens of a prompt, which the first job of each device reads.
        output: tokens of an answer.
        slots: how many requests run at once; the others queue. None has no limit.
    """

    requests: int = 1
    arrivals: Arrivals = ClosedLoop()
    prompt: Lengths = Fixed(1)
    output: Lengths = Fixed(10_000)
    slots: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        fine = 1 <= self.requests <= MOST_REQUESTS
        refuse_unless(self, "requests", f"1 or more, at most {MOST_REQUESTS}", fine=fine)
        check_tokens(self.requests * self.output.expected)
        fine = self.slots is None or self.slots >= 1
        refuse_unless(self, "slots", "1 or more, or left out", fine=fine)
        if isinstance(self.arrivals, Times):
            known = len(self.arrivals.seconds)
            allowed = f"at most {known}, the arrivals that were recorded"
            refuse_unless(self, "requests", allowed, fine=self.requests <= known)


def check_tokens(tokens: float, where: str = "all answers") -> None:
    """Refuse what would be computed for hours, before it begins.

    Raises:
        SettingError: there are too many of them.
    """
    if tokens > MOST_TOKENS:
        message = f"{where} have {tokens:.4g} tokens together; they must have {MOST_TOKENS} at most"
        raise SettingError(message)
