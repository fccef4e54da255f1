"""One run of a scenario: SimPy processes that drive the very schedules of `decoding`.

It is the virtual half of "one protocol, two clocks". Like `pearl.actors.scheduler` it drives a
`pearl.decoding.conversation` for each request, and nothing here decides about tokens.

    a request arrives  ->  waits for a slot  ->  its conversation begins
    an answer comes    ->  the conversation hears it; tokens are committed, new orders leave

May import: simpy, numpy, decoding.  Must never: know torch, Ray, or the wall clock.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

import msgspec
import simpy

from pearl.decoding.conversation import Conversation
from pearl.decoding.errors import SettingError
from pearl.decoding.measured import Measurements
from pearl.decoding.messages import (
    DEVICES,
    DRAFT,
    TARGET,
    Device,
    DeviceBack,
    DeviceLost,
    Event,
    Judged,
    Order,
    Proposed,
)
from pearl.decoding.metrics import Metrics
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules
from pearl.decoding.trace import Record
from pearl.simulator.acceptance import Acceptance, Independent
from pearl.simulator.costs import Affine, AnyCost, Constant, Measured, clock
from pearl.simulator.devices import Process, VirtualDraft, VirtualTarget, Worker
from pearl.simulator.faults import Fault, FaultKind, check_apart
from pearl.simulator.ledger import SERVING, Account, Ledger
from pearl.simulator.links import NO_WAYS, Line, Network
from pearl.simulator.streams import StreamPurpose, stream
from pearl.simulator.workload import ClosedLoop, Poisson, Times, Workload, check_tokens

if TYPE_CHECKING:
    import numpy as np

    from pearl.simulator.acceptance import Text

RATIOS: Final = (1e-9, 1e9)  # of two devices
DRAFT_PATIENCE_S: Final = 1.0  # as the real scheduler's: then requests go on without the draft


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The two models, as far as time is concerned."""

    draft: AnyCost
    target: AnyCost

    @classmethod
    def of(cls, speed_ratio: float, target_s: float = 1 / 32, growth: float = 0.0) -> Pair:
        """A target pass, and a draft step `speed_ratio` times as fast.

        Times are constant, unless every further token of a pass takes the share `growth` more.
        """
        if not RATIOS[0] <= speed_ratio <= RATIOS[1]:
            allowed = f"from {RATIOS[0]:g} to {RATIOS[1]:g}"
            raise SettingError(f"speed-ratio is {speed_ratio}; it must be {allowed}")
        grown = Affine(base=target_s, per_token=growth * target_s)
        target = grown if growth else Constant(target_s)
        return cls(draft=Constant(target_s / speed_ratio), target=target)

    @property
    def speed_ratio(self) -> float:
        """c: a pass of the target over one token, over one draft step."""
        return self.target.seconds(1) / self.draft.seconds(1)


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run depends on, but for the seed: a what-if changes one of these.

    Args:
        settings: the schedule, gamma, head start; its output limit and stop texts do not count,
            `workload.output` does.
        pair: how long forwards take.
        acceptance: how often the draft agrees with the target.
        network: links and control, and whether the target waits for every command.
        workload: requests.
        faults: what goes wrong, and when.
    """

    settings: Settings = Settings(gamma=5, strict=True)
    pair: Pair = Pair.of(5)
    acceptance: Acceptance = Independent(0.8)
    network: Network = Network()
    workload: Workload = Workload()
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        """Refuse faults that overlap."""
        check_apart(self.faults)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One request that is done, on the run's clock.

    Args:
        number: in the order in which requests came.
        prompt: its tokens.
        arrived, began, finished: seconds; between the first two it waited for a slot.
        metrics: of the time from `began` on.
    """

    number: int
    prompt: int
    arrived: float
    began: float
    finished: float
    metrics: Metrics
    barren_runs: int


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One replication of a scenario.

    Args:
        served: the requests, in the order they were done.
        seconds: from the start to the last token.
        draft, target: how the devices spent that time.
        events: of the event simulation, each a moment at which something happened.
        records: the trace, where one was asked for.
    """

    served: tuple[Served, ...]
    seconds: float
    draft: Account
    target: Account
    events: int
    records: tuple[Record, ...]


@final
class Decoding:
    """One request under way: its conversation, its end, and the runs of its text."""

    def __init__(self, world: World, number: int, prompt: int, length: int, arrived: float) -> None:
        settings = world.scenario.settings
        self.prompt, self.arrived, self.began = prompt, arrived, world.env.now
        self.finished = world.env.event()
        self.devices = DEVICES if settings.widest > 0 else (TARGET,)
        self.conversation = Conversation(
            number,
            settings,
            StopRules(limit=length),
            world.carry,
            now=world.env.now,
            measured=world.measured,
            records=world.records,
        )
        self.conversation.foretells = world.scenario.network.foresight
        self.epoch = self.rejections = self.kept = 0
        self.barren_runs = 0  # runs between two rejections in which nothing was kept

    def count_runs(self) -> None:
        """Look whether a run of agreement has ended; a rejection begins a new epoch."""
        schedule = self.conversation.schedule
        if schedule.epoch == self.epoch:
            return
        self.epoch, counts = schedule.epoch, schedule.counts
        if counts.rejections > self.rejections:
            self.barren_runs += counts.kept == self.kept
            self.rejections, self.kept = counts.rejections, counts.kept


@final
class World:
    """A scenario on its clock."""

    def __init__(self, scenario: Scenario, seed: int, replication: int, *, trace: bool) -> None:
        self.scenario = scenario
        self.env = env = simpy.Environment()
        self.measured = Measurements()  # what `gamma auto` knows of these devices
        self._luck = (seed, replication)
        self._ledger = Ledger(env)
        self.records: list[Record] | None = [] if trace else None
        self._served: list[Served] = []
        self._open: dict[int, Decoding] = {}
        self._usable = set(DEVICES)
        self._control_s = scenario.network.control_s
        draft, target = self._hosts()
        onward_s = scenario.network.onward_s if scenario.network.foresight else 0.0
        self._workers = {
            DRAFT: Worker(env, draft, self._ledger),
            TARGET: Worker(env, target, self._ledger, onward_s),
        }
        links = {DRAFT: scenario.network.draft, TARGET: scenario.network.target}
        self._ways = {d: (link.in_turns, link.at_once) for d, link in links.items()}
        self._timed = any(ways != NO_WAYS for found in self._ways.values() for ways in found)
        self._at_once = scenario.settings.kind.parallel
        self._after_window = False  # whether what is heard now is a window
        streams = {DRAFT: StreamPurpose.DRAFT_LINK, TARGET: StreamPurpose.TARGET_LINK}
        self._out = {d: Line(env, links[d], self._stream(streams[d], 0)) for d in DEVICES}
        self._back = {d: Line(env, links[d], self._stream(streams[d], 1)) for d in DEVICES}
        slots = scenario.workload.slots
        self._slots = None if slots is None else simpy.Resource(env, capacity=slots)

    def run(self) -> Run:
        """Serve every request."""
        self._fill()
        wanted, events, step = self.scenario.workload.requests, 0, self.env.step
        served = self._served
        while len(served) < wanted:
            step()
            events += 1
        return Run(
            served=tuple(served),
            seconds=max(request.finished for request in served),
            draft=self._ledger.account(DRAFT, _wasted(served)),
            target=self._ledger.account(TARGET),
            events=events,
            records=tuple(self.records or ()),
        )

    def _hosts(self) -> tuple[VirtualDraft, VirtualTarget]:
        pair = self.scenario.pair
        draft = clock(pair.draft, self._stream(StreamPurpose.DRAFT_TIMES))
        target = clock(pair.target, self._stream(StreamPurpose.TARGET_TIMES))
        works = functools.partial(self._ledger.works, TARGET)
        return (
            VirtualDraft(draft, self._answer, works if isinstance(pair.draft, Measured) else None),
            VirtualTarget(
                target,
                self._answer,
                self._written_beside if isinstance(pair.target, Measured) else None,
            ),
        )

    def _written_beside(self, number: int) -> int:
        """Tokens that are written beside the passes of a request now."""
        decoding = self._open.get(number)
        return decoding.conversation.schedule.window if self._at_once and decoding else 0

    def _stream(self, purpose: StreamPurpose, number: int = 0) -> np.random.Generator:
        return stream(*self._luck, purpose, number)

    def _text(self, number: int) -> Text:
        return self.scenario.acceptance.text(self._stream(StreamPurpose.ACCEPTANCE, number), number)

    # -- requests ------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Let the workload begin, and whatever will go wrong."""
        load = self.scenario.workload
        prompts = load.prompt.draw(self._stream(StreamPurpose.LENGTHS, 0), load.requests)
        outputs = load.output.draw(self._stream(StreamPurpose.LENGTHS, 1), load.requests)
        check_tokens(sum(outputs), "the answers that were drawn")
        coming = deque(self._life(n, prompts[n], outputs[n]) for n in range(load.requests))
        match load.arrivals:
            case ClosedLoop(users=users):
                for _ in range(min(users, load.requests)):
                    self.env.process(_one_by_one(coming))
            case Poisson(rate=rate):
                gaps = self._stream(StreamPurpose.ARRIVALS).exponential(1 / rate, load.requests)
                self.env.process(self._arrive(coming, gaps.cumsum().tolist()))
            case Times(seconds=seconds):
                self.env.process(self._arrive(coming, seconds))
        for device in DEVICES:
            self.env.process(self._suffer([f for f in self.scenario.faults if f.device == device]))

    def _arrive(self, coming: deque[Process], times: Sequence[float]) -> Process:
        for request, at in zip(coming, times, strict=False):
            yield self._until(at)
            self.env.process(request)

    def _life(self, number: int, prompt: int, length: int) -> Process:
        """A request from its arrival to its last token."""
        arrived = self.env.now
        if self._slots is None:
            yield from self._decode(number, prompt, length, arrived)
            return
        with self._slots.request() as slot:
            yield slot
            yield from self._decode(number, prompt, length, arrived)

    def _decode(self, number: int, prompt: int, length: int, arrived: float) -> Process:
        decoding = Decoding(self, number, prompt, length, arrived)
        self._open[number] = decoding
        self._ledger.set(SERVING)
        for device in decoding.devices:
            self._workers[device].host.open(number, prompt, self._text(number), length)
        away = [device for device in decoding.devices if device not in self._usable]
        self._after_window = False
        decoding.conversation.begin(self.env.now, away)
        yield decoding.finished

    def _end(self, decoding: Decoding) -> None:
        number = decoding.conversation.number
        del self._open[number]
        if not self._open:
            self._ledger.clear(SERVING)
        for device in decoding.devices:
            self._workers[device].take(number, None)
        self._served.append(
            Served(
                number=number,
                prompt=decoding.prompt,
                arrived=decoding.arrived,
                began=decoding.began,
                finished=self.env.now,
                barren_runs=decoding.barren_runs,
                metrics=decoding.conversation.metrics(),
            )
        )
        decoding.finished.succeed()

    # -- messages ------------------------------------------------------------------------------

    def carry(self, device: Device, order: Order) -> None:
        """An order leaves for a device; one that is down never gets it."""
        worker = self._workers[device]
        if not worker.down:
            way_s = self._way_out(device, order.request) if self._timed else 0.0
            self._out[device].carry(order.request, order, worker.take, self._control_s + way_s)

    def _way_out(self, device: Device, number: int) -> float:
        ways = self._ways[device][self._written_beside(number) > 0]
        return ways.after_window if self._after_window else ways.after_verdict

    def _answer(self, number: int, event: Proposed | Judged) -> None:
        """A device has an answer; it travels back."""
        device = event.device
        way_s = self._way_back(device, number) if self._timed else 0.0
        self._back[device].carry(number, event, self._hear, way_s)

    def _way_back(self, device: Device, number: int) -> float:
        ways = self._ways[device][self._written_beside(number) > 0]
        other = TARGET if device == DRAFT else DRAFT
        return ways.beside if self._ledger.works(other) else ways.alone

    def _hear(self, number: int, event: Event) -> None:
        """An answer, if its request is still there to hear it."""
        decoding = self._open.get(number)
        if decoding is not None:
            self._tell(decoding, event)

    def _tell(self, decoding: Decoding, event: Event) -> None:
        """At this instant, but behind what has already begun: nobody is held up by what follows."""
        moment = self.env.timeout(0)
        moment.callbacks.append(lambda _: self._deliver(decoding, event))

    def _deliver(self, decoding: Decoding, event: Event) -> None:
        """What the real driver does: events in, tokens and orders out."""
        if decoding.finished.triggered:
            return
        self._after_window = isinstance(event, Proposed)
        decoding.conversation.hear(event, self.env.now)
        decoding.count_runs()
        if decoding.conversation.schedule.finish_reason is not None:
            self._end(decoding)

    # -- faults --------------------------------------------------------------------------------

    def _suffer(self, faults: Sequence[Fault]) -> Process:
        """The faults of one device, each from its beginning to its end."""
        for fault in sorted(faults, key=lambda fault: fault.at):
            yield self._until(fault.at)
            yield from self._bear(fault)

    def _bear(self, fault: Fault) -> Process:
        env, worker = self.env, self._workers[fault.device]
        match fault.kind:
            case FaultKind.SLOW:
                worker.slowness = fault.factor
                yield env.timeout(fault.seconds)
                worker.slowness = 1.0
            case FaultKind.CRASH:
                worker.crash()
                self._lose(fault.device)
                yield env.timeout(fault.seconds)
                worker.restart()
                self._regain(fault.device)
            case FaultKind.STALL:
                worker.stall(fault.seconds)
                if fault.device == TARGET or fault.seconds <= DRAFT_PATIENCE_S:
                    return
                yield env.timeout(DRAFT_PATIENCE_S)
                self._lose(fault.device)
                yield env.timeout(fault.seconds - DRAFT_PATIENCE_S)
                self._regain(fault.device)

    def _until(self, at: float) -> simpy.Event:
        """A moment, or this one: sums of differences may be a little ahead of it."""
        return self.env.timeout(max(0.0, at - self.env.now))

    def _lose(self, device: Device) -> None:
        self._usable.discard(device)
        self._tell_all(DeviceLost(device=device))

    def _regain(self, device: Device) -> None:
        self._usable.add(device)
        self._tell_all(DeviceBack(device=device))

    def _tell_all(self, news: DeviceLost | DeviceBack) -> None:
        for decoding in self._open.values():
            if news.device in decoding.devices:
                self._tell(decoding, news)


def _one_by_one(coming: deque[Process]) -> Process:
    """A user: the next request when the last one is done."""
    while coming:
        yield from coming.popleft()


def _wasted(served: list[Served]) -> float:
    """The share of the draft's tokens that no text has."""
    steps = sum(request.metrics.draft_steps for request in served)
    return 1 - sum(request.metrics.kept for request in served) / steps if steps else 0.0
