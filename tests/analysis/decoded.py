"""Requests that were decoded on virtual devices, as their traces have them."""

from __future__ import annotations

from pearl.analysis.traces import Request
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run as simulated
from pearl.simulator.links import Network
from pearl.simulator.workload import ClosedLoop, Fixed, Workload
from pearl.simulator.world import Pair, Scenario


def decoded(
    settings: Settings, *, network: Network | None = None, pair: Pair | None = None, prompt: int = 1
) -> list[Request]:
    """Requests on virtual devices: a pass takes five steps, and messages no time."""
    scenario = Scenario(
        settings=settings,
        acceptance=Independent(0.8),
        pair=pair or Pair.of(speed_ratio=5),
        network=network or Network(),
        workload=Workload(
            requests=6, arrivals=ClosedLoop(1), prompt=Fixed(prompt), output=Fixed(200)
        ),
    )
    records = simulated(scenario, seed=3, trace=True).records
    return [
        Request(
            name="",
            settings=settings,
            prompt=prompt,
            records=tuple(record for record in records if record.request == number),
            simulated=True,
        )
        for number in range(6)
    ]
