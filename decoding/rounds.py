"""What the two numbers of a schedule make of a run: passes, draft tokens, seconds; in numpy.

A *run* is what lies between two rejections. After each of them every schedule begins anew with
nothing pending, so what it makes of a run depends on its two numbers (`pearl.decoding.kinds`) and
on the run's length alone:

    beside > 0     the first pass settles before + 1 tokens, each later one `beside`
    beside = 0     every pass is a first one and settles before + 1 tokens: a window and, where all
                   of it is kept, a bonus token, with which nothing is compared
    both 0         every token is a bonus token: the target alone

    seconds = first passes × (window before + the longer of window beside and pass)
            + later passes × the longer of window beside and pass

Numbers and arrays are taken alike and broadcast, and a count may be a mean of counts; but `beside`
is 0 everywhere or nowhere.

Rule: it knows no names of schedules, and assumes nothing about how often the draft agrees.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias, final

import numpy as np

Numbers: TypeAlias = Any  # a number, or an array


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundTimes:
    """Seconds of what rounds are made of, messages included.

    Args:
        before, beside: of the windows written there; 0 where there is none.
        first, later: of a pass over `before + 1` tokens, and of one over `beside`.
    """

    before: Numbers = 0.0
    beside: Numbers = 0.0
    first: Numbers
    later: Numbers = 0.0


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What a schedule makes of runs.

    Args:
        tokens: committed.
        first, later: passes of the target that begin with nothing pending but what was written
            before them, and all others.
        steps: tokens that the draft wrote, each window to its end.
        kept, rejections: of the draft's tokens that were compared.
        doomed: 1 where the last window of a run is thrown away without being waited for; None
            where every round waits for its window (a barrier).
    """

    tokens: Numbers
    first: Numbers
    later: Numbers = 0.0
    steps: Numbers = 0.0
    kept: Numbers = 0.0
    rejections: Numbers = 0.0
    doomed: Numbers | None = None

    @property
    def passes(self) -> Numbers:
        """Of the target."""
        return self.first + self.later

    def seconds(self, times: RoundTimes) -> Numbers:
        """All rounds together."""
        first, later = (np.maximum(times.beside, t) for t in (times.first, times.later))
        waited = self.first * (times.before + first) + self.later * later
        if self.doomed is None:
            return waited
        last = np.where(self.later > 0, times.later, times.first)
        return waited - self.doomed * np.maximum(times.beside - last, 0)


def of_run(length: Numbers, before: Numbers, beside: Numbers, *, barrier: bool = True) -> Rounds:
    """Runs of so many places of the text at which the draft agrees, and one at which it does not.

    The place of a bonus token counts, though nothing is compared there.

    Args:
        length: of each run.
        before, beside: the two numbers.
        barrier: whether every pass waits for the window beside the last one, also after a
            rejection among the tokens that were judged.
    """
    if _is_none(beside):
        return _in_turns(length, before)
    windows = (length - before) / beside
    started = np.ceil(windows)
    later = np.maximum(started, 0.0)
    return Rounds(
        tokens=length + 1.0,
        first=1.0,
        later=later,
        steps=(later + 1.0) * beside + before,
        kept=length,
        rejections=1.0,
        # At the first token of a window the verdict waits for it, to compare the two.
        doomed=None if barrier else (windows < 0) | (windows != started),
    )


def _in_turns(length: Numbers, before: Numbers) -> Rounds:
    tokens = length + 1.0
    if _is_none(before):
        return Rounds(tokens=tokens, first=tokens)
    whole = np.floor(length / (before + 1))
    rest = length - whole * (before + 1)
    return Rounds(
        tokens=tokens,
        first=whole + 1.0,
        steps=(whole + 1.0) * before,
        kept=length - whole,
        rejections=rest < before,  # else a bonus token ends the run
    )


def of_kept(kept: Numbers, before: Numbers, beside: Numbers, *, barrier: bool = True) -> Rounds:
    """Runs of so many kept tokens and a rejection, whatever the bonus tokens between them."""
    if not _is_none(beside):
        return of_run(kept, before, beside, barrier=barrier)
    first = np.floor(kept / before) + 1.0
    return Rounds(tokens=kept + first, first=first, steps=first * before, kept=kept, rejections=1.0)


def of_part(kept: Numbers, before: Numbers, beside: Numbers) -> Rounds:
    """So many kept tokens from within longer runs, whose ends were not seen: means."""
    if _is_none(beside):
        whole = kept / before
        return Rounds(tokens=kept + whole, first=whole, steps=kept, kept=kept)
    return Rounds(tokens=kept, first=0.0, later=kept / beside, steps=kept, kept=kept)


def _is_none(count: Numbers) -> bool:
    return not isinstance(count, np.ndarray) and count == 0
