"""`gamma="auto"` on the virtual clock: it rests where speculation cannot pay, and comes back."""

from __future__ import annotations

from decoding.messages import Judge, Propose
from decoding.settings import ScheduleName, Settings
from decoding.trace import Received, Sent
from simulator.acceptance import Replay
from simulator.answers import run
from simulator.workload import Fixed, Workload
from simulator.world import Pair, Run, Scenario


def auto_run(luck: Replay, tokens: int) -> Run:
    scenario = Scenario(
        settings=Settings(schedule=ScheduleName.SD, gamma="auto"),
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
    """A thousand tokens of which none is right, then a thousand of which all are."""
    found = auto_run(Replay(("0" * 1000 + "1" * 1000,)), 2000)
    times = [r.at for r in found.records if isinstance(r, Received) for _ in r.tokens]

    assert times[999] < 1.03 * 1000
    assert times[1999] - times[1499] < 0.55 * 500  # windows of 32 in 9 s would be 0.27


def test_while_it_rests_one_token_is_written_beside_each_pass() -> None:
    found = auto_run(Replay(("0" * 1000,)), 1000)
    asked = [r.command for r in found.records if isinstance(r, Sent)][-20:]

    assert {type(command) for command in asked} >= {Judge, Propose}
    assert all(command.count == 1 for command in asked if isinstance(command, Propose))
    assert all(not command.pending.tokens for command in asked if isinstance(command, Judge))
