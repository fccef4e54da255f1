"""Who waited for whom: the parts sum to the whole, and each part is what it says."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from pearl.decoding.messages import DRAFT, TARGET
from pearl.decoding.settings import Settings
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run
from pearl.simulator.costs import Constant, Spread
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import Fixed, Geometric, Poisson, Times, Workload
from pearl.simulator.world import Pair, Scenario
from tests.simulator.measuring import AR, PASS_S, delayed, one, pearl, sd

BUSY: Final = Workload(
    requests=12, arrivals=Poisson(0.8), output=Geometric(60), prompt=Geometric(20), slots=3
)
VARIED: Final = Pair(
    draft=Spread(around=Constant(PASS_S / 5), variation=0.4),
    target=Spread(around=Constant(PASS_S), variation=0.4),
)
SLOW_LINKS: Final = Network(
    draft=Link(latency_s=0.003, jitter_s=0.002), target=Link(latency_s=0.001), control_s=0.0005
)
_MOMENTS: Final = [
    (DRAFT, 2.0),
    (DRAFT, 6.0),
    (TARGET, 2.5),
    (TARGET, 8.0),
]
CRASHES: Final = tuple(
    Fault(device=device, kind=FaultKind.CRASH, at=at, seconds=0.8) for device, at in _MOMENTS
)


@pytest.mark.parametrize("settings", [AR, sd(4), pearl(5), pearl(5, 2), pearl(9, strict=False)])
@pytest.mark.parametrize("faults", [(), CRASHES])
@pytest.mark.parametrize("foresight", [True, False], ids=["foresight", "told"])
def test_the_six_parts_sum_to_the_length_of_the_run(
    settings: Settings, faults: tuple[Fault, ...], *, foresight: bool
) -> None:
    """Under load, links, varying times and faults, for both devices."""
    network = msgspec.structs.replace(SLOW_LINKS, foresight=foresight)
    played = run(
        Scenario(settings=settings, pair=VARIED, network=network, workload=BUSY, faults=faults)
    )

    for account in (played.draft, played.target):
        assert account.total == pytest.approx(played.seconds, rel=1e-9)
        assert min(msgspec.structs.astuple(account)) >= 0


def test_without_a_draft_to_ask_the_draft_waits_for_the_target_all_the_time() -> None:
    played = run(Scenario(settings=AR, workload=one(100)))

    assert played.draft.waiting_for_other == played.target.useful == played.seconds


def test_in_speculative_decoding_each_device_waits_for_the_other() -> None:
    """Mutual waiting: the draft works g / c of every pass, and never beside one."""
    played = run(
        Scenario(settings=sd(4), pair=Pair.of(8), acceptance=Independent(1.0), workload=one(500))
    )

    assert played.target.useful == played.draft.waiting_for_other == 100 * PASS_S
    assert played.draft.useful == played.target.waiting_for_other == 400 * PASS_S / 8


def test_at_the_speed_ratio_nobody_waits_in_pearl() -> None:
    played = run(
        Scenario(settings=pearl(8), pair=Pair.of(8), acceptance=Independent(1.0), workload=one(801))
    )

    assert played.target.waiting_for_other == 0
    assert played.draft.waiting_for_other <= 2 * PASS_S  # the last window has nothing to write


def test_what_messages_take_is_waiting_for_messages() -> None:
    """A quarter of a pass around each one, and a target that waits for every command."""
    played = run(Scenario(settings=AR, network=delayed(0.25), workload=one(100)))

    assert played.target.waiting_for_messages == played.draft.waiting_for_messages
    assert played.target.waiting_for_messages == pytest.approx(25 * PASS_S)


def test_a_target_that_goes_on_waits_for_the_first_message_and_the_last() -> None:
    played = run(Scenario(settings=AR, network=delayed(0.25, foresight=True), workload=one(100)))

    assert played.target.waiting_for_messages == 0.25 * PASS_S
    assert played.target.waiting_for_other == 0.0


def test_a_late_window_is_waited_for_and_so_are_its_messages() -> None:
    """Windows of 12 steps beside passes of 8: the draft works while the target waits for it.

    Nobody works while a window is asked for, nor while it comes back.
    """
    links = Network(draft=Link(latency_s=PASS_S / 16), target=Link(latency_s=PASS_S / 8))
    scenario = Scenario(
        settings=pearl(12),
        pair=Pair.of(8),
        acceptance=Independent(1.0),
        network=links,
        workload=one(12 * 50),
    )
    played = run(scenario)

    rounds = played.served[0].metrics.target_passes
    assert played.target.waiting_for_messages == pytest.approx(rounds * PASS_S / 8, rel=0.1)
    assert played.target.waiting_for_other == pytest.approx(rounds * PASS_S / 2, rel=0.1)


def test_time_without_requests_is_time_without_work() -> None:
    load = Workload(requests=2, arrivals=Times((1.0, 3.0)), output=Fixed(32))
    played = run(Scenario(settings=AR, workload=load))

    assert played.seconds == 4.0
    assert played.target.without_work == played.draft.without_work == 2.0


def test_the_draft_wastes_what_no_text_has() -> None:
    """At a = 0 everything; at a = 1 only windows that the end of the text cuts off."""
    always_wrong = run(Scenario(settings=pearl(5), acceptance=Independent(0.0), workload=one(100)))
    always_right = run(Scenario(settings=sd(4), acceptance=Independent(1.0), workload=one(100)))

    assert always_wrong.draft.useful == 0
    assert always_right.draft.wasted == 0


def test_a_device_is_down_while_it_is_crashed() -> None:
    crash = Fault(device=DRAFT, kind=FaultKind.CRASH, at=1.0, seconds=0.5)
    played = run(Scenario(workload=one(200), faults=(crash,)))

    assert played.draft.down == 0.5
    assert played.target.down == 0
