"""A target that goes on before it is told: the same tokens, sooner, by the real one's rule.

The last section holds the virtual pair against the real scheduler with real hosts, whose runners
and links take the same time on the same clock.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, cast, final

import msgspec
import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from pearl.actors import hosts
from pearl.actors.hosts import Said
from pearl.actors.peers import Peer
from pearl.actors.scheduler import Scheduler
from pearl.actors.wire import Alive, Finished, Hello, JobDone, Submit, ToDevice, frame
from pearl.decoding.messages import DEVICES, DRAFT, TARGET, Device, Judged, Proposed
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received, Record, Sent
from pearl.simulator.acceptance import Independent, Replay
from pearl.simulator.answers import run
from pearl.simulator.costs import Affine, Constant, Spread
from pearl.simulator.devices import Process
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import (
    ClosedLoop,
    Fixed,
    Geometric,
    Poisson,
    Recorded,
    Times,
    Workload,
)
from pearl.simulator.world import Pair, Run, Scenario
from tests.actors.connections import Wire
from tests.decoding.learning import fickle
from tests.simulator.measuring import AR, PASS_S, committed, one, pearl, sd, several
from tests.simulator.timed import FakeClock, Luck, TimedRunner, says_one

TOKENS: Final = 200
AUTO: Final = Settings(gamma="auto")
AT_REST: Final = Settings(schedule="sd", gamma="auto")
HOLDING: Final = Settings(gamma=4, verifier="rejection", sampling=Sampling(temperature=1.0))
SCHEDULES: Final = {
    "AR": AR,
    "SD": sd(4),
    "PEARL": pearl(4),
    "PEARL at once": pearl(6, strict=False),
    "head start": pearl(4, 2),
    "rejection": HOLDING,
    "auto": AUTO,
    "SD auto": AT_REST,
}
FAR: Final = Network(
    draft=Link(latency_s=PASS_S / 16), target=Link(latency_s=PASS_S / 8), control_s=PASS_S / 64
)
JITTERY: Final = Network(
    draft=Link(latency_s=0.001, jitter_s=0.004), target=Link(jitter_s=0.006), control_s=0.0005
)
BUSY: Final = msgspec.structs.replace(FAR, onward_s=PASS_S / 32)


def told(network: Network) -> Network:
    """The same links, and a target that waits for every command."""
    return msgspec.structs.replace(network, foresight=False)


def verdicts(played: Run) -> list[Judged]:
    events = [record.event for record in played.records if isinstance(record, Received)]
    return [event for event in events if isinstance(event, Judged)]


def idle(played: Run) -> list[float]:
    """What the target waited between one pass and the next."""
    judged = verdicts(played)
    return [later.began - sooner.ended for sooner, later in itertools.pairwise(judged)]


# -- the same tokens -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("network", [Network(), FAR, JITTERY], ids=["at once", "far", "jittery"])
def test_what_is_foreseen_changes_no_token(name: str, network: Network) -> None:
    """Nor what was compared; and with one request and a plan that stays no pass is made in vain."""
    scenario = Scenario(settings=SCHEDULES[name], network=network, workload=one(TOKENS))
    other = msgspec.structs.replace(scenario, network=told(network))

    ahead, waiting = run(scenario, trace=True), run(other, trace=True)

    assert committed(ahead) == committed(waiting) == {0: [1] * TOKENS}
    if scenario.settings.gamma != "auto":
        mine, its = (played.served[0].metrics for played in (ahead, waiting))
        assert (mine.target_passes, mine.kept, mine.rejections) == (
            (its.target_passes, its.kept, its.rejections)
        )


@pytest.mark.parametrize("name", SCHEDULES)
def test_who_is_told_before_is_never_later(name: str) -> None:
    """With links and certain times; plans that follow what they see may choose otherwise."""
    scenario = Scenario(settings=SCHEDULES[name], network=FAR, workload=one(TOKENS))
    waiting = run(msgspec.structs.replace(scenario, network=told(FAR)))

    slack = 1.02 if scenario.settings.gamma == "auto" else 1 + 1e-9
    assert run(scenario).seconds <= slack * waiting.seconds


@pytest.mark.parametrize("name", ["SD", "rejection"])
def test_where_nothing_can_be_foreseen_nothing_changes(name: str) -> None:
    """A window has to come, or a row is held: the scheduler says nothing before."""
    scenario = Scenario(settings=SCHEDULES[name], network=FAR, workload=one(TOKENS))
    other = msgspec.structs.replace(scenario, network=told(FAR))

    assert run(scenario, trace=True).records == run(other, trace=True).records


faults = st.builds(
    Fault,
    device=st.sampled_from(DEVICES),
    kind=st.sampled_from([FaultKind.CRASH, FaultKind.STALL]),
    at=st.floats(0, 2),
    seconds=st.floats(0.001, 2.5),
)


@given(
    fault=faults,
    schedule=st.sampled_from(list(SCHEDULES.values())),
    network=st.sampled_from([Network(), FAR, JITTERY, BUSY]),
    slots=st.sampled_from([None, 2]),
    varied=st.booleans(),
    seed=st.integers(0, 50),
)
def test_in_a_crowd_with_faults_and_jitter_every_text_is_whole(
    *,
    fault: Fault,
    schedule: Settings,
    network: Network,
    slots: int | None,
    varied: bool,
    seed: int,
) -> None:
    """Jobs begun in vain, restarts that forget what was foreseen, requests that end meanwhile."""
    lengths = (40, 7, 23, 60)
    load = Workload(requests=4, arrivals=ClosedLoop(4), output=Recorded(lengths), slots=slots)
    draft, target = Constant(PASS_S / 5), Constant(PASS_S)
    pair = Pair(draft=draft, target=target)
    if varied:
        pair = Pair(
            draft=Spread(around=draft, variation=0.3), target=Spread(around=target, variation=0.3)
        )
    scenario = Scenario(
        settings=schedule, pair=pair, network=network, workload=load, faults=(fault,)
    )
    played = run(scenario, seed=seed, trace=True)

    assert committed(played) == {number: [1] * length for number, length in enumerate(lengths)}
    for account in (played.draft, played.target):
        assert account.total == pytest.approx(played.seconds, rel=1e-9)
        assert min(msgspec.structs.astuple(account)) >= -1e-9


def test_a_plan_that_changes_its_mind_costs_passes_and_no_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At rest a pass is foreseen behind each refusal; then the plan wants a window first."""
    fickle(monkeypatch, 1)
    scenario = Scenario(settings=AT_REST, network=FAR, workload=several(3, TOKENS))
    played = run(scenario, trace=True)

    unwanted = [r.event for r in played.records if isinstance(r, Received) and not r.wanted]
    assert any(isinstance(event, Judged) for event in unwanted)
    assert committed(played) == {number: [1] * TOKENS for number in range(3)}


def test_a_text_that_is_over_is_not_gone_on_with() -> None:
    """There is no room behind its last token, so no pass is begun that nobody will ask for."""
    played = run(Scenario(settings=AR, network=FAR, workload=one(10)), trace=True)

    assert len(verdicts(played)) == 10
    assert played.target.busy == pytest.approx(10 * PASS_S)


# -- sooner ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency", [0.125, 0.25, 0.5])
def test_the_target_alone_pays_for_two_messages_in_all(latency: float) -> None:
    """The first command and the last verdict; one that waits pays for two with every token."""
    network = Network(target=Link(latency_s=latency * PASS_S))
    scenario = Scenario(settings=AR, network=network, workload=one(TOKENS))
    waiting = msgspec.structs.replace(scenario, network=told(network))

    assert run(scenario).seconds == (TOKENS + 2 * latency) * PASS_S
    assert run(waiting).seconds == TOKENS * (1 + 2 * latency) * PASS_S


def test_a_target_takes_its_time_to_go_on() -> None:
    """To send its answer and to read what came; it is idle then, and waits for nobody's work."""
    network = Network(target=Link(latency_s=PASS_S / 4), onward_s=PASS_S / 16)
    played = run(Scenario(settings=AR, network=network, workload=one(TOKENS)))

    assert played.seconds == (TOKENS + 0.5 + (TOKENS - 1) / 16) * PASS_S
    assert played.target.busy == TOKENS * PASS_S
    assert played.target.waiting_for_messages == played.seconds - played.target.busy


def test_messages_that_take_longer_than_a_pass_are_waited_for_every_other_time() -> None:
    """A command tells of one pass to follow: there and back, the messages cover two passes.

    The first verdict and the last command have no other to go with: one pass more.
    """
    network = Network(target=Link(latency_s=1.5 * PASS_S))
    played = run(Scenario(settings=AR, network=network, workload=one(TOKENS)))

    assert played.seconds == (TOKENS / 2 * (3 + 1) + 1) * PASS_S


@pytest.mark.parametrize("schedule", [pearl(5), pearl(5, strict=False)], ids=["barrier", "at once"])
def test_windows_that_come_in_time_leave_the_target_no_rest(schedule: Settings) -> None:
    """Five steps of eight a pass, and messages of a quarter of one; windows kept and refused."""
    network = Network(draft=Link(latency_s=PASS_S / 32), target=Link(latency_s=PASS_S / 8))
    scenario = Scenario(settings=schedule, pair=Pair.of(8), network=network, workload=one(TOKENS))
    played = run(scenario, trace=True)

    assert played.served[0].metrics.rejections > 10
    assert idle(played) == [0.0] * (len(verdicts(played)) - 1)
    assert played.seconds - played.target.busy == PASS_S / 4  # first command, last verdict


def test_a_window_that_comes_late_is_what_the_target_waits_for() -> None:
    """From its arrival on it takes one message; one that is told needs the same then."""
    network = Network(draft=Link(latency_s=PASS_S / 8), target=Link(latency_s=PASS_S / 8))
    scenario = Scenario(
        settings=pearl(8),
        pair=Pair.of(8),
        acceptance=Independent(1.0),
        network=network,
        workload=one(TOKENS),
    )
    played = run(scenario, trace=True)

    came = [r.at for r in played.records if isinstance(r, Received) if type(r.event) is Proposed]
    judged = verdicts(played)
    for window, sooner, later in zip(came, judged, judged[1:], strict=False):
        assert later.began == max(sooner.ended, window + PASS_S / 8)
    assert sum(wait > 0 for wait in idle(played)) >= len(judged) // 2 - 1


def test_a_refusal_needs_no_window_where_nothing_waits_for_it() -> None:
    """Without a barrier the pass behind a refusal is known with the job; the window is far away."""
    network = Network(draft=Link(latency_s=10 * PASS_S), target=Link(latency_s=PASS_S / 4))
    scenario = Scenario(
        settings=pearl(3, strict=False),
        acceptance=Independent(0.7),
        network=network,
        workload=one(TOKENS),
    )
    played = run(scenario, trace=True)

    refused = [judged for judged in verdicts(played) if judged.kept < judged.judged]
    begun = [judged.began for judged in verdicts(played)]
    assert len(refused) > 3
    assert all(judged.ended in begun for judged in refused[:-1])


def test_requests_out_of_step_fall_into_step() -> None:
    """Who comes during a pass finds the other one's next job begun with his own: they share it."""
    load = Workload(requests=2, arrivals=Times((0.0, PASS_S / 2)), output=Fixed(20))
    scenario = Scenario(settings=AR, workload=load)
    waiting = msgspec.structs.replace(scenario, network=told(Network()))

    assert run(scenario).seconds == 21 * PASS_S
    assert run(waiting).seconds == 40 * PASS_S


@pytest.mark.parametrize("users", [2, 5])
def test_a_crowd_in_step_stays_so_over_slow_links(users: int) -> None:
    network = Network(target=Link(latency_s=PASS_S / 4))
    played = run(Scenario(settings=AR, network=network, workload=several(users, 50)))

    assert played.seconds == (50 + 0.5) * PASS_S
    assert played.target.busy == 50 * PASS_S


def test_a_busy_crowd_is_served_sooner() -> None:
    load = Workload(requests=30, arrivals=Poisson(2.0), output=Geometric(40), slots=6)
    scenario = Scenario(settings=pearl(4, strict=False), network=FAR, workload=load)
    waiting = msgspec.structs.replace(scenario, network=told(FAR))

    mean = [
        sum(s.finished - s.arrived for s in run(each, seed=5).served)
        for each in (scenario, waiting)
    ]
    assert mean[0] < 0.9 * mean[1]


def test_a_target_that_was_restarted_waits_to_be_told() -> None:
    """What it foresaw is forgotten with everything else: the pass that was cut short is made again.

    At 10.5 passes and a link it is in the middle of one; half of it is lost, then come the
    restart, the command that is sent again at once, and everything as before.
    """
    link = PASS_S / 8
    crash = Fault(device=TARGET, kind=FaultKind.CRASH, at=link + 10.5 * PASS_S, seconds=4 * PASS_S)
    network = Network(target=Link(latency_s=link))
    scenario = Scenario(settings=AR, network=network, workload=one(TOKENS), faults=(crash,))

    assert run(scenario).seconds == (TOKENS + 0.5 + 4) * PASS_S + 3 * link


# -- the real scheduler and real hosts -------------------------------------------------------------

PAIR: Final = Pair(
    draft=Affine(base=1.0, per_token=1 / 16, per_row=1 / 64, per_position=1 / 4096),
    target=Affine(base=5.0, per_token=1 / 8, per_row=1 / 32, per_position=1 / 2048),
)
LINKS: Final = {
    "near": Network(),
    "far": Network(draft=Link(latency_s=0.3), target=Link(latency_s=0.7)),
    "farther than a pass": Network(draft=Link(latency_s=1.1), target=Link(latency_s=6.3)),
}
TEXTS: Final = ("1101111101011111111100111110", "10111111100111010111")
PROMPTS: Final = (5, 9)
LENGTHS: Final = (60, 37)


@final
class RealPair:
    """The real scheduler with real hosts, each on the other end of a link that takes its time."""

    def __init__(self, network: Network, requests: int) -> None:
        self._env = simpy.Environment()
        self._scheduler = Scheduler(restarts=True)
        certain = np.random.default_rng()  # of a replay nothing is left to chance
        written = {number: Replay(TEXTS).text(certain, number) for number in range(requests)}
        self._luck = Luck(written, dict(enumerate(PROMPTS)))
        links = {DRAFT: network.draft, TARGET: network.target}
        self._devices = {device: self._device(device, links[device]) for device in DEVICES}
        self._client, self._heard = self._peer(Hello(secret=self._scheduler._secret))

    def _peer(self, hello: Hello) -> tuple[Peer, Wire]:
        wire, peer = Wire(), Peer(self._scheduler)
        peer.connection_made(wire)
        peer.data_received(frame(hello))
        return peer, wire

    def _device(self, role: Device, link: Link) -> RealDevice:
        peer, wire = self._peer(Hello(secret=self._scheduler._secret, device=role))
        drafts, clock = role is DRAFT, FakeClock()
        cost = PAIR.draft if drafts else PAIR.target
        runner = TimedRunner(self._luck.draft if drafts else says_one, clock, cost.seconds)
        host = (hosts.draft_host if drafts else hosts.target_host)(runner, clock)
        device = RealDevice(self._env, host, clock, link.latency_s, peer, wire, self._post)
        peer.data_received(frame(Alive()))
        return device

    def _post(self) -> None:
        """What the scheduler has just sent, to everybody's links."""
        for device in self._devices.values():
            device.post()

    def story(self, settings: Settings, tokens: Sequence[int]) -> list[Record]:
        """All that was said of all requests."""
        for number, length in enumerate(tokens):
            asked = msgspec.structs.replace(settings, max_new_tokens=length)
            prompt = self._luck.prompt(number)
            submit = Submit(request=number, prompt=prompt, eos=(), settings=asked, trace=True)
            self._client.data_received(frame(submit))
        self._post()
        self._env.run()
        ends = [packet for packet in self._heard.packets if isinstance(packet, Finished)]
        return [record for end in ends for record in end.trace]


@final
@dataclasses.dataclass(slots=True, eq=False)
class RealDevice:
    """A real host, its connection, and its loop on the virtual clock."""

    env: simpy.Environment
    host: hosts.Host
    clock: FakeClock
    latency: float
    peer: Peer
    wire: Wire
    posted: Callable[[], None]
    inbox: deque[ToDevice] = dataclasses.field(default_factory=deque)
    awake: simpy.Event = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.awake = self.env.event()
        self.env.process(self._serve())

    def post(self) -> None:
        while self.wire.packets:
            self._later(self._take, cast("ToDevice", self.wire.packets.popleft()))

    def _later(self, do: Callable[[Any], None], what: ToDevice | JobDone) -> None:
        self.env.timeout(self.latency).callbacks.append(lambda _: do(what))

    def _take(self, packet: ToDevice) -> None:
        self.inbox.append(packet)
        if not self.awake.triggered:
            self.awake.succeed()

    def _hear(self, answer: JobDone) -> None:
        self.peer.data_received(frame(answer))
        self.posted()

    def _send(self, answers: Sequence[Said]) -> None:
        for answer in answers:
            assert isinstance(answer, JobDone)
            self._later(self._hear, answer)

    def _serve(self) -> Process:
        """The loop of `pearl.actors.device.serve`."""
        while True:
            self.clock.now = self.env.now
            while self.inbox:
                self._send(self.host.take(self.inbox.popleft()))
            if self.host.busy:
                answers = self.host.turn()
                yield self.env.timeout(self.clock.now - self.env.now)
                self._send(answers)
            else:
                self.awake = self.env.event()
                yield self.awake


def simulated(settings: Settings, network: Network, tokens: Sequence[int]) -> list[Record]:
    count = len(tokens)
    load = Workload(
        requests=count,
        arrivals=ClosedLoop(count),
        prompt=Recorded(PROMPTS[:count]),
        output=Recorded(tuple(tokens)),
    )
    scenario = Scenario(
        settings=settings, pair=PAIR, acceptance=Replay(TEXTS), network=network, workload=load
    )
    return list(run(scenario, trace=True).records)


def by_request(records: Sequence[Record], kind: type[Proposed | Judged]) -> dict[int, list[Any]]:
    """The answers of one device, in order, with their times on its clock."""
    found: dict[int, list[Any]] = {}
    for record in records:
        if isinstance(record, Received) and isinstance(record.event, kind):
            found.setdefault(record.request, []).append(msgspec.structs.astuple(record.event))
    return found


def commands(records: Sequence[Record]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for record in records:
        if isinstance(record, Sent):
            found.setdefault(record.request, []).append(record.command)
    return found


@pytest.mark.parametrize("requests", [1, 2])
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_virtual_pair_does_what_a_real_one_does_and_when(
    name: str, link: str, requests: int
) -> None:
    """Command by command, and job by job with its beginning and its end on the device's clock."""
    settings, network = SCHEDULES[name], LINKS[link]
    lengths = LENGTHS[:requests]

    real = RealPair(network, requests).story(settings, lengths)
    virtual = simulated(settings, network, lengths)

    assert commands(virtual) == commands(real)
    for kind in (Judged, Proposed):
        assert by_request(virtual, kind) == approximately(by_request(real, kind))


def approximately(story: dict[int, list[Any]]) -> dict[int, list[Any]]:
    """But for the last digits of times."""
    return {
        number: [
            tuple(pytest.approx(v) if isinstance(v, float) else v for v in answer)
            for answer in answers
        ]
        for number, answers in story.items()
    }
