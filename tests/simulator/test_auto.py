"""`gamma="auto"` on the virtual clock: it rests where speculation cannot pay, and comes back."""

from __future__ import annotations

from typing import Any

import pytest

from pearl.decoding.messages import Judge
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received, Sent
from pearl.simulator.acceptance import Independent, Replay
from pearl.simulator.answers import run
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Run, Scenario


def auto_run(luck: Replay, tokens: int) -> Run:
    scenario = Scenario(
        settings=Settings(schedule="sd", gamma="auto"),
        pair=Pair.of(speed_ratio=4, target_s=1.0),
        acceptance=luck,
        workload=Workload(output=Fixed(tokens)),
    )
    return run(scenario, trace=True)


def test_a_draft_that_is_never_right_costs_next_to_nothing() -> None:
    """The target alone takes 1 s a token; speculative decoding would take 1.25 or more."""
    found = auto_run(Replay(("0" * 2000,)), 2000)

    assert found.seconds < 1.02 * 2000


def test_speculative_decoding_comes_back_when_the_draft_is_right_again() -> None:
    """A thousand tokens of which none is right, then five thousand of which all are."""
    found = auto_run(Replay(("0" * 1000 + "1" * 5000,)), 6000)
    times = [r.at for r in found.records if isinstance(r, Received) for _ in r.tokens]

    assert times[999] < 1.03 * 1000
    assert times[5999] - times[4999] < 0.55 * 1000  # windows of 32 in 9 s would be 0.27


def test_while_it_rests_the_draft_is_asked_for_nothing() -> None:
    found = auto_run(Replay(("0" * 1000,)), 1000)
    asked = [r.command for r in found.records if isinstance(r, Sent)][-100:]

    assert all(isinstance(command, Judge) and not command.pending.tokens for command in asked)


@pytest.mark.slow
@pytest.mark.parametrize("latency_s", [0.0001, 0.0004])
@pytest.mark.parametrize(("a", "c"), [(0.6, 5.0), (0.72, 4.3), (0.85, 7.0)])
@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "sd"},
        {"schedule": "pearl"},
        {"schedule": "pearl", "strict": True},
    ],
    ids=["SD", "PEARL", "strict"],
)
def test_it_is_as_fast_as_the_best_fixed_window_and_as_the_target_alone(
    settings: dict[str, Any], a: float, c: float, latency_s: float
) -> None:
    """Passes of 2 ms that grow with their tokens; messages that take up to a fifth of one.

    Short windows come in time, so that the target need not wait for a message at all; longer ones
    come after the verdict, and cost four messages. Both must be seen.
    """

    def seconds(**window: Any) -> float:
        scenario = Scenario(
            settings=Settings(**(settings | window)),
            pair=Pair.of(c, target_s=0.002, growth=0.05),
            acceptance=Independent(a),
            network=Network(draft=Link(latency_s=latency_s), target=Link(latency_s=latency_s)),
            workload=Workload(output=Fixed(4000)),
        )
        return run(scenario).seconds

    alone = seconds(schedule="ar", strict=False, gamma=1)
    best = min(alone, *(seconds(gamma=gamma) for gamma in range(1, 8)))

    assert seconds(gamma="auto") < best / 0.96
