"""Every outcome of a run, with its exact probability.

The coins of a run are unknown numbers in [0, 1). A `BranchingCoins` knows each of them only as an
interval. A question it cannot answer yet ("is it below 0.3?") splits the interval, and the run is
repeated once for each answer. What is left at the end of a run is a box; its volume is the
probability of the run. A coin that is asked again is the same number again, so that code which
uses one coin for two decisions is caught with the dependence it really creates.

`check_law` compares the joint law of the output with the target's own. `check_path` is the
stronger claim of greedy and coupled verification: the same coins give the same tokens.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar, final

import numpy as np

from pearl.decoding.coins import Array, Coins, Purpose
from pearl.decoding.messages import Cancel, Judge, Judged, Propose, Proposed, TokenId
from pearl.decoding.sampling import Sampling
from pearl.decoding.schedules import Schedule
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules
from pearl.decoding.verification import Verifier
from tests.decoding.network import Network, Script
from tests.decoding.toys import Logits, Pair, Prefix, ToyDevices, autoregressive

T = TypeVar("T")
Law: TypeAlias = Mapping[Prefix, float]
VerifierMaker: TypeAlias = Callable[[Settings, Coins], Verifier]

TOLERANCE: Final = 1e-12
SLIVER: Final = 1e-15  # narrower pieces of a coin are rounding errors of sums
MOST_ANSWERS: Final = 500  # of one small run; more means it does not end


class LossyError(AssertionError):
    """What came out is not what the target alone would have said."""


# -- coins -----------------------------------------------------------------------------------------


@final
class BranchingCoins:
    """Coins whose every possible answer is explored; see `outcomes`."""

    def __init__(self, path: tuple[int, ...] = ()) -> None:
        self._path = path
        self._taken: list[int] = []
        self._choices: list[int] = []
        self._known: dict[tuple[int, Purpose], tuple[float, float]] = {}

    def accepts(self, probability: float, position: int, purpose: Purpose) -> bool:
        """Whether the coin is below `probability`."""
        return self._ask((position, purpose), [probability, 1.0]) == 0

    def draw(self, laws: Array, position: int, purpose: Purpose) -> tuple[int, ...]:
        """The inverse of each row's cumulative law, at the coin of its position."""
        return tuple(
            self._ask((position + row, purpose), [*itertools.accumulate(law[:-1]), 1.0])
            for row, law in enumerate(laws.tolist())
        )

    @property
    def probability(self) -> float:
        """Of all that was answered so far."""
        return math.prod(high - low for low, high in self._known.values())

    def next_path(self) -> tuple[int, ...] | None:
        """The run to make after this one, depth first; None when all are made."""
        path = self._taken
        while path and path[-1] + 1 == self._choices[len(path) - 1]:
            path = path[:-1]
        return (*path[:-1], path[-1] + 1) if path else None

    def _ask(self, coin: tuple[int, Purpose], edges: list[float]) -> int:
        """Which of the pieces that end at `edges` the coin lies in."""
        low, high = self._known.get(coin, (0.0, 1.0))
        pieces = [
            (index, max(low, begin), min(high, end))
            for index, (begin, end) in enumerate(itertools.pairwise([0.0, *edges]))
            if min(high, end) - max(low, begin) > SLIVER
        ]
        index, low, high = pieces[self._fork(len(pieces)) if len(pieces) > 1 else 0]
        self._known[coin] = (low, high)
        return index

    def _fork(self, choices: int) -> int:
        depth = len(self._taken)
        self._taken.append(self._path[depth] if depth < len(self._path) else 0)
        self._choices.append(choices)
        return self._taken[-1]


def outcomes(run: Callable[[BranchingCoins], T]) -> Iterator[tuple[float, T]]:
    """Each outcome of `run` with its probability."""
    path: tuple[int, ...] | None = ()
    while path is not None:
        coins = BranchingCoins(path)
        result = run(coins)
        yield coins.probability, result
        path = coins.next_path()


# -- runs ------------------------------------------------------------------------------------------


class Arrival(enum.Enum):
    """In which order answers come in."""

    WINDOW_FIRST = enum.auto()
    VERDICT_FIRST = enum.auto()
    ECHO = enum.auto()  # verdict first; what was cancelled comes late, and everything comes twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One request: what is asked of which pair, and how its messages travel."""

    settings: Settings
    pair: Pair
    eos: frozenset[TokenId] = frozenset()
    arrival: Arrival = Arrival.VERDICT_FIRST
    script: Script | None = None  # a hostile network, in place of an order of arrival

    @property
    def stop(self) -> StopRules:
        """When it ends."""
        return StopRules(limit=self.settings.max_new_tokens, eos=self.eos)


def honest(settings: Settings, coins: Coins) -> Verifier:
    """The verifier of these settings, unbroken."""
    return settings.verifier_kind.make(settings.sampling, coins)


def decode(case: Case, verifier: Verifier) -> Schedule:
    """Run a request to its end."""
    schedule = case.settings.start(case.stop)
    devices = ToyDevices(case.pair, verifier)
    if case.script is None:
        deliver(schedule, devices, case.arrival)
    else:
        network = Network(schedule, devices, case.stop)
        network.play(case.script)
        network.finish()
    return schedule


def deliver(schedule: Schedule, devices: ToyDevices, arrival: Arrival) -> None:
    """Carry commands and answers until the schedule is finished."""
    first = Propose if arrival is Arrival.WINDOW_FIRST else Judge
    waiting: list[Propose | Judge] = []
    heard: list[Proposed | Judged] = []
    for _ in range(MOST_ANSWERS):
        for command in schedule.commands():
            if not isinstance(command, Cancel):
                waiting.append(command)
            elif arrival is not Arrival.ECHO:
                waiting = [kept for kept in waiting if kept.epoch >= command.epoch]
        if schedule.finish_reason is not None:
            return
        late = [command for command in waiting if command.epoch < schedule.epoch]
        chosen = (late + [c for c in waiting if isinstance(c, first)] + waiting)[0]
        waiting.remove(chosen)
        heard.append(devices.answer(chosen, schedule.committed))
        schedule.receive(heard[-1])
        if arrival is Arrival.ECHO:
            for again in heard[-3:]:
                schedule.receive(again)
    raise LossyError(f"not finished after {MOST_ANSWERS} answers: {list(schedule.committed)}")


# -- laws ------------------------------------------------------------------------------------------


def output_law(run: Callable[[BranchingCoins], Prefix]) -> Law:
    """The law of what a run returns."""
    law: defaultdict[Prefix, float] = defaultdict(float)
    for probability, text in outcomes(run):
        law[text] += probability
    return law


def target_law(case: Case) -> Law:
    """The law of the target's own texts: the product of its warped conditionals, no code shared."""
    law: defaultdict[Prefix, float] = defaultdict(float)
    open_texts: list[tuple[Prefix, float]] = [((), 1.0)]
    while open_texts:
        text, probability = open_texts.pop()
        for token, share in enumerate(conditional(case.pair.target(text), case.settings.sampling)):
            if share == 0:
                continue
            longer = (*text, token)
            if token in case.eos or len(longer) == case.settings.max_new_tokens:
                law[longer] += probability * share
            else:
                open_texts.append((longer, probability * share))
    return law


def conditional(logits: Logits, sampling: Sampling) -> list[float]:
    """The law of the next token; at temperature 0 it is certain."""
    if sampling.temperature == 0:
        return [float(token == np.argmax(logits)) for token in range(len(logits))]
    law: list[float] = sampling.laws(logits[None, :])[0].tolist()
    return law


def check_law(case: Case, make: VerifierMaker = honest) -> None:
    """The joint law of the whole output is the target's.

    Raises:
        LossyError: it is not.
    """
    got = output_law(lambda coins: tuple(decode(case, make(case.settings, coins)).committed))
    require_same_law(got, target_law(case))


def check_output(case: Case, make: VerifierMaker = honest) -> None:
    """The law of the output, and, where the verifier promises it, the very text.

    Raises:
        LossyError: it is another.
    """
    check_law(case, make)
    if case.settings.verifier_kind.same_text:
        check_path(case, make)


def require_same_law(got: Law, wanted: Law) -> None:
    """Refuse a law that differs, or that does not sum to one."""
    if abs(sum(got.values()) - 1) > TOLERANCE:
        raise LossyError(f"probabilities sum to {sum(got.values())!r}")
    for text in sorted({*got, *wanted}):
        if abs(got.get(text, 0.0) - wanted.get(text, 0.0)) > TOLERANCE:
            raise LossyError(f"P{text} is {got.get(text, 0.0)}; it must be {wanted.get(text, 0.0)}")


def check_path(case: Case, make: VerifierMaker = honest) -> None:
    """Whatever the coins, the output is what the target alone says with the same coins.

    Raises:
        LossyError: it is not.
    """

    def both(coins: BranchingCoins) -> tuple[Prefix, Prefix]:
        text = tuple(decode(case, make(case.settings, coins)).committed)
        alone = autoregressive(case.pair.target, honest(case.settings, coins), case.stop)
        return text, alone

    for _, (text, alone) in outcomes(both):
        if text != alone:
            raise LossyError(f"got {text}; the target alone says {alone}")


def kept_per_comparison(case: Case, make: VerifierMaker = honest) -> float:
    """The expected share of compared draft tokens that are kept, over all outcomes."""
    kept = compared = 0.0
    for probability, schedule in outcomes(lambda coins: decode(case, make(case.settings, coins))):
        kept += probability * schedule.counts.kept
        compared += probability * (schedule.counts.kept + schedule.counts.rejections)
    return kept / compared
