"""Toy devices: a public test double for a draft and a target.

A toy model is a pure function from the tokens so far to logits, drawn from a seeded table. The
toy devices answer a command as real ones would, restarts and all, in a few microseconds:

    devices = ToyDevices(Pair(target=table(3, seed=1), draft=table(3, seed=2)), verifier)
    event = devices.answer(command, schedule.committed)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from pearl.decoding.messages import Drafted, Judge, Judged, Propose, Proposed, TokenId
from pearl.decoding.stopping import StopRules
from pearl.decoding.verification import Verifier

PASS_SECONDS: Final = 3.0  # a draft step takes 1.0

Prefix: TypeAlias = tuple[TokenId, ...]
Logits: TypeAlias = NDArray[np.float64]
Model: TypeAlias = Callable[[Prefix], Logits]


def table(vocab: int, seed: int, *, sharpness: float = 1.0) -> Model:
    """Normal logits, `sharpness` wide, drawn once for every prefix."""

    @functools.cache
    def logits(prefix: Prefix) -> Logits:
        rng = np.random.default_rng([seed, len(prefix), *prefix])
        return sharpness * rng.normal(size=vocab)

    return logits


def blend(one: Model, other: Model, share: float) -> Model:
    """`share` of the logits of `one`, the rest of `other`: 1 agrees with `one` everywhere."""
    return functools.cache(lambda prefix: share * one(prefix) + (1 - share) * other(prefix))


def only(model: Model, tokens: Collection[TokenId]) -> Model:
    """A model that can say nothing but these tokens."""

    @functools.cache
    def logits(prefix: Prefix) -> Logits:
        row = model(prefix)
        return np.where(np.isin(np.arange(len(row)), list(tokens)), row, -np.inf)

    return logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two models of a request."""

    target: Model
    draft: Model


def similar(vocab: int, seed: int, share: float = 0.7) -> Pair:
    """A target and a draft that agrees with it to some extent."""
    target = table(vocab, seed)
    return Pair(target=target, draft=blend(target, table(vocab, seed + 1000), share))


@final
class ToyDevices:
    """Both devices. `restart` makes the target forget the row it holds: nothing else is kept."""

    def __init__(self, pair: Pair, verifier: Verifier) -> None:
        self._pair = pair
        self._verifier = verifier
        self._held: Prefix | None = None

    def restart(self) -> None:
        """Forget everything."""
        self._held = None

    def answer(self, command: Propose | Judge, committed: Sequence[TokenId]) -> Proposed | Judged:
        """What the device says; it reads no more of `committed` than the command stands on."""
        base = tuple(committed[: command.base])
        match command:
            case Propose():
                return self._write(command, base)
            case Judge():
                return self._judge(command, base)

    def _write(self, command: Propose, base: Prefix) -> Proposed:
        start = command.base + len(command.pending)
        prefix = base + command.pending
        laws: tuple[bytes, ...] = ()
        for position in range(start, start + command.count):
            drafted = self._verifier.draft(self._pair.draft(prefix)[None, :], position)
            prefix, laws = prefix + drafted.tokens, laws + drafted.laws
        window = Drafted(tokens=prefix[start:], laws=laws)
        seconds = float(command.count)
        return Proposed(
            job=command.job, epoch=command.epoch, start=start, drafted=window, ended=seconds
        )

    def _judge(self, command: Judge, base: Prefix) -> Judged:
        tokens = command.pending.tokens
        rows = [self._pair.target(base + tokens[:count]) for count in range(len(tokens) + 1)]
        verdict = self._verifier.judge(
            np.stack(rows), command.pending, command.base, hold=command.hold
        )
        no_pass = verdict.kept == 0 and verdict.token is not None and self._held == base
        self._held = base + tokens if verdict.token is None else None
        return Judged(
            job=command.job,
            epoch=command.epoch,
            base=command.base,
            judged=len(tokens),
            kept=verdict.kept,
            token=verdict.token,
            passes=0 if no_pass else 1,
            ended=0.0 if no_pass else PASS_SECONDS,
        )


def autoregressive(target: Model, verifier: Verifier, stop: StopRules) -> Prefix:
    """The reference: one token at a time from the target alone."""
    text: Prefix = ()
    finish_reason = None
    while finish_reason is None:
        rows = target(text)[None, :]
        token = verifier.judge(rows, Drafted(), len(text), hold=False).token
        assert token is not None
        admitted, finish_reason = stop.admit(text, (token,))
        text += admitted
    return text
