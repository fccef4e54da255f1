"""What the tests of the simulator share: small scenarios, and figures run by run.

A *run* goes from one rejection to the next. Every schedule begins anew with a rejection, so runs
are independent of each other, and a ratio of their sums has a margin that can be trusted.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from scipy.special import stdtrit

from pearl.decoding.estimates import LEVEL, Estimate
from pearl.decoding.messages import Judged, Proposed
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received
from pearl.simulator.acceptance import Acceptance
from pearl.simulator.answers import run
from pearl.simulator.links import Network
from pearl.simulator.workload import ClosedLoop, Fixed, Workload
from pearl.simulator.world import Pair, Run, Scenario
from tests.decoding.certainty import ALPHA, Z, margin, ratio_margin

PASS_S: Final = 1 / 32
AR: Final = Settings(schedule="ar")


def sd(gamma: int) -> Settings:
    return Settings(schedule="sd", gamma=gamma)


def pearl(gamma: int, head_start: int = 0, *, strict: bool = True) -> Settings:
    return Settings(gamma=gamma, head_start=head_start, strict=strict)


def one(tokens: int) -> Workload:
    """A single request."""
    return Workload(output=Fixed(tokens))


def several(requests: int, tokens: int, slots: int | None = None) -> Workload:
    """Requests that all come at once."""
    return Workload(
        requests=requests, arrivals=ClosedLoop(requests), output=Fixed(tokens), slots=slots
    )


def delayed(share: float, *, foresight: bool = False) -> Network:
    """Every message there and back takes this share of a pass.

    The closed forms presume that every pass waits for its command, so by default it does.
    """
    return Network(control_s=share * PASS_S, foresight=foresight)


def committed(played: Run) -> dict[int, list[int]]:
    """The text of each request, as it left."""
    texts: dict[int, list[int]] = {}
    for record in played.records:
        if isinstance(record, Received):
            texts.setdefault(record.request, []).extend(record.tokens)
    return texts


@dataclass(slots=True, kw_only=True)
class Sums:
    """What happened in one run."""

    tokens: int = 0
    passes: int = 0
    steps: int = 0
    kept: int = 0
    seconds: float = 0.0
    writing: float = 0.0
    working: float = 0.0


@dataclass(slots=True)
class Runs:
    """The runs of one request, but for those at its end, where windows are cut to fit."""

    sums: list[Sums] = field(default_factory=list)

    def column(self, name: str) -> list[float]:
        return [getattr(sums, name) for sums in self.sums]

    def require_ratio(self, above: str, below: str, expected: float) -> None:
        """The ratio of two sums is what it should be, within chance."""
        x, y = self.column(above), self.column(below)
        found = sum(x) / sum(y)

        assert abs(found - expected) <= ratio_margin(x, y) + 1e-9 * abs(expected), (above, below)

    def require_mean(self, name: str, expected: float) -> None:
        found = self.column(name)

        assert abs(statistics.mean(found) - expected) <= margin(found), name

    def where_anything_was_kept(self) -> Runs:
        return Runs([sums for sums in self.sums if sums.kept])


@functools.cache
def runs_of(
    settings: Settings,
    acceptance: Acceptance,
    *,
    speed_ratio: float,
    overhead: float = 0.0,
    tokens: int = 5_000,
) -> Runs:
    """One long request, simulated event by event and cut into runs."""
    scenario = Scenario(
        settings=settings,
        pair=Pair.of(speed_ratio, PASS_S),
        acceptance=acceptance,
        network=delayed(overhead),
        workload=one(tokens + 200),
    )
    found, current, total, began, kept, rejections = Runs(), Sums(), 0, 0.0, 0, 0
    for record in run(scenario, trace=True).records:
        if not isinstance(record, Received):
            continue
        current.tokens += len(record.tokens)
        match record.event:
            case Judged() as verdict:
                current.passes += verdict.passes
                current.working += verdict.ended - verdict.began
            case Proposed() as window:
                current.steps += len(window.drafted)
                current.writing += window.ended - window.began
            case _:
                pass
        if record.rejections > rejections:
            total += current.tokens
            if total > tokens:
                break
            current.kept, current.seconds = record.kept - kept, record.at - began
            found.sums.append(current)
            current, began = Sums(), record.at
            kept, rejections = record.kept, record.rejections
    return found


def wider(estimate: Estimate, replications: int | None = None) -> float:
    """Half of an estimate's interval at ALPHA; as if known exactly from many values on."""
    assert estimate.low is not None
    assert estimate.high is not None
    half = (estimate.high - estimate.low) / 2
    if replications is None:
        return half * Z / statistics.NormalDist().inv_cdf((1 + LEVEL) / 2)
    degrees = replications - 1
    return float(half * stdtrit(degrees, 1 - ALPHA / 2) / stdtrit(degrees, (1 + LEVEL) / 2))


def require_equal(found: Estimate, expected: float, slack: float = 0.0) -> None:
    """An estimate from hundreds of values is what it should be, within chance."""
    assert abs(float(found) - expected) <= wider(found) + slack


def total_tokens(played: Run) -> int:
    return sum(served.metrics.tokens for served in played.served)


def latencies(played: Run) -> Sequence[float]:
    return [served.finished - served.arrived for served in played.served]
