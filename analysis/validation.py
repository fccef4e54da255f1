"""Theory, simulation and measurement of the same requests, and what lies between them.

For every system there are three answers to "how fast?":

    theory        the closed forms with three numbers of the run: acceptance, a draft step, a pass
    simulation    the same schedule on a virtual clock, with everything that was measured
    measurement   the run

and the way from the first to the last in parts, each named and measured (`Part`): factors, which
multiply to measured over theoretical speed. What no part explains is the last one. Then every
statement of theory is held against the run (`Claim`): some are equalities that need independent
acceptance, and the run says whether that holds; some are bounds, and a run beyond one, by more than
its interval, is unlike all that theory speaks of.

This module compares and judges. The simulations are given to it: it must not know the simulator.

Notation: a acceptance rate, g gamma, c speed ratio, k head start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pearl.analysis import traces
from pearl.analysis.claims import claims
from pearl.analysis.comparison import Claim, Comparison, Group, Theory
from pearl.analysis.gap import Part, factors_of
from pearl.analysis.parameters import Constants, assumptions, rate_of, window
from pearl.analysis.statistics import acceptance, independence, run_length
from pearl.analysis.theory import Assumptions, expected
from pearl.decoding.estimates import Estimate, of_ratio


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was compared.

    Args:
        constants: of the pair.
        systems, best_window, notes: what was found.
        others: the share of the cores that other processes took during the runs; None where that
            is not known.
    """

    constants: Constants
    systems: tuple[Comparison, ...]
    best_window: BestWindow | None = None
    notes: tuple[str, ...] = ()
    others: float | None = None

    @property
    def violated(self) -> tuple[tuple[str, Claim], ...]:
        """The bounds that a run is beyond, with the system's name."""
        return tuple(
            (system.name, claim)
            for system in self.systems
            for claim in system.claims
            if claim.is_bound and claim.holds is False
        )

    @property
    def unexplained(self) -> float | None:
        """The largest share of the speed of any system that no part explains; None without one."""
        rests = (system.factors.get(Part.REST, 1.0) for system in self.systems if system.factors)
        return max((abs(rest - 1) for rest in rests), default=None)


class BestWindow(msgspec.Struct, frozen=True, kw_only=True):
    """Theorem 1 of the paper, the best window is c, for this run.

    Args:
        speed_ratio: c.
        theory: the best window of the closed form with nothing else measured; 0 is none.
        simulated: speed over AR by window, with everything that was measured.
    """

    speed_ratio: float
    theory: int
    simulated: dict[int, float]

    @property
    def best(self) -> int:
        """The window that is the fastest in the simulation; 0 where none is faster than AR."""
        speeds = {0: 1.0} | self.simulated
        return max(speeds, key=lambda gamma: (speeds[gamma], -gamma))

    @property
    def stated(self) -> tuple[int, ...]:
        """The windows that the theorem allows: c, or the whole numbers around it."""
        c = self.speed_ratio
        whole = {round(c)} if math.isclose(c, round(c), rel_tol=1e-6) else {int(c), int(c) + 1}
        return tuple(sorted(max(1, gamma) for gamma in whole))

    @property
    def lost(self) -> float:
        """The share of the best speed that the better of the stated windows loses."""
        known = [self.simulated[gamma] for gamma in self.stated if gamma in self.simulated]
        return 1 - max(known) / self.simulated.get(self.best, 1.0) if known else math.nan

    @property
    def holds(self) -> bool:
        """Whether a stated window is the best."""
        return self.best in self.stated

    @property
    def sentence(self) -> str:
        """The verdict, for people."""
        stated = " or ".join(map(str, self.stated))
        c, said = f"{self.speed_ratio:.3g}", self.theory or "no draft"
        fastest = f"at gamma {self.best}" if self.best else "without a draft"
        if self.holds:
            verdict = "holds for this run"
        else:
            verdict = (
                "does not hold for this run: the simulation with all that was measured is the "
                f"fastest {fastest}, and {self.lost:.1%} slower at {stated}"
            )
        return (
            f"Theorem 1, the best window is c = {c}, so {stated} (the closed form at this "
            f"acceptance has {said}): {verdict}. It needs passes that take the same time "
            "whatever they judge, and messages that take none."
        )


def validate(
    groups: Sequence[Group],
    constants: Constants,
    *,
    best_window: BestWindow | None = None,
    notes: Sequence[str] = (),
    others: float | None = None,
) -> Validation:
    """Compare and judge.

    Args:
        groups: the systems, each at most once.
        constants: of the pair, for the closed forms of all of them.
        best_window, notes, others: to be reported with it.
    """
    alone = next((group for group in groups if not group.settings.kind.drafts), None)
    return Validation(
        constants=constants,
        systems=tuple(_compared(group, alone, constants) for group in groups),
        best_window=best_window,
        notes=tuple(notes),
        others=others,
    )


def _compared(group: Group, alone: Group | None, constants: Constants) -> Comparison:
    requests, settings = group.requests, group.settings
    lucks = [request.luck for request in requests] if settings.kind.drafts else []
    rate, gamma = rate_of(requests), window(requests)
    assumed = None if rate is None else assumptions(settings, gamma, rate, constants)
    factors: dict[Part, float] = {}
    if assumed is not None and not traces.overlap(requests):
        factors = factors_of(requests, group.seconds, assumed, constants)
    found = Comparison(
        name=group.name,
        settings=settings,
        gamma=gamma,
        requests=len(requests),
        tokens=sum(len(request.tokens) for request in requests),
        simulated_clock=all(request.simulated for request in requests),
        theory=Theory() if assumed is None else _theory(assumed, constants),
        simulation=group.simulated,
        measured=traces.figures(requests),
        speedup_over_ar=_speedup(group, alone),
        simulated_over_ar=_simulated_speedup(group, alone),
        acceptance=acceptance(lucks),
        run_length=run_length(lucks),
        independence=independence(lucks),
        factors=factors,
        claims=(),
    )
    return msgspec.structs.replace(found, claims=claims(found, group, alone, assumed))


def _theory(assumed: Assumptions, constants: Constants) -> Theory:
    found, drafts = expected(assumed), bool(assumed.drafts)
    lengths = (found.accepted_per_run, found.emitted_per_run, found.emitted_given_preverify)
    accepted, emitted, given = map(float, lengths)
    return Theory(
        tokens_per_s=float(found.speedup) / constants.pass_s,
        speedup_over_ar=float(found.speedup),
        tokens_per_target_pass=float(found.tokens_per_pass),
        draft_idle=float(found.draft_idle),
        target_idle=float(found.target_idle),
        wasted=float(found.wasted),
        run_length=(accepted, emitted, given) if drafts else None,
    )


def _speedup(group: Group, alone: Group | None) -> Estimate:
    """Speed over AR on the same prompts: its time for as many tokens, over the system's."""
    if alone is None or len(alone.requests) != len(group.requests):
        return Estimate(None)
    pairs = list(zip(alone.requests, group.requests, strict=True))
    if any(one.prompt is None or one.prompt != other.prompt for one, other in pairs):
        return Estimate(None)
    above = [
        traces.metrics(one).seconds * len(other.tokens) / len(one.tokens) for one, other in pairs
    ]
    return of_ratio(above, [traces.metrics(request).seconds for request in group.requests])


def _simulated_speedup(group: Group, alone: Group | None) -> float | None:
    if alone is None or alone.simulated is None or group.simulated is None:
        return None
    return float(group.simulated.tokens_per_s) / float(alone.simulated.tokens_per_s)
