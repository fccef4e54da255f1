"""A recorded run can be run again, and says where the draft agreed with the target."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from pearl.decoding import trace
from pearl.decoding.conversation import Conversation
from pearl.decoding.desks import Writing, judged
from pearl.decoding.errors import MalformedTraceError, SettingError
from pearl.decoding.exchanges import agreement
from pearl.decoding.messages import (
    DRAFT,
    TARGET,
    Command,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Judge,
    Judged,
    Order,
    Propose,
    Proposed,
)
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason, StopRules
from pearl.decoding.trace import Received, Record, Sent
from pearl.simulator.acceptance import Bursts, Independent, Replay
from pearl.simulator.answers import run
from pearl.simulator.costs import Constant, Spread
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.links import Link, Network
from pearl.simulator.recording import Delays, Replayed, replay, replay_file
from pearl.simulator.streams import StreamPurpose, stream
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.simulator.numbered import numbered

TOKENS: Final = 200
STOP: Final = StopRules(limit=TOKENS)
HOLD: Final = Settings(gamma=4, verifier="rejection", sampling=Sampling(temperature=1.0))

SETTINGS: Final = {
    "AR": Settings(schedule="ar"),
    "SD 1": Settings(schedule="sd", gamma=1),
    "SD 5": Settings(schedule="sd", gamma=5),
    "PEARL 1": Settings(gamma=1),
    "PEARL 5": Settings(gamma=5),
    "PEARL 5 strict": Settings(gamma=5, strict=True),
    "PEARL 3 after 2": Settings(gamma=3, head_start=2),
    "PEARL 4 after 6 strict": Settings(gamma=4, head_start=6, strict=True),
    "rejection": HOLD,
    "rejection, strict": msgspec.structs.replace(HOLD, strict=True),
    "rejection, SD": msgspec.structs.replace(HOLD, schedule="sd"),
    "SD auto": Settings(schedule="sd"),
    "PEARL auto": Settings(),
}
NOISY: Final = Pair(
    draft=Spread(around=Constant(1 / 128), variation=0.3),
    target=Spread(around=Constant(1 / 32), variation=0.3),
)
FAR: Final = Network(
    draft=Link(latency_s=0.004, jitter_s=0.003),
    target=Link(latency_s=0.001, jitter_s=0.002),
    control_s=0.0005,
)


def _scenario(settings: Settings, **more: Any) -> Scenario:
    """One request, the lengths of whose windows often equal that of a pass."""
    work = Workload(output=Fixed(TOKENS))
    return msgspec.structs.replace(
        Scenario(settings=settings, pair=Pair.of(5), workload=work), **more
    )


def _replay(scenario: Scenario, *, seed: int = 0, delays: Delays = "exact") -> Replayed:
    records = run(scenario, seed=seed, trace=True).records
    return replay(records, scenario.settings, STOP, delays=delays)


def _is_the_same(found: Replayed) -> bool:
    return found.same_commands and found.same_commits and found.same_epochs


# -- replay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_a_run_on_even_devices_comes_out_the_same(settings: Settings) -> None:
    """A window and the pass beside it end at the same moment: their order must stay as well."""
    found = _replay(_scenario(settings))

    assert _is_the_same(found)
    assert found.whole
    assert found.commands > 10
    assert found.simulated_s == found.recorded_s > 1


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize("seed", range(3))
def test_a_run_of_chance_comes_out_the_same(settings: Settings, seed: int) -> None:
    scenario = _scenario(settings, pair=NOISY, network=FAR, acceptance=Bursts(0.8, 0.3))

    found = _replay(scenario, seed=seed)

    assert _is_the_same(found)
    assert found.simulated_s == found.recorded_s > 1


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
@pytest.mark.parametrize(
    "fault",
    [
        Fault(device=DRAFT, kind=FaultKind.CRASH, at=1.01, seconds=0.5),
        Fault(device=DRAFT, kind=FaultKind.CRASH, at=0.0, seconds=1.0),
        Fault(device=DRAFT, kind=FaultKind.CRASH, at=1.0, seconds=0.5),
        Fault(device=DRAFT, kind=FaultKind.STALL, at=1.01, seconds=2.0),
        Fault(device=DRAFT, kind=FaultKind.SLOW, at=1.01, seconds=2.0, factor=9),
        Fault(device=TARGET, kind=FaultKind.CRASH, at=1.01, seconds=0.5),
        Fault(device=TARGET, kind=FaultKind.CRASH, at=0.0, seconds=1.0),
    ],
    ids=lambda fault: f"{fault.device} {fault.kind} at {fault.at}",
)
def test_a_run_with_a_fault_comes_out_the_same(settings: Settings, fault: Fault) -> None:
    found = _replay(_scenario(settings, faults=(fault,)))

    assert _is_the_same(found)
    assert found.simulated_s == found.recorded_s > 1


def test_the_records_of_a_replay_are_the_recorded_ones() -> None:
    """So whatever reads traces can read it, and it can be replayed once more."""
    scenario = _scenario(SETTINGS["PEARL 5"], pair=NOISY, network=FAR)
    records = run(scenario, trace=True).records

    assert replay(records, scenario.settings, STOP).records == records


@pytest.mark.parametrize("name", ["AR", "SD 5", "PEARL 5 strict"])
def test_one_number_describes_links_that_never_vary(name: str) -> None:
    network = Network(draft=Link(latency_s=0.004), target=Link(latency_s=0.002))

    found = _replay(_scenario(SETTINGS[name], pair=NOISY, network=network), delays="mean")

    assert _is_the_same(found)
    assert found.simulated_s == pytest.approx(found.recorded_s, rel=1e-3)


@pytest.mark.parametrize("name", [n for n, s in SETTINGS.items() if not n.endswith("auto")])
def test_with_mean_delays_the_text_stays_and_the_time_is_near(name: str) -> None:
    """What came at nearly the same time may change places; then a cancellation may come or go.

    Automatic windows follow times: with others they may be other windows.
    """
    settings = SETTINGS[name]
    found = _replay(_scenario(settings, pair=NOISY, network=FAR), delays="mean")

    assert found.same_commits
    assert found.simulated_s == pytest.approx(found.recorded_s, rel=0.15)


@pytest.mark.parametrize("name", ["AR", "SD 5", "PEARL 5 strict"])
def test_without_delays_a_run_takes_what_its_devices_took(name: str) -> None:
    """The same scenario without a network, simulated from the start."""
    far = _scenario(SETTINGS[name], network=FAR)
    recorded = run(far, trace=True).records
    near = run(msgspec.structs.replace(far, network=Network()), trace=True).records

    found = replay(recorded, far.settings, STOP, delays="none")

    assert _is_the_same(found)
    assert found.simulated_s == pytest.approx(near[-1].at - near[0].at)


def test_another_schedule_than_the_recorded_one_is_told_apart() -> None:
    scenario = _scenario(SETTINGS["PEARL 5"])
    records = run(scenario, trace=True).records

    found = replay(records, SETTINGS["SD 5"], STOP)

    assert not found.same_commands
    assert not found.same_commits


def test_a_limit_that_was_not_the_recorded_one_is_noticed() -> None:
    scenario = _scenario(SETTINGS["SD 5"])
    records = run(scenario, trace=True).records

    assert not replay(records, scenario.settings, StopRules(limit=TOKENS // 2)).same_commits


def test_a_plan_that_had_learned_before_is_refused() -> None:
    """It begins with a window, and a fresh plan at rest."""
    settings = Settings(schedule="sd")
    records = run(_scenario(Settings(schedule="sd", gamma=7)), trace=True).records

    with pytest.raises(SettingError, match="asked for a window after 0 passes here, and otherwise"):
        replay(records, settings, STOP)


def test_a_replay_takes_one_request() -> None:
    work = Workload(requests=2, output=Fixed(TOKENS))
    records = run(_scenario(SETTINGS["SD 5"], workload=work), trace=True).records

    for number in (0, 1):
        own = [record for record in records if record.request == number]
        assert _is_the_same(replay(own, SETTINGS["SD 5"], STOP))
    with pytest.raises(MalformedTraceError, match="records of requests 0, 1; a replay takes one"):
        replay(records, SETTINGS["SD 5"], STOP)
    with pytest.raises(MalformedTraceError, match="records of no request; a replay takes one"):
        replay([], SETTINGS["SD 5"], STOP)


@pytest.mark.parametrize("times", [(1.0, 0.5), (-1.0, 0.0), (0.0, 1e300)])
def test_times_that_no_clock_shows_are_refused(times: tuple[float, float]) -> None:
    records = [_sent(at, Judge(job=0, epoch=0, base=0, pending=Drafted())) for at in times]

    with pytest.raises(MalformedTraceError, match="times in the trace are no clock's"):
        replay(records, SETTINGS["AR"], STOP)


# -- by hand ---------------------------------------------------------------------------------------


def _sent(at: float, command: Command) -> Sent:
    return Sent(at=at, request=7, command=command)


def _received(at: float, event: Event, *tokens: int, epoch: int = 0, **more: Any) -> Received:
    figures = {"wanted": True, "kept": 0, "rejections": 0} | more
    return Received(at=at, request=7, event=event, tokens=tokens, epoch=epoch, **figures)


def _propose(epoch: int, base: int, *pending: int, count: int = 2) -> Propose:
    return Propose(job=0, epoch=epoch, base=base, pending=pending, count=count)


def _judge(epoch: int, base: int, *pending: int) -> Judge:
    return Judge(job=0, epoch=epoch, base=base, pending=Drafted(tokens=pending))


def _proposed(epoch: int, start: int, *tokens: int, at: float = 0.0) -> Proposed:
    return Proposed(
        job=0, epoch=epoch, start=start, drafted=Drafted(tokens=tokens), began=at, ended=at + 0.1
    )


def _judged(epoch: int, base: int, *verdict: int, at: float = 0.0) -> Judged:
    judged, kept, token = verdict
    return Judged(
        job=0,
        epoch=epoch,
        base=base,
        judged=judged,
        kept=kept,
        token=token,
        began=at,
        ended=at + 0.3,
    )


BY_HAND: Final = numbered(
    (
        # The target writes 10; the draft foresaw it, and 11.
        _sent(5.0, _judge(0, 0)),
        _sent(5.0, _propose(0, 0)),
        _received(5.2, _proposed(0, 0, 10, 11, at=5.05)),
        _received(5.4, _judged(0, 0, 0, 0, 10, at=5.05), 10, kept=1),
        # It keeps 11 and writes 12; the draft was about to write 99, 98.
        _sent(5.4, _judge(0, 1, 11)),
        _sent(5.4, _propose(0, 1, 11)),
        _received(5.6, _proposed(0, 2, 99, 98, at=5.45), kept=1),
        _received(5.8, _judged(0, 1, 1, 1, 12, at=5.45), 11, 12, epoch=1, kept=2, rejections=1),
        # The target writes 13, as the draft does; nobody foresees the last token.
        _sent(5.8, _judge(1, 3)),
        _sent(5.8, _propose(1, 3, count=1)),
        _received(6.0, _proposed(1, 3, 13, at=5.85), epoch=1, kept=2, rejections=1),
        _received(6.2, _judged(1, 3, 0, 0, 13, at=5.85), 13, epoch=1, kept=3, rejections=1),
        _sent(6.2, _judge(1, 4)),
        _received(6.6, _judged(1, 4, 0, 0, 14, at=6.25), 14, epoch=2, kept=3, rejections=1),
    )
)
"""PEARL with windows of two, and a limit of five tokens."""


def test_a_trace_by_hand_is_replayed() -> None:
    found = replay(BY_HAND, Settings(gamma=2), StopRules(limit=5))

    assert _is_the_same(found)
    assert found.commands == 7
    assert found.recorded_s == found.simulated_s == pytest.approx(1.6)
    assert found.records == BY_HAND


def test_a_draft_that_rested_beyond_its_context_rests_again() -> None:
    settings, stop = Settings(gamma=3), StopRules(limit=20)
    records = _recorded_with_reach(settings, stop, reach=6)

    assert _is_the_same(replay(records, settings, stop, reach=6))
    assert not replay(records, settings, stop).same_commands


def _recorded_with_reach(settings: Settings, stop: StopRules, reach: int) -> list[Record]:
    """Of devices that agree and answer one after the other, a second each."""
    orders: list[Order] = []
    conversation = Conversation(
        7, settings, stop, lambda _, order: orders.append(order), now=0.0, reach=reach, records=[]
    )
    conversation.begin(0.0)
    for at in itertools.count(1):
        if not orders:
            break
        match orders.pop(0).command:
            case Propose() as job:
                window = Writing(job, at - 0.5, job.count, (1,) * job.count)
                conversation.hear(window.answer(at - 0.25), at)
            case Judge() as job:
                times = at - 0.5, at - 0.25
                conversation.hear(judged(job, len(job.pending), 1, times, read=1), at)
            case _:
                pass
    return conversation.records or []


def test_the_luck_of_a_trace_by_hand_is_read_off() -> None:
    """99 is not 12; what follows it stood on a wrong text; nobody proposed anything after 13."""
    assert agreement(BY_HAND) == {7: "1101?"}


def test_windows_on_a_text_that_was_thrown_away_say_nothing() -> None:
    """The second one is right about position 2 by chance only: it stands on 98, which went."""
    records: list[Record] = [
        _sent(0.0, _propose(0, 0)),
        _received(0.1, _proposed(0, 0, 10, 98)),
        _sent(0.1, _propose(0, 0, 10, 98)),
        _sent(0.1, _judge(0, 0, 10, 98)),
        _received(0.2, _proposed(0, 2, 12), wanted=False),
        _received(0.3, _judged(0, 0, 2, 1, 11), 10, 11, epoch=1),
        _sent(0.3, _judge(1, 2)),
        _received(0.4, _judged(1, 2, 0, 0, 12), 12, epoch=1),
    ]

    assert agreement(numbered(records)) == {7: "10?"}


def test_windows_that_nobody_wanted_any_more_count_where_they_stand_on_the_text() -> None:
    records: list[Record] = [
        _sent(0.0, _propose(0, 0, count=3)),
        _received(0.1, DeviceLost(device=DRAFT)),
        _received(0.2, _proposed(0, 0, 10, 11), wanted=False),
        _received(0.2, DeviceBack(device=DRAFT)),
        _received(0.3, _judged(0, 0, 0, 0, 10), 10, 11, 12),
        _received(0.4, _proposed(5, 0, 66), wanted=False),  # an answer to nothing
    ]

    assert agreement(numbered(records)) == {7: "11?"}


# -- the luck --------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_the_luck_of_a_simulated_run_is_what_was_drawn(settings: Settings) -> None:
    scenario = _scenario(settings, acceptance=Independent(0.8), pair=NOISY)
    drawn = scenario.acceptance.text(stream(3, 0, StreamPurpose.ACCEPTANCE, 0)).window(0, TOKENS)

    found = agreement(run(scenario, seed=3, trace=True).records)[0]

    assert len(found) == TOKENS
    assert all(c in {"?", str(d)} for c, d in zip(found, drawn, strict=True))
    compared = TOKENS - found.count("?")
    if settings.schedule == "pearl" and settings.gamma != 1:
        assert compared > 0.7 * TOKENS
    assert compared > 0 or not settings.widest


def test_a_luck_that_was_read_off_gives_the_same_run() -> None:
    scenario = _scenario(SETTINGS["PEARL 5 strict"])
    first = run(scenario, trace=True)

    again = run(
        _scenario(scenario.settings, acceptance=Replay((agreement(first.records)[0],))), trace=True
    )

    assert again.records == first.records


# -- files -----------------------------------------------------------------------------------------


def _file(path: Path, scenario: Scenario, **more: Any) -> tuple[Record, ...]:
    records = run(scenario, trace=True).records
    settings = msgspec.structs.replace(scenario.settings, max_new_tokens=TOKENS)
    about = {"settings": settings, "eos": (), "finish_reason": FinishReason.LENGTH} | more
    trace.write(path, records, **about)
    return records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.json"


def test_a_file_alone_can_be_replayed(path: Path) -> None:
    records = _file(path, _scenario(SETTINGS["PEARL 5"], pair=NOISY))

    found = replay_file(path)

    assert _is_the_same(found)
    assert found.records == records
    assert found.whole


@pytest.mark.parametrize("share", [0.2, 0.301, 0.402, 0.5, 0.503])
def test_a_file_that_was_cut_off_is_replayed_as_far_as_it_goes(path: Path, share: float) -> None:
    records = _file(path, _scenario(SETTINGS["PEARL 5"], pair=NOISY))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    left = len(trace.read(path)[1])

    found = replay_file(path)

    assert _is_the_same(found)
    assert not found.whole
    assert 10 < left < len(records)
    assert found.records[:left] == records[:left]
    assert found.simulated_s == found.recorded_s


@pytest.mark.parametrize("name", ["PEARL 5", "PEARL auto"])
@pytest.mark.parametrize("left", range(1, 40))
def test_a_trace_may_end_anywhere(left: int, name: str) -> None:
    """Between an event and the commands that follow it, too."""
    scenario = _scenario(SETTINGS[name], pair=NOISY)
    records = run(scenario, trace=True).records[:left]

    found = replay(records, scenario.settings, STOP, whole=False)

    assert _is_the_same(found)
    assert found.records[:left] == records


def _refusal(path: Path) -> str:
    with pytest.raises((MalformedTraceError, SettingError)) as refused:
        replay_file(path)
    message = str(refused.value)
    assert "\n" not in message
    assert len(message) < 250
    return message


def test_a_run_that_a_stop_string_ended_is_refused(path: Path) -> None:
    _file(path, _scenario(SETTINGS["AR"]), finish_reason="stop")

    assert "ended by a stop string" in _refusal(path)


@pytest.mark.parametrize(
    "about",
    [
        {"eos": "none"},
        {"finish_reason": "tired"},
        {"settings": None},
        {"settings": {"schedule": "fast"}},
        {"settings": {"gamma": 0}},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(path: Path, about: dict[str, Any]) -> None:
    _file(path, _scenario(SETTINGS["AR"]), **about)

    _refusal(path)


def test_a_header_that_does_not_say_enough_is_refused(path: Path) -> None:
    trace.write(path, BY_HAND, models="tiny")

    assert f"{path} does not say how it was run" in _refusal(path)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    assert _refusal(path) == f"{path} cannot be read: No such file or directory"
    assert _refusal(path.parent) == f"{path.parent} cannot be read: Is a directory"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff\xfe" * 100,
        b"some text\nand more\n",
        b'{"a": 1}\n',
        b"[",
        b"[\n",
        b'[\n{"ph":"M","name":"a trace of somebody else"},\n',
        b'[\n{"args":{"header":{"version":1,"about":{}}}},\n',
    ],
)
def test_a_file_that_is_no_trace_is_named(path: Path, data: bytes) -> None:
    path.write_bytes(data)

    assert _refusal(path) == f"{path} is not a trace of version 2 of this project"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"garbage", "JSON is malformed"),
        (b"\xff\xfe", "JSON is malformed"),
        (b'{"args":{"record":{"type":"\xff"}}},', "can't decode"),
        (b'{"args":{"record":{"type":"Sent","at":1.0}}},', "missing required field `request`"),
        (b'{"args":{"record":{"type":"Shouted"}}},', "Invalid value 'Shouted'"),
        (b'{"args":[]},', "Expected `object`"),
        (b'{"args":{"header":{"about":{"a":' + b"[" * 10**5, "recursion"),
    ],
    ids=["garbage", "binary", "encoding", "schema", "tag", "shape", "depth"],
)
def test_a_line_that_is_no_event_is_named(path: Path, line: bytes, why: str) -> None:
    _file(path, _scenario(SETTINGS["AR"]))
    lines = path.read_bytes().split(b"\n")
    lines[9] = line
    path.write_bytes(b"\n".join(lines))

    message = _refusal(path)

    assert message.startswith(f"{path}, line 10: not a trace event: ")
    assert why in message
