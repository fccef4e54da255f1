"""The virtual devices keep the rules of the real hosts.

The real hosts run over toy models that say what the virtual devices' texts say: the target
always says 1, the draft says 1 where the text has it agree and 0 where it does not. So the two
can be given the same packets and must give the same answers, to the last field, and their
forwards must have the same rows, the same tokens to read and the same context.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias, cast, final

import numpy as np
import pytest
import simpy

from pearl.actors import hosts
from pearl.actors.device import SchedulerLink, serve
from pearl.actors.wire import Alive, Close, DeviceFailed, Hello, JobDone, Open, ToDevice
from pearl.decoding.messages import (
    DEVICES,
    DRAFT,
    TARGET,
    Cancel,
    Device,
    DeviceBack,
    DeviceLost,
    Event,
    Foresight,
    Judge,
    Judged,
    Order,
    Propose,
    Proposed,
)
from pearl.decoding.policies import Policy
from pearl.decoding.sampling import Sampling
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.stopping import StopRules
from pearl.decoding.trace import without_laws
from pearl.decoding.turns import PIECE
from pearl.decoding.verification import VERIFIERS
from pearl.simulator.acceptance import Independent, Text
from pearl.simulator.devices import Process, VirtualDraft, VirtualTarget, Worker
from pearl.simulator.ledger import Ledger
from tests.decoding.policies import pearl, speculative
from tests.simulator import timed
from tests.simulator.timed import FakeClock, Forward, Luck, TimedRunner, cost, says_one

LIMIT: Final = 40


def by_rows(tokens: int, rows: int, context: int) -> float:
    """Seconds of a forward, where what was read before is of no account."""
    del tokens, context
    return 1 + rows / 64


def some_luck(rng: random.Random, requests: int, longest: int = 9) -> Luck:
    texts: dict[int, Text] = {}
    for request in range(requests):
        rate = rng.choice([0.2, 0.6, 0.9])
        texts[request] = Independent(rate).text(np.random.default_rng(rng.randrange(2**30)))
    return Luck(texts, {request: rng.randint(request + 1, longest) for request in range(requests)})


def open_packet(request: int, luck: Luck, verifier: str) -> Open:
    return Open(
        request=request,
        prompt=luck.prompt(request),
        capacity=luck.prompts[request] + LIMIT,
        verifier=verifier,
        sampling=Sampling(temperature=1.0),
        seed=request,
    )


@final
class Twins:
    """A real and a virtual host of one device; whatever happens, happens to both."""

    def __init__(self, device: Device, luck: Luck, verifiers: dict[int, str]) -> None:
        self.device = device
        self.ahead = 0
        """Jobs that were begun before a command for them was read."""
        self.packets: deque[ToDevice] = deque()
        self._luck = luck
        self._verifiers = verifiers
        self._clock = FakeClock()
        self._forwards: list[Forward] = []
        self._said: list[tuple[int, Proposed | Judged]] = []
        virtual = VirtualDraft if device == DRAFT else VirtualTarget
        self._virtual = virtual(timed.clock(self._note), lambda *answer: self._said.append(answer))
        for request, text in luck.texts.items():
            self._virtual.open(request, luck.prompts[request], text, LIMIT)
        self._start()

    def _note(self, tokens: int, rows: int, context: int) -> float:
        self._forwards.append((tokens, rows, context))
        return cost(tokens, rows, context)

    def _start(self) -> None:
        """A device that remembers nothing, and is told of all requests."""
        drafts = self.device == DRAFT
        self._runner = TimedRunner(self._luck.draft if drafts else says_one, self._clock)
        self._forwards.clear()
        real = hosts.draft_host if drafts else hosts.target_host
        self._real: hosts.Host = real(self._runner, self._clock)
        for request in self._luck.texts:
            self._real.take(open_packet(request, self._luck, self._verifiers[request]))

    @property
    def busy(self) -> bool:
        assert self._real.busy == bool(self._virtual.jobs)
        return self._real.busy

    def crash(self) -> None:
        self.packets.clear()
        self._virtual.forget()
        self._start()

    def take(self) -> list[JobDone]:
        """Both read the next packet."""
        packet = self.packets.popleft()
        real = [answer for answer in self._real.take(packet) if isinstance(answer, JobDone)]
        match packet:
            case Order(request=request):
                self._virtual.take(request, packet, self._clock.now)
            case Close(request=request):
                self._virtual.close(request)
            case _:
                pass
        return self._same(real)

    def turn(self) -> list[JobDone]:
        """Both take a turn."""
        began = self._clock.now
        if isinstance(self._virtual, VirtualTarget):
            self.ahead += len(self._virtual._desk._own.keys() & self._virtual._desk.waiting.keys())
        real = [answer for answer in self._real.turn() if isinstance(answer, JobDone)]
        seconds = self._virtual.begin(began)

        assert began + seconds == self._clock.now
        assert self._forwards == self._runner.forwards
        self._virtual.end(self._clock.now)
        return self._same(real)

    def _same(self, real: list[JobDone]) -> list[JobDone]:
        """The order within a turn is of no account."""
        said, self._said[:] = self._said[:], []
        by_request = sorted(((a.request, without_laws(a.event)) for a in real), key=lambda a: a[0])

        assert sorted(said, key=lambda answer: answer[0]) == by_request
        return real


PLANS: Final[tuple[Policy, ...]] = (
    pearl(1),
    pearl(3),
    pearl(5),
    pearl(4, 2),
    speculative(1),
    speculative(4),
)


@final
class Decoders:
    """Requests under way on both devices, driven step by step in any order."""

    def __init__(self, rng: random.Random, requests: int, longest: int = 9) -> None:
        self._rng = rng
        luck = some_luck(rng, requests, longest)
        kinds = {r: rng.choice(["greedy", "rejection"]) for r in luck.texts}
        self._twins = {device: Twins(device, luck, kinds) for device in DEVICES}
        self._events: dict[int, deque[Event]] = {request: deque() for request in luck.texts}
        self._schedules = {
            request: TwoModelSchedule(
                rng.choice(PLANS),
                StopRules(limit=LIMIT - 4),
                hold=VERIFIERS[kinds[request]].carries_law,
                strict=rng.random() < 0.5,
            )
            for request in luck.texts
        }
        self._foreseen: dict[int, Foresight | None] = {}
        self._tells_ahead = rng.random() < 0.7
        self._listens = rng.choice([0.1, 0.6])  # rather than work
        self._lost: set[Device] = set()
        for request in luck.texts:
            self._send(request)

    @property
    def ahead(self) -> int:
        return self._twins[TARGET].ahead

    @property
    def running(self) -> bool:
        return any(schedule.finish_reason is None for schedule in self._schedules.values())

    def step(self, *, adversity: bool) -> None:
        """One thing that can happen next."""
        if adversity and self._rng.random() < 0.02:
            self._strike()
            return
        device = self._rng.choice(list(DEVICES))
        twins = self._twins[device]
        if twins.packets and self._rng.random() < self._listens:
            self._post(twins.take())
        elif twins.busy:
            self._post(twins.turn())
        for request, events in self._events.items():
            while events and self._rng.random() < 0.5:
                self._schedules[request].receive(events.popleft())
                self._send(request)

    def _strike(self) -> None:
        """A device crashes or is left behind, or is back; only the draft can be left behind."""
        device = self._rng.choice(list(DEVICES))
        if device in self._lost:
            self._lost.remove(device)
            self._tell(DeviceBack(device=device))
            return
        if device == TARGET or self._rng.random() < 0.5:
            self._twins[device].crash()
        self._lost.add(device)
        self._tell(DeviceLost(device=device))

    def _tell(self, news: DeviceLost | DeviceBack) -> None:
        for events in self._events.values():
            events.append(news)

    def _post(self, answers: list[JobDone]) -> None:
        for answer in answers:
            self._events[answer.request].append(answer.event)

    def _send(self, request: int) -> None:
        schedule = self._schedules[request]
        for command in schedule.commands():
            packets = self._twins[command.device].packets
            if isinstance(command, Cancel):
                packets.append(Order(request=request, command=command))
                continue
            fresh = tuple(schedule.committed[: command.base])
            foresight = None
            if isinstance(command, Judge):
                foresight = self._foresight(request)
                self._foreseen[request] = foresight
            work = Order(
                request=request, start=0, fresh=fresh, command=command, foresight=foresight
            )
            packets.append(work)
            if self._rng.random() < 0.05:
                packets.append(packets[-1])  # a job may come twice
        news = self._foresight(request)
        if news is not None and news != self._foreseen.get(request):
            self._foreseen[request] = news
            self._twins[TARGET].packets.append(Order(request=request, command=news))
        if schedule.finish_reason is not None:
            for twins in self._twins.values():
                twins.packets.append(Close(request=request))

    def _foresight(self, request: int) -> Foresight | None:
        return self._schedules[request].foresight() if self._tells_ahead else None


@pytest.mark.parametrize("adversity", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_virtual_devices_do_what_real_hosts_do(seed: int, *, adversity: bool) -> None:
    """Packets, turns and answers in any order, with jobs that come twice and devices that crash.

    `Twins` compares answers, forwards and times of every step.
    """
    rng = random.Random(seed)
    decoders = Decoders(rng, requests=rng.randint(1, 4))
    steps = 0
    while decoders.running:
        decoders.step(adversity=adversity)
        steps += 1

    assert steps < 20_000


@pytest.mark.parametrize("adversity", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_virtual_devices_read_long_prompts_in_the_pieces_of_real_hosts(
    seed: int, *, adversity: bool
) -> None:
    rng = random.Random(seed)
    decoders = Decoders(rng, requests=rng.randint(1, 4), longest=3 * PIECE)
    while decoders.running:
        decoders.step(adversity=adversity)


def test_such_devices_judge_what_they_foresaw_before_they_are_asked() -> None:
    """So that the claim above is one of targets that go on, too."""
    ahead = 0
    for seed in range(10):
        decoders = Decoders(random.Random(seed), requests=2)
        while decoders.running:
            decoders.step(adversity=False)
        ahead += decoders.ahead

    assert ahead > 10


# -- the loop around the host ----------------------------------------------------------------------

Script: TypeAlias = list[tuple[float, int, Order | None]]
"""When which request gets which packet; None closes it."""
Heard: TypeAlias = list[tuple[float, int, Proposed | Judged]]


@final
class ScriptedLink:
    """A connection on which packets come by a script and the clock is a fake one."""

    def __init__(self, script: Script, clock: FakeClock) -> None:
        self.open = True
        self.heard: Heard = []
        self._coming = deque(script)
        self._clock = clock

    def receive(self, *, wait: bool) -> list[ToDevice]:
        if wait and self._coming:
            self._clock.now = max(self._clock.now, self._coming[0][0])
        self.open = not wait or bool(self._coming)
        packets: list[ToDevice] = []
        while self._coming and self._coming[0][0] <= self._clock.now:
            _, request, packet = self._coming.popleft()
            packets.append(Close(request=request) if packet is None else packet)
        return packets

    def send(self, packets: Sequence[Alive | JobDone | DeviceFailed | Hello]) -> None:
        answers = [packet for packet in packets if isinstance(packet, JobDone)]
        self.heard += [(self._clock.now, a.request, without_laws(a.event)) for a in answers]


def some_script(rng: random.Random, device: Device, requests: int) -> Script:
    """Jobs, cancellations and ends of requests; nothing comes at the very end of a turn."""
    script: Script = []
    for request in range(requests):
        at, base = 0.0, 0
        for epoch in range(rng.randint(1, 12)):
            at += rng.expovariate(0.3)
            job = _some_job(rng, device, epoch, base)
            script.append((at, request, _order(rng, request, job)))
            if device == DRAFT and rng.random() < 0.4:
                cancel = Order(request=request, command=Cancel(epoch=epoch + 1))
                script.append((at + rng.expovariate(1), request, cancel))
            if isinstance(job, Judge) and rng.random() < 0.4:
                ahead = Order(request=request, command=_foresight(job))
                script.append((at + rng.expovariate(1), request, ahead))
            base = min(base + rng.randint(0, 2), LIMIT - 8)
        if rng.random() < 0.5:
            script.append((at + rng.expovariate(1), request, None))
    script.sort(key=lambda entry: entry[0])
    return [
        (math.floor(at * 64) / 64 + number / 2**20, request, command)
        for number, (at, request, command) in enumerate(script, start=1)
    ]


def _some_job(rng: random.Random, device: Device, epoch: int, base: int) -> Propose | Judge:
    if device == DRAFT:
        return Propose(job=epoch + 1, epoch=epoch, base=base, pending=(), count=rng.randint(1, 6))
    return Judge(job=epoch + 1, epoch=epoch, base=base)


def _foresight(job: Judge) -> Foresight:
    return Foresight(job=job.job, restarts=True, window=())


def _order(rng: random.Random, request: int, job: Propose | Judge) -> Order:
    foresight = _foresight(job) if isinstance(job, Judge) and rng.random() < 0.4 else None
    return Order(request=request, command=job, fresh=(1,) * job.base, foresight=foresight)


def virtual_loop(script: Script, luck: Luck, device: Device) -> Heard:
    env = simpy.Environment()
    heard: Heard = []

    def reply(request: int, event: Proposed | Judged) -> None:
        heard.append((env.now, request, event))

    host = (VirtualDraft if device == DRAFT else VirtualTarget)(timed.clock(by_rows), reply)
    for request, text in luck.texts.items():
        host.open(request, luck.prompts[request], text, LIMIT)
    worker = Worker(env, host, Ledger(env))

    def deliver() -> Process:
        for at, request, packet in script:
            yield env.timeout(at - env.now)
            worker.take(request, packet)

    env.process(deliver())
    env.run()
    return heard


def real_loop(script: Script, luck: Luck, device: Device) -> Heard:
    clock, drafts = FakeClock(), device == DRAFT
    runner = TimedRunner(luck.draft if drafts else says_one, clock, by_rows)
    host: hosts.Host = (hosts.draft_host if drafts else hosts.target_host)(runner, clock)
    for request in luck.texts:
        host.take(open_packet(request, luck, "greedy"))
    link = ScriptedLink(script, clock)
    serve(host, cast("SchedulerLink", link))
    return link.heard


@pytest.mark.parametrize("device", list(DEVICES))
@pytest.mark.parametrize("seed", range(30))
def test_a_virtual_device_takes_its_turns_when_a_real_one_does(device: Device, seed: int) -> None:
    """The loop of `actors.device.serve`: packets are read between two turns, and only then."""
    rng = random.Random(seed)
    luck = some_luck(rng, requests=rng.randint(1, 4))
    script = some_script(rng, device, len(luck.texts))

    heard, expected = virtual_loop(script, luck, device), real_loop(script, luck, device)

    assert heard == expected
