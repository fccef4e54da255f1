"""A pair whose times are known, and what measuring it finds."""

from __future__ import annotations

import functools

from pearl.decoding.settings import Settings
from pearl.simulator import profiling
from pearl.simulator.acceptance import Acceptance, Independent
from pearl.simulator.answers import run
from pearl.simulator.costs import Affine, AnyCost
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
    draft: AnyCost = DRAFT,
    target: AnyCost = TARGET,
    network: Network = NETWORK,
) -> list[Recording]:
    """The requests of one run, each with its trace."""
    scenario = Scenario(
        settings=settings,
        pair=Pair(draft=draft, target=target),
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
    luck = recorded(Settings(gamma=4), requests=12)
    blocks = [[[recording] for recording in luck[turn::3]] for turn in range(3)]
    return profiling.profile(
        [found + measured_block(turn) for turn, found in enumerate(blocks)],
        luck=luck,
        settings=Settings(gamma=4),
        machine={},
        models={"draft": "simulated"},
    )


def measured_block(turn: int, target: Affine = TARGET) -> list[list[Recording]]:
    """Every kind of times, with some of the windows; in the first one a crowd, too."""
    sizes = [Settings(schedule="sd", gamma=gamma) for gamma in (1, 2, 4, 6, 8)]
    sizes += [Settings(gamma=gamma) for gamma in (2, 4, 6, 8)]
    groups = [recorded(each, target=target) for each in [*sizes, Settings(schedule="ar")]]
    if not turn:
        groups.append(recorded(Settings(schedule="sd", gamma=4), requests=4, users=4))
    return groups
