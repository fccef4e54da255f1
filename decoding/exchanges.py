"""The messages of a recorded run: every job with its answer, and where draft and target agreed.

Nothing here trusts a schedule: whether the draft agreed with the target is read from what it wrote
and from the text that was committed in the end. That text of `1`, `0` and `?`, one for each token,
is called *luck* where it is stored or passed on.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pearl.decoding.messages import (
    Command,
    Device,
    Event,
    Judge,
    Judged,
    Propose,
    Proposed,
)
from pearl.decoding.trace import Received, Record, Sent


@dataclasses.dataclass(frozen=True, slots=True)
class Heard:
    """An event as it was recorded: record number `index` of the trace."""

    index: int
    at: float
    event: Event


@dataclasses.dataclass(slots=True)
class Exchange:
    """A command that was sent, and what was heard of it, if anything."""

    at: float
    command: Command
    answer: Heard | None = None

    @property
    def device(self) -> Device:
        """Whose it is."""
        return self.command.device


def exchanges(records: Iterable[Record]) -> list[Exchange]:
    """All that was sent in one request, in this order.

    A device that came back was sent its job once more, and may have answered twice: an answer
    belongs to the last such job that has none.
    """
    found: list[Exchange] = []
    waiting: defaultdict[tuple[Device, int], list[Exchange]] = defaultdict(list)
    for index, record in enumerate(records):
        match record:
            case Sent(at=at, command=command):
                found.append(Exchange(at, command))
                if isinstance(command, Propose | Judge):
                    waiting[command.device, command.job].append(found[-1])
            case Received(at=at, event=Proposed() | Judged() as event):
                unanswered = waiting[event.device, event.job]
                if unanswered and _fits(event, unanswered[-1].command):
                    unanswered.pop().answer = Heard(index, at, event)
            case _:
                pass  # a device that was lost, or is back
    return found


def _fits(event: Proposed | Judged, command: Command) -> bool:
    """Whether an event answers a command of its number."""
    return not (isinstance(event, Judged) and isinstance(command, Judge)) or event.answers(command)


def windows(records: Iterable[Record]) -> Iterator[tuple[Exchange, Propose, Proposed]]:
    """The draft's jobs that were answered, also those that were cut short."""
    for exchange in exchanges(records):
        if isinstance(exchange.command, Propose) and exchange.answer is not None:
            assert isinstance(exchange.answer.event, Proposed)
            yield exchange, exchange.command, exchange.answer.event


def passes(records: Iterable[Record]) -> Iterator[tuple[Exchange, Judge, Judged]]:
    """The target's jobs that were answered."""
    for exchange in exchanges(records):
        if isinstance(exchange.command, Judge) and exchange.answer is not None:
            assert isinstance(exchange.answer.event, Judged)
            yield exchange, exchange.command, exchange.answer.event


def agreement(records: Iterable[Record]) -> dict[int, str]:
    """Where the draft agreed with the target's text, request by request.

    A character a position of the committed text: `1` the draft wrote that token there, `0` it
    wrote another one, `?` unknown. Every window that stands on the committed text counts,
    wanted or not, up to its first token that differs.
    """
    by_request: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_request[record.request].append(record)
    return {number: _agreement(own) for number, own in by_request.items()}


def _agreement(records: Sequence[Record]) -> str:
    known: dict[int, str] = {}
    for start, same in comparisons(records):
        for place, agreed in enumerate(same, start=start):
            known.setdefault(place, "1" if agreed else "0")
    return "".join(known.get(place, "?") for place in range(len(_text(records))))


def comparisons(records: Sequence[Record]) -> Iterator[tuple[int, list[bool]]]:
    """Each window that stands on the committed text: where it begins, and what agreed.

    Up to the first token that does not: what follows stands on a text that never was.
    """
    text = _text(records)
    for _, job, window in windows(records):
        if job.pending == tuple(text[job.base : window.start]):
            pairs = zip(window.drafted.tokens, text[window.start :], strict=False)
            same = [token == truth for token, truth in pairs]
            yield window.start, same[: same.index(False) + 1] if False in same else same


def correlation(texts: Iterable[str], *, around: float | None = None, lag: int = 1) -> float:
    """Of the agreement at positions `lag` apart, over all texts; 0 where nothing varies.

    Args:
        texts: as `agreement` spells them.
        around: the mean that it is compared with; by default each text's own, so that what is
            left are bursts in a text and not texts that differ.
        lag: how far apart.
    """
    above = below = 0.0
    for text in texts:
        if len(text.replace("?", "")) == 0:
            continue
        known = np.array([math.nan if c == "?" else float(c) for c in text])
        away = known - (np.nanmean(known) if around is None else around)
        first, second = away[:-lag], away[lag:]
        seen = ~np.isnan(first * second)
        above += float((first * second)[seen].sum())
        below += float(((first**2 + second**2) / 2)[seen].sum())
    return above / below if below else 0.0


def _text(records: Iterable[Record]) -> list[int]:
    """What was committed."""
    return [token for r in records if isinstance(r, Received) for token in r.tokens]
