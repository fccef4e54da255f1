"""Virtual execution: the very schedules of `decoding` on SimPy's clock.

    from pearl.simulator import Independent, Pair, Scenario, Settings, simulate

    for gamma in (3, 5, 8):
        what_if = Scenario(
            settings=Settings(gamma=gamma, strict=True),
            pair=Pair.of(speed_ratio=5),
            acceptance=Independent(0.8),
        )
        print(gamma, simulate(what_if).speedup_over_ar)

What a scenario is made of (each part can be swapped):

    costs        how long a forward takes
    acceptance   where the draft agrees with the target
    links        how long a message takes
    workload     which requests come, and when
    faults       what goes wrong
    streams      random streams, one a purpose

What is made of it:

    world        one run, event by event
    devices      the draft and the target of a run
    ledger       who worked and who was idle
    answers      many runs: figures with intervals
    twin         the same figures by arithmetic, for one request at a time
    leads        what foresight saves, for the twin
    sweep        a grid of scenarios
    optimise     the best schedule, gamma and head start
    parallel     many jobs on many processes

What is made of recorded runs:

    recording    a run once more, on a virtual clock
    profiling    from runs to a profile
    fitting      from the jobs of a device to what its forwards take
    profiles     the file that holds one
    forecast     a profile under settings that were not measured
    attribution  where the time of a run went, step by step

Rule: no second implementation of any schedule, and no chance but from `streams`.
May import: decoding, simpy, numpy, scipy.  Must never: know torch, Ray, actors or analysis.
"""

from __future__ import annotations

from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Bursts, Independent, Mixture, Positions, Replay
from pearl.simulator.answers import Answer, run, simulate
from pearl.simulator.costs import Affine, Constant, Measured, Roofline, Spread
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import (
    ClosedLoop,
    Fixed,
    Geometric,
    LogNormal,
    Poisson,
    Recorded,
    Times,
    Uniform,
    Workload,
)
from pearl.simulator.world import Pair, Run, Scenario

__all__ = [
    "Affine",
    "Answer",
    "Bursts",
    "ClosedLoop",
    "Constant",
    "Fault",
    "FaultKind",
    "Fixed",
    "Geometric",
    "Independent",
    "Link",
    "LogNormal",
    "Measured",
    "Mixture",
    "Network",
    "Pair",
    "Poisson",
    "Positions",
    "Recorded",
    "Replay",
    "Roofline",
    "Run",
    "Scenario",
    "Settings",
    "Spread",
    "Times",
    "Uniform",
    "Workload",
    "run",
    "simulate",
]
