"""Broken on purpose: each mutant is lossy or disorderly, and a named check must say so.

A proof that cannot fail proves nothing. Beside each mutant stands the check that catches it; the
unbroken code passes the very same checks on the very same cases (`test_the_unbroken_code_passes`).
Some changes look like bugs and are not: they must pass (`test_a_legal_change_is_not_accused`).
"""

from __future__ import annotations

import dataclasses
import enum
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, TypeAlias, final

import msgspec
import numpy as np
import pytest

from pearl.decoding import schedules, verdicts, verification
from pearl.decoding.coins import Array, Coins, CounterCoins, Purpose
from pearl.decoding.errors import ImpossibleDraftError
from pearl.decoding.messages import Command, Drafted, Judge, Judged, Propose, Proposed, TokenId
from pearl.decoding.sampling import Sampling
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason, StopRules
from pearl.decoding.transitions import Sign
from pearl.decoding.verdicts import Outcome
from pearl.decoding.verification import Coupled, Rejection, Verdict, Verifier
from tests.decoding.enumeration import (
    Arrival,
    Case,
    LossyError,
    VerifierMaker,
    check_law,
    check_path,
    decode,
    honest,
    kept_per_comparison,
)
from tests.decoding.network import DisorderError, Move
from tests.decoding.requests import pearl, request, speculative
from tests.decoding.toys import autoregressive, similar

WARM: Final = Sampling(temperature=1.0)
SPECULATIVE: Final = speculative(2)
PARALLEL: Final = pearl(2)


class Check(enum.Enum):
    """What catches a mutant."""

    LAW = enum.auto()  # the exact joint law of the output, network in order
    PATH = enum.auto()  # the same coins, the same tokens
    NETWORK = enum.auto()  # the referee of a hostile network, or the path under it


def case_of(schedule: Settings, verifier: str, *, vocab: int = 3) -> Case:
    return Case(
        settings=request(schedule, verifier, WARM, 3),
        pair=similar(vocab, seed=3),
        arrival=Arrival.WINDOW_FIRST,
    )


def raises_alarm(check: Check, case: Case, make: VerifierMaker = honest) -> bool:
    """Whether this check objects."""
    try:
        match check:
            case Check.LAW:
                check_law(case, make)
            case Check.PATH:
                check_path(case, make)
            case Check.NETWORK:
                for seed in range(60):
                    check_network(case, seed)
    except (LossyError, DisorderError):
        return True
    return False


def check_network(case: Case, seed: int) -> None:
    """The referee is content, and the text is the target's own where it should be."""
    longer = msgspec.structs.replace(case.settings, max_new_tokens=12)
    case = dataclasses.replace(case, settings=longer, script=hostile(seed))
    verifier = honest(longer, CounterCoins(seed))
    text = tuple(decode(case, verifier).committed)
    if longer.effective_verifier != "rejection":
        alone = autoregressive(case.pair.target, verifier, case.stop)
        if text != alone:
            raise LossyError(f"got {text}; the target alone says {alone}")


def hostile(seed: int) -> list[tuple[Move, int]]:
    """Jobs and answers in any order, many of them twice."""
    dice = random.Random(seed)
    moves = [Move.WORK_AND_KEEP, Move.WORK, Move.HEAR_AND_KEEP, Move.HEAR]
    losses = [Move.LOSE_DRAFT, Move.DRAFT_BACK, Move.HEAR_CUT]
    return [(dice.choice(moves * 3 + losses), dice.randrange(6)) for _ in range(40)]


# -- mutants of coins ------------------------------------------------------------------------------


@final
class Recoined:
    """Coins of which some are taken for others."""

    def __init__(self, inner: Coins, swap: Callable[[int, Purpose], tuple[int, Purpose]]) -> None:
        self._inner = inner
        self._swap = swap

    def accepts(self, probability: float, position: int, purpose: Purpose) -> bool:
        return self._inner.accepts(probability, *self._swap(position, purpose))

    def draw(self, laws: Array, position: int, purpose: Purpose) -> tuple[int, ...]:
        rows: Iterable[tuple[int, ...]] = (
            self._inner.draw(laws[row : row + 1], *self._swap(position + row, purpose))
            for row in range(len(laws))
        )
        return tuple(token for row in rows for token in row)


def recoined(swap: Callable[[int, Purpose], tuple[int, Purpose]]) -> VerifierMaker:
    return lambda settings, coins: honest(settings, Recoined(coins, swap))


def same_coin_for_two_positions(position: int, purpose: Purpose) -> tuple[int, Purpose]:
    return (position // 2 * 2 if purpose is Purpose.ACCEPT else position), purpose


def same_coin_for(one: Purpose, other: Purpose) -> Callable[[int, Purpose], tuple[int, Purpose]]:
    return lambda position, purpose: (position, other if purpose is one else purpose)


# -- mutants of verifiers --------------------------------------------------------------------------


class Judging(Protocol):
    """`Verifier.judge`, with the verifier it alters."""

    def __call__(
        self, inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
    ) -> Verdict: ...


Drafting: TypeAlias = Callable[[Drafted], Drafted]


@final
class Altered:
    """A verifier whose two answers are altered."""

    def __init__(self, inner: Verifier, judge: Judging, draft: Drafting) -> None:
        self._inner = inner
        self._judge = judge
        self._draft = draft

    def draft(self, logits: Array, position: int) -> Drafted:
        return self._draft(self._inner.draft(logits, position))

    def judge(self, logits: Array, drafted: Drafted, position: int, *, hold: bool) -> Verdict:
        return self._judge(self._inner, logits, drafted, position, hold=hold)


def ordinary(
    inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
) -> Verdict:
    return inner.judge(logits, drafted, position, hold=hold)


def altered(
    *, judge: Judging = ordinary, draft: Drafting = lambda drafted: drafted
) -> VerifierMaker:
    return lambda settings, coins: Altered(honest(settings, coins), judge, draft)


def rows_off_by_one(
    inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
) -> Verdict:
    """Each token is tested with the law of the one before it."""
    shifted = Drafted(tokens=drafted.tokens, laws=drafted.laws[:1] + drafted.laws[:-1])
    try:
        return inner.judge(logits, shifted, position, hold=hold)
    except ImpossibleDraftError as error:
        raise LossyError(str(error)) from None


def one_more(
    inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
) -> Verdict:
    """The refused token is kept."""
    verdict = inner.judge(logits, drafted, position, hold=hold)
    return Verdict(kept=min(verdict.kept + 1, len(drafted)), token=verdict.token)


def one_less(
    inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
) -> Verdict:
    """The last token kept is replaced by the choice that should have followed it."""
    verdict = inner.judge(logits, drafted, position, hold=hold)
    return Verdict(kept=max(verdict.kept - 1, 0), token=verdict.token)


def no_replacement(
    inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
) -> Verdict:
    """After a rejection nothing is committed in its place; the next pass draws from p."""
    verdict = inner.judge(logits, drafted, position, hold=hold)
    refused = verdict.kept < len(drafted)
    return Verdict(kept=verdict.kept, token=None if refused else verdict.token)


def untested_row(
    inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
) -> Verdict:
    """The first token of a window is taken on trust instead of being tested by the held row."""
    if not len(drafted):
        return inner.judge(logits, drafted, position, hold=hold)
    verdict = inner.judge(logits[1:], drafted.after(1), position + 1, hold=hold)
    return Verdict(kept=verdict.kept + 1, token=verdict.token)


def bonus_from_the_draft(
    inner: Verifier, logits: Array, drafted: Drafted, position: int, *, hold: bool
) -> Verdict:
    """When all is kept, the next token is the likeliest of the draft's last row."""
    verdict = inner.judge(logits, drafted, position, hold=hold)
    if len(drafted) and verdict.kept == len(drafted) and verdict.token is not None:
        row = np.frombuffer(drafted.laws[-1], np.float64)
        return Verdict(kept=verdict.kept, token=int(np.argmax(row)))
    return verdict


def unwarped(settings: Settings, coins: Coins) -> Verifier:
    """The draft draws from a cool law and reports the warm one."""
    cool = Rejection(msgspec.structs.replace(settings.sampling, temperature=0.4), coins)
    return Crossed(draft=cool, judge=Rejection(settings.sampling, coins), report=settings.sampling)


@final
class Crossed:
    """One verifier drafts, another judges; `report` is the law the draft says it used."""

    def __init__(self, *, draft: Verifier, judge: Verifier, report: Sampling | None) -> None:
        self._draft = draft
        self._judge = judge
        self._report = report

    def draft(self, logits: Array, position: int) -> Drafted:
        drafted = self._draft.draft(logits, position)
        if self._report is None:
            return drafted
        return Drafted(tokens=drafted.tokens, laws=(self._report.laws(logits)[0].tobytes(),))

    def judge(self, logits: Array, drafted: Drafted, position: int, *, hold: bool) -> Verdict:
        return self._judge.judge(logits, drafted, position, hold=hold)


VERIFIER_MUTANTS: Final[dict[str, tuple[VerifierMaker, Settings, str, Check]]] = {
    "the coin of a test serves the next position too": (
        recoined(same_coin_for_two_positions),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "test and replacement share a coin": (
        recoined(same_coin_for(Purpose.REPLACE, Purpose.ACCEPT)),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "drawing and testing a draft token share a coin": (
        recoined(same_coin_for(Purpose.ACCEPT, Purpose.DRAFT)),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "one coin for every position": (
        recoined(lambda _, purpose: (0, purpose)),
        PARALLEL,
        "coupled",
        Check.LAW,
    ),
    "rows of q off by one": (
        altered(judge=rows_off_by_one),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "kept is one too many": (
        altered(judge=one_more),
        SPECULATIVE,
        "coupled",
        Check.PATH,
    ),
    "kept is one too many, in law": (
        altered(judge=one_more),
        PARALLEL,
        "rejection",
        Check.LAW,
    ),
    "kept is one too few": (
        altered(judge=one_less),
        SPECULATIVE,
        "coupled",
        Check.PATH,
    ),
    "the replacement is dropped": (
        altered(judge=no_replacement),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "the replacement is dropped, and the same draft refused for ever": (
        altered(judge=no_replacement),
        SPECULATIVE,
        "coupled",
        Check.PATH,
    ),
    "a held row is not tested": (
        altered(judge=untested_row),
        PARALLEL,
        "rejection",
        Check.LAW,
    ),
    "the bonus token comes from q": (
        altered(judge=bonus_from_the_draft),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "draft warped otherwise than it reports": (
        unwarped,
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
}


@pytest.mark.parametrize(
    ("make", "schedule", "verifier", "check"), VERIFIER_MUTANTS.values(), ids=VERIFIER_MUTANTS
)
def test_a_broken_verifier_is_caught(
    make: VerifierMaker, schedule: Settings, verifier: str, check: Check
) -> None:
    """The check beside each mutant objects to it, and to nothing else in the case."""
    case = case_of(schedule, verifier)

    assert raises_alarm(check, case, make)
    assert not raises_alarm(check, case)


# -- mutants of what the code calls ----------------------------------------------------------------


def hasty_pass(self: TwoModelSchedule, pending: Drafted) -> None:
    """At the length limit the pending tokens are returned as they are."""
    GO_ON_WITH(self, pending)
    if len(pending) and self._room() <= 1:
        self._commit(pending.tokens)
        self._finish_reason = FinishReason.LENGTH
        self._do(Sign.ENDED)


def trusting_outcome(verdict: Judged, window: Sequence[TokenId] | None) -> Outcome:
    """The window's first token is not compared with the target's choice."""
    trusted = msgspec.structs.replace(verdict, token=window[0]) if window else verdict
    return OUTCOME(trusted, window)


def taken_where(
    fits: Callable[[Proposed | Judged, Propose | Judge], bool],
) -> Callable[[TwoModelSchedule, Proposed | Judged], bool]:
    """A schedule that takes an answer for that of the open job where this says so."""

    def awaits(self: TwoModelSchedule, answer: Proposed | Judged) -> bool:
        job = self._propose if isinstance(answer, Proposed) else self._judge
        return job is not None and fits(answer, job)

    return awaits


def looks_right(answer: Proposed | Judged, job: Propose | Judge) -> bool:
    """Where it begins, and how long it is."""
    if isinstance(answer, Proposed):
        return isinstance(job, Propose) and answer.start == job.start and answer.complete
    return (answer.base, answer.judged) == (job.base, len(job.pending))


def unnumbered(self: TwoModelSchedule) -> tuple[Command, ...]:
    """All jobs are number 1."""
    for name in ("_propose", "_judge"):
        if (job := getattr(self, name)) is not None:
            setattr(self, name, msgspec.structs.replace(job, job=1))
    return tuple(
        msgspec.structs.replace(command, job=1) if isinstance(command, Propose | Judge) else command
        for command in COMMANDS(self)
    )


def overshooting(
    self: StopRules, committed: Sequence[TokenId], new: Sequence[TokenId]
) -> tuple[tuple[TokenId, ...], FinishReason | None]:
    """The end is looked for in the last token of a verdict only."""
    admitted, reason = ADMIT(dataclasses.replace(self, eos=frozenset()), committed, new)
    ends = bool(admitted) and admitted[-1] in self.eos
    return admitted, FinishReason.EOS if ends else reason


def endless(
    self: StopRules, committed: Sequence[TokenId], new: Sequence[TokenId]
) -> tuple[tuple[TokenId, ...], FinishReason | None]:
    """A verdict is committed whole, however little room there is."""
    _, reason = ADMIT(self, committed, new)
    return tuple(new), reason


def generous_commit(self: TwoModelSchedule, tokens: tuple[TokenId, ...]) -> int:
    """What lies behind the end of the text counts as a part of it."""
    COMMIT(self, tokens)
    return len(tokens)


GO_ON_WITH: Final = TwoModelSchedule._go_on_with
COMMIT: Final = TwoModelSchedule._commit
COMMANDS: Final = TwoModelSchedule.commands
OUTCOME: Final = verdicts.outcome
ADMIT: Final = StopRules.admit
HONEST_RESIDUAL: Final = verification.residual

Patch: TypeAlias = tuple[object, str, object]
PATCHES: Final[dict[str, tuple[Patch, Settings, str, Check]]] = {
    "the residual is not normalised": (
        (verification, "residual", lambda p, q: np.maximum(p - q, 0)),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "the replacement is drawn from p": (
        (verification, "residual", lambda p, q: p),  # noqa: ARG005 - what is broken
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "the residual is taken the wrong way round": (
        (verification, "residual", lambda p, q: HONEST_RESIDUAL(q, p)),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "acceptance is q / p": (
        (
            verification,
            "acceptance",
            lambda p, q, token: min(1.0, float(q[token]) / float(p[token])),
        ),
        SPECULATIVE,
        "rejection",
        Check.LAW,
    ),
    "pending tokens are returned at the length limit": (
        (TwoModelSchedule, "_go_on_with", hasty_pass),
        SPECULATIVE,
        "coupled",
        Check.PATH,
    ),
    "a verdict is committed beyond the limit": (
        (StopRules, "admit", endless),
        PARALLEL,
        "coupled",
        Check.NETWORK,
    ),
    "a verdict overshoots the end of the text": (
        (StopRules, "admit", overshooting),
        SPECULATIVE,
        "coupled",
        Check.LAW,
    ),
    "tokens behind the end of the text count as kept": (
        (TwoModelSchedule, "_commit", generous_commit),
        SPECULATIVE,
        "coupled",
        Check.NETWORK,
    ),
    "any answer answers any job": (
        (TwoModelSchedule, "awaits", taken_where(lambda answer, job: True)),  # noqa: ARG005 - broken
        PARALLEL,
        "coupled",
        Check.NETWORK,
    ),
    "answers are known by what they are, not by their number": (
        (TwoModelSchedule, "awaits", taken_where(looks_right)),
        PARALLEL,
        "rejection",
        Check.NETWORK,
    ),
    "a window that was cut off counts as one": (
        (TwoModelSchedule, "awaits", taken_where(lambda answer, job: answer.job == job.job)),
        PARALLEL,
        "coupled",
        Check.NETWORK,
    ),
    "all jobs have one number": (
        (TwoModelSchedule, "commands", unnumbered),
        PARALLEL,
        "coupled",
        Check.NETWORK,
    ),
}


@pytest.mark.parametrize(("patch", "schedule", "verifier", "check"), PATCHES.values(), ids=PATCHES)
def test_a_broken_protocol_is_caught(
    patch: Patch,
    schedule: Settings,
    verifier: str,
    check: Check,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same, for code that is replaced where it stands.

    An unnormalised residual is harmless to `CounterCoins`, whose race has no scale; it would be
    fatal to any other way of drawing, so it counts as a bug.
    """
    case = dataclasses.replace(case_of(schedule, verifier), eos=frozenset({2}))
    before = raises_alarm(check, case)
    monkeypatch.setattr(*patch)

    assert not before
    assert raises_alarm(check, case)


# -- legal changes ---------------------------------------------------------------------------------


def test_noise_of_another_position_is_legal_and_useless() -> None:
    """The draft races with the wrong noise: nothing is lost but agreement.

    Matching the target's own sample is legal for any draft; shared noise only makes it likely.
    """

    def make(settings: Settings, coins: Coins) -> Verifier:
        elsewhere = Recoined(coins, lambda position, purpose: (position + 100, purpose))
        return Crossed(
            draft=Coupled(settings.sampling, elsewhere),
            judge=Coupled(settings.sampling, coins),
            report=None,
        )

    case = case_of(PARALLEL, "coupled")

    assert not raises_alarm(Check.LAW, case, make)
    assert not raises_alarm(Check.PATH, case, make)
    assert kept_per_comparison(case, make) < kept_per_comparison(case) - 0.1


def test_going_on_with_a_refuted_window_is_legal_when_coupled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tokens written after a wrong one are still guesses; the target's own choice decides."""
    monkeypatch.setattr(schedules, "outcome", trusting_outcome)
    case = case_of(pearl(3), "coupled")

    assert not raises_alarm(Check.LAW, case)
    assert not raises_alarm(Check.PATH, case)


def test_a_dropped_replacement_is_legal_when_coupled() -> None:
    """The next pass tosses the same coin for the same position, and says the same token.

    With rejection it is a bug, and so it is without a pass of its own (SD): mutants above.
    """
    case = case_of(PARALLEL, "coupled")

    assert not raises_alarm(Check.PATH, case, altered(judge=no_replacement))


@pytest.mark.parametrize("schedule", [SPECULATIVE, PARALLEL], ids=["SD", "PEARL"])
def test_a_draft_warped_otherwise_is_legal_if_it_says_so(schedule: Settings) -> None:
    """Rejection needs the law a token was really drawn from, whichever that is."""

    def make(settings: Settings, coins: Coins) -> Verifier:
        cool = Rejection(msgspec.structs.replace(settings.sampling, temperature=0.4), coins)
        return Crossed(draft=cool, judge=Rejection(settings.sampling, coins), report=None)

    assert not raises_alarm(Check.LAW, case_of(schedule, "rejection"), make)
