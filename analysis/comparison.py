"""What is compared, and what came of it: requests, what theory says, claims, and their verdicts."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Final

import msgspec

from pearl.analysis.gap import Part
from pearl.analysis.statistics import AcceptanceRate, Independence, RunEstimates
from pearl.analysis.traces import Request
from pearl.decoding.estimates import Estimate
from pearl.decoding.settings import Settings
from pearl.decoding.summaries import Figures

SLACK: Final = 1e-9  # of a bound, for sums of floating point numbers


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one system, and what the simulator makes of them.

    Args:
        name: of the system.
        requests: one or more, decoded one after the other.
        seconds: of all requests, by step of the simulation: `constant`, `free`, `grown`,
            `reading`, `messages`, `own`, `delayed`, `measured`; None where a step was not taken.
        simulated: the figures of the step `messages`.
    """

    name: str
    requests: tuple[Request, ...]
    seconds: Mapping[str, float | None]
    simulated: Figures | None

    @property
    def settings(self) -> Settings:
        """Of all requests."""
        return self.requests[0].settings


class Theory(msgspec.Struct, frozen=True, kw_only=True):
    """What the closed forms say, at the acceptance and the two times that were measured.

    All is nan where nothing was compared.

    Args:
        run_length: accepted, emitted, and emitted given that pre-verify accepted; None without a
            draft.
    """

    tokens_per_s: float = math.nan
    speedup_over_ar: float = math.nan
    tokens_per_target_pass: float = math.nan
    draft_idle: float = math.nan
    target_idle: float = math.nan
    wasted: float = math.nan
    run_length: tuple[float, float, float] | None = None


class Relation(enum.StrEnum):
    """How what is stated relates to what was measured."""

    EQUAL = "equal to"
    AT_LEAST = "at least"
    AT_MOST = "at most"


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A statement about a run.

    Args:
        name: whose statement it is, or about what.
        convention: what exactly is counted.
        stated, relation: the measured value is to be equal to, at least, or at most this.
        measured: with its interval, which decides.
        needs: what must hold for it; empty where nothing must.
        why: where it does not hold, why.
    """

    name: str
    convention: str
    relation: Relation
    stated: float
    measured: Estimate
    needs: str = ""
    why: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the interval allows it; None where there is nothing to hold it against."""
        value = self.measured.value
        if value is None or math.isnan(self.stated):
            return None
        low, high = self.measured.interval or (value, value)
        slack = SLACK * max(1.0, abs(self.stated)) if math.isfinite(self.stated) else 0.0
        fits = {
            Relation.AT_LEAST: high >= self.stated - slack,
            Relation.AT_MOST: low <= self.stated + slack,
        }
        return fits.get(self.relation, low - slack <= self.stated <= high + slack)

    @property
    def is_bound(self) -> bool:
        """Whether it must hold, whatever acceptance is like."""
        return not self.needs


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One system, three ways.

    Args:
        gamma: of the closed forms: of automatic ones the median of the windows that were asked for.
        tokens: of all requests.
        speedup_over_ar: measured on the same prompts, where AR was run on them.
        simulated_over_ar: the same in the simulation.
        factors: parts of measured over theoretical speed; they multiply to it. A part that could
            not be separated from the next one is counted there. Empty where requests ran at the
            same time.
    """

    name: str
    settings: Settings
    gamma: int
    requests: int
    tokens: int
    simulated_clock: bool
    theory: Theory
    simulation: Figures | None
    measured: Figures
    speedup_over_ar: Estimate
    simulated_over_ar: float | None
    acceptance: AcceptanceRate
    run_length: RunEstimates
    independence: Independence
    factors: dict[Part, float]
    claims: tuple[Claim, ...]

    @property
    def measured_figures(self) -> dict[str, Estimate]:
        """By name, those over AR among them."""
        return msgspec.structs.asdict(self.measured) | {"speedup_over_ar": self.speedup_over_ar}

    @property
    def simulated_figures(self) -> dict[str, float | None]:
        """The same of the simulation, without intervals; none of what was not simulated."""
        made = {} if self.simulation is None else msgspec.structs.asdict(self.simulation)
        values = {name: estimate.value for name, estimate in made.items()}
        return values | {"speedup_over_ar": self.simulated_over_ar}
