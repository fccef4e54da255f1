"""Where the draft agrees with the target, position by position.

A model without weights needs only this: at position p of the target's text, would the draft,
standing on that text, write the target's token? A `Text` answers it. Its tokens are 1 where the
draft agrees and 0 where it does not; the target always chooses 1. So agreement belongs to the
text and not to the run: AR, SD and PEARL with any gamma meet the same hard and easy places.

The vectorised twin asks for the same thing in another form: the lengths of the runs of agreement
from one disagreement to the next (`runs`).

Notation: a acceptance rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pearl.decoding.messages import TokenId
from pearl.decoding.sampling import refuse_unless

CHUNK: Final = 4096
LONGEST: Final = 10**6  # a run of agreement in the twin; at a = 1 it would never end
MOST_WEIGHT: Final = 1e9  # sums of them are numbers
AGREES: Final = 1
DIFFERS: Final = 0

Runs: TypeAlias = NDArray[np.int64]


class Text(Protocol):
    """One request as the pair would write it."""

    def window(self, start: int, count: int) -> tuple[TokenId, ...]:
        """What the draft writes at positions `start` on, in one window that begins there."""


@final
class Agreement:
    """A text whose agreement depends on the position alone: a growing list of 0 and 1."""

    def __init__(self, draw: Callable[[], list[int]]) -> None:
        self._draw = draw
        self._known: list[int] = []

    def window(self, start: int, count: int) -> tuple[TokenId, ...]:
        """A slice."""
        while len(self._known) < start + count:
            self._known += self._draw()
        return tuple(self._known[start : start + count])


@final
class ByPosition:
    """A text whose agreement depends on the place in the window, too."""

    def __init__(self, rates: Sequence[float], rng: np.random.Generator) -> None:
        self._rates = rates
        self._rng = rng
        self._known: list[float] = []

    def window(self, start: int, count: int) -> tuple[TokenId, ...]:
        """The uniform draw of a place against the rate of its position; the last rate goes on."""
        while len(self._known) < start + count:
            self._known += self._rng.random(CHUNK).tolist()
        rates = itertools.chain(self._rates, itertools.repeat(self._rates[-1]))
        return tuple(
            int(u < a) for u, a in zip(self._known[start : start + count], rates, strict=False)
        )


class Independent(msgspec.Struct, frozen=True, tag=True):
    """Every draft token is kept with the same chance, whatever came before."""

    rate: float

    def __post_init__(self) -> None:
        """Refuse what is no chance."""
        _check_rate(self, "rate")

    @property
    def mean(self) -> float:
        """The acceptance rate."""
        return self.rate

    def text(self, rng: np.random.Generator, number: int = 0) -> Text:  # noqa: ARG002 - all alike
        """Where draft and target agree in one request."""
        return Agreement(lambda: (rng.random(CHUNK) < self.rate).astype(int).tolist())

    def runs(self, rng: np.random.Generator, count: int) -> Runs:
        """Lengths of runs of agreement: geometric."""
        return _geometric(self.rate, rng.standard_exponential(count))


class Positions(msgspec.Struct, frozen=True, tag=True):
    """A chance for each position in the window, given that all before it were kept.

    Beyond the last one given, the last one goes on.
    """

    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no chance."""
        refuse_unless(self, "rates", "one rate or more", fine=len(self.rates) > 0)
        fine = all(0 <= rate <= 1 for rate in self.rates)
        refuse_unless(self, "rates", "rates from 0 to 1", fine=fine)

    @property
    def mean(self) -> float:
        """The rate of the first position: the one that is always compared."""
        return self.rates[0]

    def text(self, rng: np.random.Generator, number: int = 0) -> Text:  # noqa: ARG002 - all alike
        """Where draft and target agree in one request."""
        return ByPosition(self.rates, rng)


class Bursts(msgspec.Struct, frozen=True, tag=True):
    """A two-state Markov chain: agreement follows agreement more often than it follows a miss.

    Args:
        rate: the long-run acceptance rate a.
        correlation: r, of two neighbouring positions; 0 is independence.
    """

    rate: float
    correlation: float

    def __post_init__(self) -> None:
        """Refuse what is no chance."""
        _check_rate(self, "rate")
        fine = 0 <= self.correlation < 1
        refuse_unless(self, "correlation", "from 0 to below 1", fine=fine)

    @property
    def mean(self) -> float:
        """The acceptance rate."""
        return self.rate

    @property
    def after_agreement(self) -> float:
        """The chance to agree where it agreed before: a + r (1 - a)."""
        return self.rate + self.correlation * (1 - self.rate)

    @property
    def after_miss(self) -> float:
        """The chance to agree where it did not: a (1 - r); at a = 1 it never did not."""
        return self.rate * (1 - self.correlation) if self.rate < 1 else 1.0

    def text(self, rng: np.random.Generator, number: int = 0) -> Text:  # noqa: ARG002 - all alike
        """A request: runs of agreement, each with the miss that ends it."""
        if self.rate in {0.0, 1.0}:
            return Agreement(lambda: [int(self.rate)] * CHUNK)
        # As many as make about a chunk of text: a run and its miss have 1 / (1 - a) positions.
        count = math.ceil(CHUNK * (1 - self.rate))
        return Agreement(lambda: _spelled(self.runs(rng, count)))

    def runs(self, rng: np.random.Generator, count: int) -> Runs:
        """Lengths of runs: empty, or one and then geometric."""
        begun = rng.random(count) < self.after_miss
        further = _geometric(self.after_agreement, rng.standard_exponential(count))
        return np.where(begun, np.minimum(1 + further, LONGEST), 0)


class Mixture(msgspec.Struct, frozen=True, tag=True):
    """Prompts differ: each request has one of these rates, by weight."""

    rates: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what is no mixture."""
        fine = len(self.rates) > 0 and all(0 <= rate <= 1 for rate in self.rates)
        refuse_unless(self, "rates", "rates from 0 to 1", fine=fine)
        fine = len(self.weights) == len(self.rates) and all(
            1 / MOST_WEIGHT <= weight <= MOST_WEIGHT for weight in self.weights
        )
        allowed = f"one for each rate, from {1 / MOST_WEIGHT:g} to {MOST_WEIGHT:g}"
        refuse_unless(self, "weights", allowed, fine=fine)

    @property
    def mean(self) -> float:
        """The mean over prompts."""
        pairs = zip(self.rates, self.shares, strict=True)
        return sum(rate * share for rate, share in pairs)

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights, summing to 1."""
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def text(self, rng: np.random.Generator, number: int = 0) -> Text:
        """A request, its rate drawn first."""
        rate = self.rates[int(rng.choice(len(self.rates), p=self.shares))]
        return Independent(rate).text(rng, number)


class Replay(msgspec.Struct, frozen=True, tag=True):
    """What a pair really did, prompt by prompt.

    Args:
        texts: one a prompt, a character a position: `1` agreed, `0` did not, `?` was never
            compared (it is drawn with the mean rate). Request n takes text n, counted around; a
            request that is longer than its text begins the text again.
    """

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse what nothing can be drawn from."""
        known = "".join(self.texts)
        fine = all(self.texts) and set(known) <= set("01?") and ("0" in known or "1" in known)
        allowed = "texts of 0, 1 and ?, none empty, with something compared in them"
        refuse_unless(self, "texts", allowed, fine=fine)

    @property
    def mean(self) -> float:
        """Agreed of compared."""
        agreed = sum(text.count("1") for text in self.texts)
        return agreed / (agreed + sum(text.count("0") for text in self.texts))

    def runs(self) -> list[Runs]:
        """Lengths of the runs of agreement in each text; what was never compared is left out.

        The end of a text cuts its last run short. Its last token then stands for the miss: so
        every position counts once, and long runs at the end of texts, which are common, stay.
        """
        texts = [text.replace("?", "") for text in self.texts]
        found = [[len(run) for run in text.split("0")] for text in texts if text]
        return [np.array([*full, *([cut - 1] if cut else [])]) for *full, cut in found]

    def text(self, rng: np.random.Generator, number: int = 0) -> Text:
        """What was recorded of prompt `number`."""
        text, mean = self.texts[number % len(self.texts)], self.mean

        def draw() -> list[int]:
            luck = (rng.random(len(text)) < mean).astype(int).tolist()
            return [int(c) if c != "?" else u for c, u in zip(text, luck, strict=True)]

        return Agreement(draw)


Acceptance: TypeAlias = Independent | Positions | Bursts | Mixture | Replay


def _check_rate(owner: Independent | Bursts, name: str) -> None:
    refuse_unless(owner, name, "from 0 to 1", fine=0 <= getattr(owner, name) <= 1)


def _geometric(rate: float, exponentials: np.ndarray) -> Runs:
    """Numbers of successes before the first failure, from exponential draws by inversion."""
    if rate in {0.0, 1.0}:
        return np.full(len(exponentials), LONGEST if rate else 0)
    lengths = exponentials * (-1 / math.log(rate))
    return np.minimum(lengths, LONGEST).astype(np.int64)


def _spelled(runs: Runs) -> list[int]:
    """Runs of agreement as 0 and 1, a 0 after each run."""
    ends = np.cumsum(runs + 1)
    text = np.ones(ends[-1], dtype=np.int64)
    text[ends - 1] = 0
    return list(text.tolist())
