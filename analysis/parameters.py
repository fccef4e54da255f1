"""The numbers that theory needs, read off a run: acceptance, the window, and two times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from pearl.analysis.statistics import acceptance
from pearl.analysis.theory import Assumptions, expected
from pearl.analysis.traces import Request
from pearl.decoding.messages import Judged, Propose, Proposed
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received, Sent


class Constants(msgspec.Struct, frozen=True, kw_only=True):
    """The two times that closed forms know, in seconds: a draft step, and the smallest pass."""

    step_s: float
    pass_s: float

    @property
    def speed_ratio(self) -> float:
        """A pass over a step: c."""
        return self.pass_s / self.step_s


def assumptions(settings: Settings, gamma: int, rate: float, constants: Constants) -> Assumptions:
    """What theory is asked for these settings, with passes that take the same whatever they judge.

    Args:
        settings: of the requests.
        gamma: their window; 0 where nothing was drafted.
        rate: the acceptance rate; where nothing was drafted any.
        constants: of the pair.
    """
    return Assumptions(
        settings.schedule,
        acceptance=rate,
        gamma=gamma,
        speed_ratio=constants.speed_ratio,
        head_start=settings.head_start,
    )


def tokens_per_s(settings: Settings, gamma: int, rate: float, constants: Constants) -> float:
    """Speed of the closed forms."""
    return float(expected(assumptions(settings, gamma, rate, constants)).speedup) / constants.pass_s


def rate_of(requests: Sequence[Request]) -> float | None:
    """The acceptance rate of all together: 0 without a window, None where nothing was compared."""
    if window(requests) == 0:
        return 0.0
    return acceptance([request.luck for request in requests]).independent.value


def own_rates(requests: Sequence[Request]) -> list[float]:
    """The rate of each request; of one in which nothing was compared that of all together."""
    pooled = rate_of(requests) or 0.0
    each = (rate_of([request]) for request in requests)
    return [pooled if rate is None else rate for rate in each]


def window(requests: Sequence[Request]) -> int:
    """Gamma as a number; of automatic windows the median of those that were asked for.

    It is 0 where the draft was asked for none: the target went on alone.
    """
    settings = requests[0].settings
    if not settings.kind.drafts:
        return 0
    if isinstance(settings.gamma, int):
        return settings.gamma
    counts = [
        record.command.count
        for request in requests
        for record in request.records
        if isinstance(record, Sent) and isinstance(record.command, Propose)
    ]
    return int(statistics.median_low(counts)) if counts else 0


def own_constants(requests: Sequence[Request]) -> Constants | None:
    """Means of a pass and of a draft step behind the prompt; None where no pass is.

    A pass counts with what it judged: these are means over the passes that were made.
    """
    passes: list[float] = []
    drafted, steps = 0.0, 0
    for request in requests:
        answers = [r.event for r in request.records if isinstance(r, Received)]
        judged = [a for a in answers if isinstance(a, Judged) and a.passes]
        windows = [a for a in answers if isinstance(a, Proposed) and a.drafted]
        passes += [(a.ended - a.began) / a.passes for a in judged[1:]]
        drafted += sum(a.ended - a.began for a in windows[1:])
        steps += sum(len(a.drafted) for a in windows[1:])
    if not passes:
        return None
    pass_s = statistics.mean(passes)
    return Constants(step_s=drafted / steps if drafted else pass_s, pass_s=pass_s)
