"""Devices that stall, slow down or crash: requests go on, and nothing is lost or given twice."""

from __future__ import annotations

import pickle
from typing import Final

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pearl.decoding.errors import SettingError
from pearl.decoding.messages import DEVICES, DRAFT, TARGET, Device, Judged, Proposed
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import Fixed, Times, Workload
from pearl.simulator.world import Pair, Run, Scenario
from tests.simulator.measuring import AR, PASS_S, committed, one, pearl, sd, several

TOKENS: Final = 50
HOLDING: Final = Settings(
    gamma=4, strict=True, verifier="rejection", sampling=Sampling(temperature=1.0)
)
SCHEDULES: Final = [AR, sd(4), pearl(4), pearl(4, 2), pearl(6, strict=False), HOLDING]
PATIENCE_S: Final = 1.0

instants = st.floats(0, 2)


@st.composite
def faults(draw: st.DrawFn) -> tuple[Fault, ...]:
    """Any faults, one after the other on each device."""
    found = []
    for device in DEVICES:
        clock = 0.0
        for _ in range(draw(st.integers(0, 3))):
            clock += draw(instants)
            seconds = draw(st.floats(0.001, 1.5))
            kind = draw(st.sampled_from(FaultKind))
            factor = draw(st.floats(0.5, 5)) if kind is FaultKind.SLOW else 1.0
            found.append(Fault(device=device, kind=kind, at=clock, seconds=seconds, factor=factor))
            clock += seconds
    return tuple(found)


links = st.builds(
    Link,
    latency_s=st.sampled_from([0.0, 0.01]),
    jitter_s=st.sampled_from([0.0, 0.02]),
    bandwidth=st.sampled_from([0.0, 1e4]),
)


@settings(max_examples=150)
@given(
    wrong=faults(),
    schedule=st.sampled_from(SCHEDULES),
    requests=st.integers(1, 4),
    slots=st.sampled_from([None, 1, 2]),
    network=st.builds(Network, draft=links, target=links, foresight=st.booleans()),
    seed=st.integers(0, 10),
)
def test_whatever_goes_wrong_every_text_is_whole(
    *,
    wrong: tuple[Fault, ...],
    schedule: Settings,
    requests: int,
    slots: int | None,
    network: Network,
    seed: int,
) -> None:
    """Nothing hangs, no token is missing, none is committed twice, and the books balance."""
    scenario = Scenario(
        settings=schedule,
        workload=several(requests, TOKENS, slots),
        network=network,
        faults=wrong,
    )
    played = run(scenario, seed=seed, trace=True)

    assert committed(played) == {request: [1] * TOKENS for request in range(requests)}
    assert [served.metrics.tokens for served in played.served] == [TOKENS] * requests
    for account in (played.draft, played.target):
        assert account.total == pytest.approx(played.seconds, rel=1e-9)
        assert min(msgspec.structs.astuple(account)) >= -1e-9


delays = st.one_of(
    st.builds(
        Fault,
        device=st.sampled_from(DEVICES),
        kind=st.just(FaultKind.STALL),
        at=instants,
        seconds=st.floats(0.001, PATIENCE_S),
    ),
    st.builds(
        Fault,
        device=st.sampled_from(DEVICES),
        kind=st.just(FaultKind.SLOW),
        at=instants,
        seconds=st.floats(0.001, 3),
        factor=st.floats(1, 10),
    ),
    st.builds(
        Fault,
        device=st.just(TARGET),
        kind=st.just(FaultKind.CRASH),
        at=instants,
        seconds=st.floats(0.001, 3),
    ),
)


@given(fault=delays, schedule=st.sampled_from([AR, sd(4), pearl(4), pearl(7, 2)]))
def test_a_fault_that_leaves_the_draft_with_a_request_saves_no_time(
    fault: Fault, schedule: Settings
) -> None:
    """One request with a barrier: what comes later makes nothing come sooner.

    A draft that is lost could save time, where the target alone would be faster.
    """
    whole = Scenario(settings=schedule, workload=one(TOKENS))
    spoilt = msgspec.structs.replace(whole, faults=(fault,))

    assert run(spoilt).seconds >= run(whole).seconds - 1e-9


# -- stalls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [0.25, 1.0, 5.5])
@pytest.mark.parametrize("at", [0.0, 10.0, 10.5])
def test_a_stall_of_the_target_delays_everything_by_its_length(at: float, passes: float) -> None:
    """Also one within a single pass: the pass goes on where it was."""
    stall = Fault(device=TARGET, kind=FaultKind.STALL, at=at * PASS_S, seconds=passes * PASS_S)
    played = run(Scenario(settings=AR, workload=one(TOKENS), faults=(stall,)))

    assert played.seconds == (TOKENS + passes) * PASS_S


def test_an_idle_device_that_stalls_begins_when_the_stall_is_over() -> None:
    stall = Fault(device=TARGET, kind=FaultKind.STALL, at=1.0, seconds=0.5)
    load = Workload(requests=1, arrivals=Times((1.25,)), output=Fixed(4))
    played = run(Scenario(settings=AR, workload=load, faults=(stall,)))

    assert played.served[0].finished == 1.5 + 4 * PASS_S


def test_a_draft_that_stalls_for_too_long_is_left_behind_and_comes_back() -> None:
    stall = Fault(device=DRAFT, kind=FaultKind.STALL, at=0.5, seconds=3.0)
    played = run(Scenario(workload=one(400), faults=(stall,)), trace=True)

    metrics = played.served[0].metrics
    alone = (3.0 - PATIENCE_S) / PASS_S
    assert metrics.draft_losses == 1
    assert metrics.tokens_without_draft == pytest.approx(alone, abs=6)
    assert any(at > 3.5 for at in _windows(played))


def test_a_draft_that_stalls_shortly_is_waited_for() -> None:
    stall = Fault(device=DRAFT, kind=FaultKind.STALL, at=0.5, seconds=PATIENCE_S)
    played = run(Scenario(workload=one(400), faults=(stall,)))

    assert played.served[0].metrics.draft_losses == 0
    assert played.served[0].metrics.tokens_without_draft == 0


def _windows(played: Run) -> list[float]:
    """When windows came that were still wanted."""
    return [
        record.at
        for record in played.records
        if isinstance(record, Received) and isinstance(record.event, Proposed) and record.wanted
    ]


# -- slow devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", list(DEVICES))
def test_a_slow_device_takes_longer_for_just_the_forwards_it_begins_while_slow(
    device: Device,
) -> None:
    slow = Fault(device=device, kind=FaultKind.SLOW, at=1.0, seconds=0.7, factor=3)
    scenario = Scenario(
        settings=pearl(1), pair=Pair.of(4), workload=one(TOKENS * 2), faults=(slow,)
    )
    played = run(scenario, trace=True)

    kind, normal = (Proposed, PASS_S / 4) if device is DRAFT else (Judged, PASS_S)
    events = [record.event for record in played.records if isinstance(record, Received)]
    jobs = [event for event in events if isinstance(event, kind)]
    assert len(jobs) >= TOKENS
    for job in jobs:
        factor = 3 if 1.0 <= job.began < 1.7 else 1
        assert job.ended - job.began == pytest.approx(factor * normal)


def test_a_slow_target_costs_what_its_slow_passes_cost() -> None:
    """From pass 10.5 on, for 7 passes: the passes begun at 11, 14 and 17 take three each."""
    slow = Fault(device=TARGET, kind=FaultKind.SLOW, at=10.5 * PASS_S, seconds=7 * PASS_S, factor=3)
    played = run(Scenario(settings=AR, workload=one(TOKENS), faults=(slow,)))

    assert played.seconds == (TOKENS + 3 * 2) * PASS_S


# -- crashes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [sd(4), pearl(5), pearl(5, 2), pearl(5, strict=False)])
def test_requests_go_on_while_the_draft_is_gone_and_use_it_again(schedule: Settings) -> None:
    """Out of step, two of them may take turns at the target; each has every second pass then."""
    crash = Fault(device=DRAFT, kind=FaultKind.CRASH, at=1.0, seconds=2.0)
    played = run(Scenario(settings=schedule, workload=several(3, 300), faults=(crash,)), trace=True)

    for served in played.served:
        assert served.metrics.draft_losses == 1
        assert 0.5 * 2.0 / PASS_S - 6 <= served.metrics.tokens_without_draft <= 2.0 / PASS_S + 6
    assert not [at for at in _windows(played) if 1.0 < at <= 3.0]
    assert [at for at in _windows(played) if at > 3.0]
    assert played.draft.down == pytest.approx(2.0)


def test_nothing_is_committed_while_the_target_is_gone() -> None:
    crash = Fault(device=TARGET, kind=FaultKind.CRASH, at=1.0, seconds=2.0)
    played = run(Scenario(workload=several(3, 300), faults=(crash,)), trace=True)

    records = [record for record in played.records if isinstance(record, Received)]
    assert not [record for record in records if record.tokens and 1.0 < record.at < 3.0 + PASS_S]
    assert {served.metrics.target_losses for served in played.served} == {1}
    assert played.target.down == pytest.approx(2.0)


def test_a_pass_that_a_crash_cut_short_is_made_again_and_counts_as_wasted() -> None:
    """Half of pass 10 is lost, then comes the restart, then pass 10 once more."""
    crash = Fault(device=TARGET, kind=FaultKind.CRASH, at=10.5 * PASS_S, seconds=4 * PASS_S)
    played = run(Scenario(settings=AR, workload=one(TOKENS), faults=(crash,)))

    assert played.seconds == (TOKENS + 0.5 + 4) * PASS_S
    assert played.target.wasted == 0.5 * PASS_S
    assert played.served[0].metrics.target_passes == TOKENS


@pytest.mark.parametrize("device", list(DEVICES))
def test_what_goes_wrong_goes_wrong_also_where_a_scenario_was_copied(device: Device) -> None:
    """As it is for a worker of its own, to which it is pickled."""
    crash = Fault(device=device, kind=FaultKind.CRASH, at=1.0, seconds=0.5)
    scenario = Scenario(workload=one(200), faults=(crash,))

    assert run(pickle.loads(pickle.dumps(scenario))) == run(scenario)  # noqa: S301 - our own


@pytest.mark.parametrize("device", list(DEVICES))
def test_a_device_may_crash_in_the_moment_of_its_restart(device: Device) -> None:
    """Faults follow each other without a gap: the first one ends before the second begins."""
    first = Fault(device=device, kind=FaultKind.CRASH, at=1.0, seconds=0.5)
    second = Fault(device=device, kind=FaultKind.CRASH, at=1.5, seconds=0.5)
    played = run(Scenario(workload=one(200), faults=(second, first)))

    account = played.draft if device is DRAFT else played.target
    metrics = played.served[0].metrics
    assert account.down == 1.0
    assert metrics.draft_losses + metrics.target_losses == 2


def test_a_draft_that_crashes_is_nothing_to_the_target_alone() -> None:
    crash = Fault(device=DRAFT, kind=FaultKind.CRASH, at=0.1, seconds=0.3)
    played = run(Scenario(settings=AR, workload=one(TOKENS), faults=(crash,)))

    assert played.seconds == TOKENS * PASS_S
    assert played.served[0].metrics.draft_losses == 0


@pytest.mark.parametrize("schedule", [sd(4), pearl(5)])
def test_a_request_that_comes_while_the_draft_is_gone_begins_without_it(
    schedule: Settings,
) -> None:
    crash = Fault(device=DRAFT, kind=FaultKind.CRASH, at=0.5, seconds=10.0)
    load = Workload(requests=1, arrivals=Times((1.0,)), output=Fixed(20))
    played = run(Scenario(settings=schedule, workload=load, faults=(crash,)))

    assert played.served[0].finished == 1.0 + 20 * PASS_S
    assert played.served[0].metrics.tokens_without_draft == 20


def test_a_row_held_for_a_window_that_never_comes_decides_without_a_pass() -> None:
    """With rejection the last row of a window waits for the next one; here the draft dies first.

    As on a real device, that row then gives the token by itself.
    """
    crash = Fault(device=DRAFT, kind=FaultKind.CRASH, at=1.01, seconds=100.0)
    scenario = Scenario(
        settings=HOLDING, acceptance=Independent(1.0), workload=one(300), faults=(crash,)
    )
    played = run(scenario, trace=True)

    free = [
        record.event
        for record in played.records
        if isinstance(record, Received)
        and isinstance(record.event, Judged)
        and record.event.passes == 0
    ]
    assert [(verdict.judged, verdict.token) for verdict in free] == [(0, 1)]


# -- what is refused -------------------------------------------------------------------------------


def _fault(at: float, seconds: float, device: Device = DRAFT) -> Fault:
    return Fault(device=device, kind=FaultKind.STALL, at=at, seconds=seconds)


def test_faults_of_one_device_must_not_overlap() -> None:
    with pytest.raises(SettingError, match="the draft has a fault at 2 s, before the one at 1 s"):
        Scenario(faults=(_fault(2, 1), _fault(1, 1.5)))


def test_faults_may_follow_each_other_and_strike_both_devices_at_once() -> None:
    wrong = (_fault(1, 1), _fault(2, 1), _fault(1, 5, TARGET))

    assert Scenario(faults=wrong).faults == wrong


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("at", -1.0, FaultKind.STALL),
        ("at", float("nan"), FaultKind.STALL),
        ("seconds", 0.0, FaultKind.CRASH),
        ("seconds", float("inf"), FaultKind.CRASH),
        ("factor", 0.0, FaultKind.SLOW),
        ("factor", 2.0, FaultKind.CRASH),
    ],
)
def test_a_fault_that_cannot_be_is_refused(name: str, value: float, kind: FaultKind) -> None:
    given_ = {"at": 1.0, "seconds": 1.0, "factor": 1.0} | {name: value}

    with pytest.raises(SettingError, match=f"^{name} is {value}; it must be .+$"):
        Fault(device=DRAFT, kind=kind, **given_)
