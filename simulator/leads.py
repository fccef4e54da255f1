"""How much sooner the rounds of PEARL end where the target has foresight.

A round begins when its commands leave. If the pass waits for its command, the window is back after
W and the verdict after J (the pass, and the exchange of messages around it). A target with
foresight (`pearl.decoding.foresight`) has begun its pass earlier, by the *lead* l; and with a
barrier

    a round takes           R = max(W, J - l)
    the next one's lead     l' = min(R - W, most)

because the next job is known once the window has come and was passed on: R - W before the round
ends. No pass begins before the one before it has ended, so the most that can be won is the
exchange of messages, less what the target takes to begin a job by itself; a target that waits for
every command wins nothing.

So a round lasts as long as its longer half, and only where the two differ by less than an exchange
does the lead change from round to round: two rounds in turn then take W + J together, whatever the
lead was. So the rounds of a run are known when its first, its second, and two more are. A run
begins with the lead that the run before it left; what that is on average is computed here.

Where times scatter, a round takes R on average, and the mean lead is what is carried on.

Rule: nothing here is simulated; tests hold it against the event simulation.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pearl.decoding.rounds import RoundTimes

Array: TypeAlias = NDArray[Any]

FINE: Final = 1e-9  # leads that differ by a smaller share of the most that can be won are the same
COARSE: Final = 1e-2  # and by this share, where there would be too many
MOST: Final = 128  # leads to reckon with; of coarse ones there are 101 at most
END: Final = 1e-9  # the chance that a text ends with a run; one without end is meant


@dataclasses.dataclass(frozen=True, slots=True)
class Paces:
    """Mean seconds of the rounds of a run: its first, its second, and then two that take turns."""

    first: float
    second: float
    third: float
    fourth: float

    def seconds(self, later: Array) -> Array:
        """Of a run with so many rounds behind its first."""
        behind = self.third * np.floor(later / 2) + self.fourth * np.floor((later - 1) / 2)
        return np.asarray(self.first + np.where(later > 0, self.second + behind, 0.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Walk:
    """What rounds with leads are made of.

    Args:
        times: mean seconds.
        most: the longest lead.
        first, later: by how much such a pass is later than its mean and its window sooner, each as
            likely as the others; None where times are certain. (Of leads the mean is carried on.)
    """

    times: RoundTimes
    most: float
    first: Array | None = None
    later: Array | None = None


def late(behind: Array | float, apart: Array | None) -> Any:
    """By how much passes end behind their windows on average; their means do by so much."""
    if apart is None:
        return np.maximum(behind, 0.0)
    return np.maximum(np.add.outer(apart, behind), 0.0).mean(axis=0)


def told(walk: Walk) -> Paces:
    """The rounds of runs that begin without a lead: the target waits for a head start."""
    return _walked(walk, np.zeros(1)).mean(np.ones(1))


def carried(walk: Walk, later: Array, weights: Array) -> Paces:
    """The rounds of runs that begin with the lead of the one before.

    Args:
        walk: their rounds.
        later: rounds behind the first, run by run; which run follows which is left to chance.
        weights: of each run.
    """
    walked = _walked(walk, np.zeros(1))
    if not walked.after.any():  # as most often: nothing wanders
        return walked.mean(np.ones(1))
    none, odd = later == 0, later % 2 == 1
    odds = np.array([weights[kind].sum() for kind in (none, odd, ~(none | odd))])
    leads = _leads(walk)
    walked = _walked(walk, leads)
    return walked.mean(_shares(leads, walked.after, odds / weights.sum()))


@dataclasses.dataclass(frozen=True, slots=True)
class _Walked:
    """From each of several leads: seconds of four rounds, and the leads behind the first three."""

    seconds: Array  # (4, leads)
    after: Array  # (3, leads): of a run with none behind its first, an odd number, an even one

    def mean(self, shares: Array) -> Paces:
        return Paces(*(self.seconds @ shares).tolist())


def _walked(walk: Walk, leads: Array) -> _Walked:
    seconds, after, times = [], [], walk.times
    passes = ((times.first, walk.first), *[(times.later, walk.later)] * 3)
    for judge, apart in passes:
        behind = late(judge - leads - times.beside, apart)
        seconds.append(times.beside + behind)
        leads = np.minimum(behind, walk.most)
        after.append(leads)
    return _Walked(np.array(seconds), np.array(after[:3]))


def _leads(walk: Walk) -> Array:
    """All that a run can begin with, ascending from none."""
    leads = _reached(walk, FINE)
    return leads if len(leads) <= MOST else _reached(walk, COARSE)


def _reached(walk: Walk, share: float) -> Array:
    """The same, until there are too many; leads that differ by less than this share are one."""
    grain, leads, known = share * walk.most, np.zeros(1), 0
    while known < len(leads) <= MOST:
        known = len(leads)
        reached = np.append(leads, _walked(walk, leads).after)
        leads = grain * np.unique(np.round(reached / grain))
    return leads


def _shares(leads: Array, after: Array, odds: Array) -> Array:
    """How many runs begin with each lead, of a text without end that begins with none."""
    places = np.abs(after[..., None] - leads).argmin(axis=-1)  # (3, leads)
    steps = np.zeros((len(leads), len(leads)))
    for place, chance in zip(places, odds, strict=True):
        np.add.at(steps, (np.arange(len(leads)), place), chance)
    begun = np.zeros(len(leads))
    begun[0] = END
    shares = np.linalg.solve((np.eye(len(leads)) - (1 - END) * steps).T, begun)
    return np.asarray(shares / shares.sum())
