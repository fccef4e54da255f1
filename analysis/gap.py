"""What lies between theory and a run, in parts, each named and measured.

From the closed forms to the run one thing after the other is let in. Its part is the factor by
which it changes the speed, so the parts multiply to the whole: measured over theoretical speed.
What no part explains is the last.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final

from pearl.analysis import departures
from pearl.analysis.parameters import Constants, own_rates
from pearl.analysis.theory import SAME, Assumptions, expected
from pearl.analysis.traces import Request


class Part(enum.StrEnum):
    """What makes a run differ from theory, in the order in which it is let in."""

    ENDS = "texts end"
    PROMPTS = "prompts differ"
    BURSTS = "luck comes in bursts"
    BARRIER = "no barrier"
    GROWTH = "passes grow"
    READING = "prompts are read"
    MESSAGES = "control and messages"
    SPREAD = "times vary"
    DELAYS = "messages vary"
    REST = "not explained"


PARTS_OF: Final[Mapping[str, tuple[Part, ...]]] = {
    "end_effects": (Part.ENDS, Part.READING),
    "acceptance": (Part.PROMPTS, Part.BURSTS),
    "pass_times": (Part.BARRIER, Part.GROWTH, Part.SPREAD),
    "control": (Part.MESSAGES, Part.DELAYS),
    "unexplained": (Part.REST,),
}
"""The same, as few as they are usually asked for."""

STEPS: Final[Mapping[str, Part]] = {
    "constant": Part.BURSTS,
    "free": Part.BARRIER,
    "grown": Part.GROWTH,
    "reading": Part.READING,
    "messages": Part.MESSAGES,
    "own": Part.SPREAD,
    "delayed": Part.DELAYS,
    "measured": Part.REST,
}
"""Which part each step of the simulation lets in (`pearl.simulator.attribution`)."""


def factors_of(
    requests: Sequence[Request],
    seconds: Mapping[str, float | None],
    assumed: Assumptions,
    constants: Constants,
) -> dict[Part, float]:
    """From theory to the run: what the speed is multiplied by, part by part.

    Args:
        requests: of one system, one after the other.
        seconds: of all of them, by step of the simulation; a step that was not taken (None) goes
            into the next one that was.
        assumed: what theory was asked; the acceptance is that of all requests together.
        constants: the two times.
    """
    taken = {STEPS[step]: time for step, time in seconds.items() if time is not None}
    if taken.keys() == {Part.BURSTS, Part.REST}:
        # Nothing was replayed: what times and messages cost stands together.
        taken[Part.SPREAD] = taken.pop(Part.REST)
    lengths = [len(request.tokens) for request in requests]
    alike, own = (
        sum(_expected_s(assumed, a, n, constants) for a, n in zip(rates, lengths, strict=True))
        for rates in ([float(assumed.acceptance)] * len(requests), own_rates(requests))
    )
    endless = sum(lengths) * constants.pass_s / float(expected(assumed).speedup)
    let_in = {Part.ENDS: alike, Part.PROMPTS: own} | taken
    steps = itertools.pairwise([endless, *(let_in[part] for part in Part if part in let_in)])
    order = (part for part in Part if part in let_in)
    return {part: _factor(a, b) for part, (a, b) in zip(order, steps, strict=True)}


def _factor(before: float, after: float) -> float:
    """What a step changed; sums of the same times in another order are the same time."""
    return 1.0 if math.isclose(before, after, rel_tol=SAME) else before / after


def grouped(factors: Mapping[Part, float]) -> dict[str, float]:
    """The same in the few parts of `PARTS_OF`."""
    return {
        name: math.prod(factors.get(part, 1.0) for part in own) for name, own in PARTS_OF.items()
    }


def _expected_s(assumed: Assumptions, rate: float, tokens: int, constants: Constants) -> float:
    """Mean seconds of a text of so many tokens, with rounds that take the two times."""
    alike = dataclasses.replace(assumed, acceptance=rate)
    passes = float(departures.passes_of(alike, tokens))
    # Before the first pass of each run, or before every pass, the target waits for a window.
    starts = 1 + (tokens - 1) * (1 - rate) if assumed.kind.parallel else passes
    before, beside = (float(n) * constants.step_s for n in (assumed.before, assumed.beside))
    return passes * max(beside, constants.pass_s) + starts * before
