"""A pair whose times are known, and what measuring it finds."""

from __future__ import annotations

import functools

from pearl.decoding.settings import Settings
from pearl.simulator import profiling
from pearl.simulator.acceptance import Acceptance, Independent
from pearl.simulator.answers import run
from pearl.simulator.costs import Affine
from pearl.simulator.links import Link, Network
from pearl.simulator.profiles import Profile
from pearl.simulator.profiling import Recording
from pearl.simulator.workload import ClosedLoop, Fixed, Workload
from pearl.simulator.world import Pair, Scenario

PROMPT = 40


DRAFT = Affine(base=1e-3, per_token=20e-6, per_row=0.2e-3, per_position=1e-6)


TARGET = Affine(base=4e-3, per_token=0.2e-3, per_row=0.5e-3, per_position=2e-6)


NETWORK = Network(draft=Link(latency_s=60e-6), target=Link(latency_s=90e-6))


def recorded(
    settings: Settings,
    acceptance: Acceptance | None = None,
    *,
    requests: int = 1,
    users: int = 1,
    tokens: int = 96,
    target: Affine = TARGET,
    network: Network = NETWORK,
) -> list[Recording]:
    """The requests of one run, each with its trace."""
    scenario = Scenario(
        settings=settings,
        pair=Pair(draft=DRAFT, target=target),
        acceptance=acceptance or Independent(0.8),
        network=network,
        workload=Workload(
            requests=requests,
            arrivals=ClosedLoop(users),
            prompt=Fixed(PROMPT),
            output=Fixed(tokens),
        ),
    )
    records = run(scenario, seed=1, trace=True).records
    return [
        Recording(prompt=PROMPT, records=tuple(r for r in records if r.request == number))
        for number in range(requests)
    ]


@functools.cache
def measured_profile() -> Profile:
    """What `pearl profile` does to a real pair, done to the simulated one."""
    sizes = [Settings(schedule="sd", gamma=gamma) for gamma in (1, 2, 4, 6, 8)]
    sizes += [Settings(gamma=gamma) for gamma in (2, 4, 6, 8)]
    luck = recorded(Settings(gamma=4), requests=12)
    groups = [[recording] for recording in luck]
    groups += [recorded(settings) for settings in [*sizes, Settings(schedule="ar")]]
    groups += [recorded(Settings(schedule="sd", gamma=4), requests=4, users=4)]
    return profiling.profile(
        groups, luck=luck, settings=Settings(gamma=4), machine={}, models={"draft": "simulated"}
    )
