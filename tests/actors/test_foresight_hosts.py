"""A target that goes on before it is told, under a real scheduler: no order of events misleads it.

Everything here is real but the models and the network: the scheduler with its packets, its
foresight and its losses, both hosts, the bytes of the wire. The network keeps the order on each
connection, as TCP does, and is free in all else: who is heard next, who works next, when a device
dies, loads, or is given up. Then the same where packets also come twice, late, or not at all.
"""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final, cast, final

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pearl.actors.hosts import Host, Judging, draft_host, target_host
from pearl.actors.peers import Peer
from pearl.actors.runners.interface import Feed
from pearl.actors.scheduler import Scheduler
from pearl.actors.wire import (
    Alive,
    AnyPacket,
    Beat,
    Failed,
    Finished,
    Hello,
    JobDone,
    Submit,
    ToDevice,
    Tokens,
    frame,
)
from pearl.decoding.desks import TargetDesk
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.messages import (
    DEVICES,
    DRAFT,
    TARGET,
    Device,
    Foresight,
    Judge,
    Judged,
    Order,
    TokenId,
)
from pearl.decoding.policies import Gamma
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason, StopRules
from pearl.decoding.text import Detokenizer
from pearl.decoding.verification import VERIFIERS, make_verifier
from tests.actors.connections import Wire
from tests.actors.toys import ToyRunner
from tests.decoding.learning import fickle
from tests.decoding.toys import Logits, Model, Prefix, autoregressive, blend, only, table

VOCAB: Final = 8
SPOKEN: Final = range(6)
"""What the target can say; the draft says anything."""
LETTERS: Final = "abcdefgh"
PROMPTS: Final[Sequence[Prefix]] = ((1, 2, 3), (4,), (5, 5))
MOST_STEPS: Final = 6000
MOST_DEATHS: Final = 2  # of the target; with three in a row the scheduler gives a request up
COMMON: Final = 4  # how likely a move is of which nothing is said
TABLE: Final = table(VOCAB, seed=3)
SPEAKER: Final = only(TABLE, SPOKEN)


def spelled(tokens: Sequence[TokenId]) -> str:
    return "".join(LETTERS[token] for token in tokens)


# -- the world -------------------------------------------------------------------------------------


class Move(enum.Enum):
    """What can happen next to a device."""

    DIAL = enum.auto()
    LOAD = enum.auto()
    TAKE = enum.auto()
    TURN = enum.auto()
    HEAR = enum.auto()


class Trouble(enum.Enum):
    """What happens once, before some move."""

    DRAFT_DIES = enum.auto()
    TARGET_DIES = enum.auto()
    TARGET_IS_REPLACED = enum.auto()  # it dials in anew before its old connection has ended
    DRAFT_IS_GIVEN_UP = enum.auto()
    TARGET_IS_GIVEN_UP = enum.auto()
    DRAFT_IS_CUT = enum.auto()  # its connection ends, and it lives and dials again
    TARGET_IS_CUT = enum.auto()
    NO_ROOM_FOR_ALL = enum.auto()  # the next pass over several requests fails, once
    # No stream does the following.
    TO_TARGET_TWICE = enum.auto()
    TO_TARGET_LATE = enum.auto()  # a job that was taken before comes once more
    TO_DRAFT_TWICE = enum.auto()
    TO_DRAFT_LATE = enum.auto()
    AHEAD_IS_LOST = enum.auto()


ORDERLY: Final = tuple(Trouble)[:8]


@final
class Process:
    """A device from when it dials in to its death, with its connection."""

    def __init__(self, role: Device, scheduler: Scheduler, model: Model, tick: float) -> None:
        ticks = itertools.count()
        self.runner = ToyRunner(model, vocab_size=VOCAB)
        make = draft_host if role == DRAFT else target_host
        self.host: Host = make(self.runner, lambda: tick * next(ticks))
        self.loaded = False
        self.sent: deque[AnyPacket] = deque()
        self.taken: list[ToDevice] = []
        self.ahead = 0
        """Verdicts on jobs that no command had named yet."""
        self.mistaken = 0
        """Commands that were not what had been begun."""
        self._named: set[tuple[int, int, int]] = set()
        self._role = role
        self._peer: Peer
        self.dial(scheduler)

    def dial(self, scheduler: Scheduler, *, again: bool = False) -> None:
        """Connect; one whose connection was cut is as it was, and knows of no request."""
        self.wire = Wire()
        self.sent.clear()
        self._peer = Peer(scheduler)
        self._peer.connection_made(self.wire)
        hello = Hello(secret=scheduler._secret, device=self._role, again=again)
        self._peer.data_received(frame(hello))
        self.host.forget()
        if self.loaded:
            self.sent.append(self.host.alive())

    def fail_in_company(self) -> None:
        """The next pass over more than one request fails."""
        forward = self.runner.forward

        def failing(feeds: Sequence[Feed]) -> list[Any]:
            if len(feeds) > 1:
                self.runner.forward = forward  # type: ignore[method-assign]
                raise MemoryError
            return forward(feeds)

        self.runner.forward = failing  # type: ignore[method-assign]

    def moves(self) -> Iterator[Move]:
        if not self.loaded:
            yield Move.LOAD
        elif self.wire.packets:
            yield Move.TAKE
        if self.host.busy:
            yield Move.TURN
        if self.sent:
            yield Move.HEAR

    def make(self, move: Move) -> None:
        match move:
            case Move.LOAD:
                self.loaded = True
                self.sent.append(Alive())
            case Move.TAKE:
                self._take(cast("ToDevice", self.wire.packets.popleft()))
            case Move.TURN:
                self._turn()
            case _:
                self._peer.data_received(frame(self.sent.popleft()))
                assert not self.wire.is_closing(), "the scheduler hung up"

    def die(self, heard: int) -> None:
        """Of what it had sent, so much is heard; then the connection ends."""
        while self.sent and heard:
            self.make(Move.HEAR)
            heard -= 1
        self._peer.connection_lost(None)

    def _take(self, packet: ToDevice) -> None:
        self.taken.append(packet)
        if isinstance(packet, Order) and isinstance(job := packet.command, Judge):
            self._named.add((packet.request, job.job, job.epoch))
            self.mistaken += _desk(self.host)._own.get(packet.request, job) != job
        self.sent.extend(self.host.take(packet))

    def _turn(self) -> None:
        for answer in self.host.turn():
            if isinstance(answer, JobDone) and isinstance(event := answer.event, Judged):
                self.ahead += (answer.request, event.job, event.epoch) not in self._named
            self.sent.append(answer)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run, as it is drawn."""

    requests: tuple[Settings, ...]
    eos: tuple[TokenId, ...] = ()
    share: float = 0.7
    """Of the target's logits in the draft's."""
    draft_tick: float = 1.0
    """Of the draft's clock; the target's is 1."""
    likely: Mapping[tuple[Device, Move], int] = dataclasses.field(default_factory=dict)
    troubles: Mapping[int, Trouble] = dataclasses.field(default_factory=dict)
    guilty: tuple[Device, int] | None = None
    """Who cannot read the first request beyond so many tokens."""
    seed: int = 0


@final
class World:
    """A scheduler, its devices and a client, and whatever comes between them."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._random = Random(case.seed)
        draft = blend(TABLE, table(VOCAB, seed=4), case.share)
        self._models = {TARGET: SPEAKER, DRAFT: draft}
        if case.guilty is not None:
            role, length = case.guilty
            self._models[role] = _choking(self._models[role], PROMPTS[0], length)
        self._cut: dict[Device, Process] = {}
        self.failed: dict[int, str] = {}
        self.scheduler = Scheduler(restarts=True)
        self.scheduler._text = Detokenizer(spelled)
        self.processes: dict[Device, Process | None] = dict.fromkeys(DEVICES)
        self.ahead = self.mistaken = self._deaths = self._submitted = 0
        self._calm = False
        self._heard = Wire()
        self._client = Peer(self.scheduler)
        self._client.connection_made(self._heard)
        self._client.data_received(frame(Hello(secret=self.scheduler._secret)))
        self.tokens: dict[int, Prefix] = {}
        self.reasons: dict[int, FinishReason | None] = {}

    def run(self) -> None:
        """To the end of all requests, then until nothing is under way."""
        for step in range(MOST_STEPS):
            if not self._calm and (trouble := self._case.troubles.get(step)) is not None:
                self._trouble(trouble)
            if self._submitted < len(self._case.requests) and self._random.random() < 1 / 8:
                self._submit()
            moves = self._moves()
            if not moves and self._ended:
                return
            if moves:
                likely = [self._case.likely.get(move, COMMON) for move in moves]
                self._make(*self._random.choices(moves, likely)[0])
            elif self._submitted == len(self._case.requests):
                self._stuck()
        raise AssertionError(f"somebody works for ever: {self.tokens}")

    @property
    def _ended(self) -> bool:
        return len(self.reasons) + len(self.failed) == len(self._case.requests)

    def _moves(self) -> list[tuple[Device, Move]]:
        found = []
        for role, process in self.processes.items():
            if process is None:
                found.append((role, Move.DIAL))
            else:
                found += [(role, move) for move in process.moves()]
        return found

    def _make(self, role: Device, move: Move) -> None:
        process = self.processes[role]
        if process is not None:
            before = process.ahead, process.mistaken
            process.make(move)
            self.ahead += process.ahead - before[0]
            self.mistaken += process.mistaken - before[1]
        elif (living := self._cut.pop(role, None)) is not None:
            living.dial(self.scheduler, again=True)
            self.processes[role] = living
        else:
            tick = self._case.draft_tick if role == DRAFT else 1.0
            self.processes[role] = Process(role, self.scheduler, self._models[role], tick)
        self._listen()

    def _submit(self) -> None:
        number = self._submitted
        self._submitted += 1
        submit = Submit(
            request=number,
            prompt=PROMPTS[number],
            eos=self._case.eos,
            settings=self._case.requests[number],
            trace=True,
        )
        self._client.data_received(frame(submit))
        self._listen()

    def _listen(self) -> None:
        while self._heard.packets:
            match self._heard.packets.popleft():
                case Tokens(request=request, tokens=tokens):
                    self.tokens[request] = self.tokens.get(request, ()) + tokens
                case Finished(request=request, reason=reason):
                    assert request not in self.reasons, "finished twice"
                    self.reasons[request] = reason
                case Beat():
                    pass
                case Failed(request=0 as request, message=message) if self._case.guilty:
                    self.failed[request] = message
                case other:
                    raise AssertionError(f"the client was told {other}")

    def _stuck(self) -> None:
        """Nobody has anything to do: only what no stream does excuses it, and one restart helps."""
        orderly = set(self._case.troubles.values()) <= set(ORDERLY)
        excused = not orderly and not self._calm
        assert excused, f"everybody waits for ever: {self.tokens}"
        self._calm = True
        for role in DEVICES:
            self._kill(role)

    def _kill(self, role: Device) -> None:
        process = self.processes[role]
        if process is not None:
            process.die(heard=self._random.randrange(3))
            self.processes[role] = None
            self._deaths += role == TARGET
        self._listen()

    def _cut_off(self, role: Device) -> None:
        process = self.processes[role]
        if process is not None and process.loaded:
            process.die(heard=self._random.randrange(3))
            self.processes[role] = None
            self._cut[role] = process
        self._listen()

    def _trouble(self, trouble: Trouble) -> None:
        draft, target = self.processes[DRAFT], self.processes[TARGET]
        match trouble:
            case Trouble.DRAFT_DIES:
                self._kill(DRAFT)
            case Trouble.TARGET_DIES if self._deaths < MOST_DEATHS:
                self._kill(TARGET)
            case Trouble.TARGET_IS_REPLACED if target and self._deaths < MOST_DEATHS:
                self._deaths += 1
                self.processes[TARGET] = None
                self._make(TARGET, Move.DIAL)
                target.die(heard=0)
            case Trouble.DRAFT_IS_GIVEN_UP if draft and draft.loaded:
                self.scheduler._dispatch.lose(DRAFT, "given up by the test")
                self._listen()
            case Trouble.TARGET_IS_GIVEN_UP if target and target.loaded:
                self.scheduler._dispatch.lose(TARGET, "given up by the test")
                self._listen()
            case Trouble.DRAFT_IS_CUT:
                self._cut_off(DRAFT)
            # Until it dials again nobody can tell it from a death.
            case Trouble.TARGET_IS_CUT if self._deaths < MOST_DEATHS:
                self._deaths += 1
                self._cut_off(TARGET)
            case Trouble.NO_ROOM_FOR_ALL:
                for process in filter(None, (draft, target)):
                    process.fail_in_company()
            case _:
                self._misroute(trouble)

    def _misroute(self, trouble: Trouble) -> None:
        """What no stream does."""
        draft, target = self.processes[DRAFT], self.processes[TARGET]
        match trouble:
            case Trouble.TO_TARGET_TWICE if target:
                _again(target, target.wire.packets)
            case Trouble.TO_TARGET_LATE if target:
                _again(target, target.taken)
            case Trouble.TO_DRAFT_TWICE if draft:
                _again(draft, draft.wire.packets)
            case Trouble.TO_DRAFT_LATE if draft:
                _again(draft, draft.taken)
            case Trouble.AHEAD_IS_LOST if target:
                packets = target.wire.packets
                kept = [packet for packet in packets if not _is_ahead(packet)]
                packets.clear()
                packets.extend(kept)
            case _:
                pass  # there is nothing that it could happen to


def _desk(host: Host) -> TargetDesk:
    """Of a target."""
    work = host._work
    assert isinstance(work, Judging)
    return work._desk


def _ahead(packet: AnyPacket) -> Foresight | None:
    """What a packet says of the job that will follow."""
    if not isinstance(packet, Order):
        return None
    return packet.command if isinstance(packet.command, Foresight) else packet.foresight


def _is_ahead(packet: AnyPacket) -> bool:
    """Whether it says nothing else."""
    return isinstance(packet, Order) and isinstance(packet.command, Foresight)


def _choking(model: Model, prompt: Prefix, length: int) -> Model:
    """A model that cannot read texts of this prompt beyond so many tokens."""

    def choking(prefix: Prefix) -> Logits:
        if prefix[: len(prompt)] == prompt and len(prefix) > len(prompt) + length:
            raise ArithmeticError("cannot be read")
        return model(prefix)

    return choking


def _again(process: Process, packets: Sequence[AnyPacket]) -> None:
    """The last job among these comes once more, behind all that is under way."""
    jobs = [packet for packet in packets if isinstance(packet, Order)]
    process.wire.packets.extend(jobs[-1:])


# -- what is drawn ---------------------------------------------------------------------------------


GAMMAS: Final[st.SearchStrategy[Gamma]] = st.sampled_from([1, 2, 3, 5, "auto"])


@st.composite
def requests(draw: st.DrawFn) -> Settings:
    schedule = draw(st.sampled_from(sorted(SCHEDULES)))
    parallel = schedule == "pearl"
    verifier = draw(st.sampled_from(sorted(VERIFIERS)))
    temperature = 0.0 if verifier == "greedy" else draw(st.sampled_from([0.5, 1.0]))
    return Settings(
        schedule=schedule,
        gamma=draw(GAMMAS),
        head_start=draw(st.sampled_from([0, 0, 1, 3])) if parallel else 0,
        strict=parallel and draw(st.booleans()),
        verifier=verifier,
        sampling=Sampling(temperature=temperature),
        seed=draw(st.integers(0, 5)),
        max_new_tokens=draw(st.integers(1, 30)),
        stop=draw(st.sampled_from([(), (), ("ab",), ("f",)])),
    )


@st.composite
def cases(draw: st.DrawFn, troubles: Sequence[Trouble]) -> Case:
    moves = st.tuples(st.sampled_from(DEVICES), st.sampled_from(Move))
    return Case(
        requests=tuple(draw(st.lists(requests(), min_size=1, max_size=len(PROMPTS)))),
        eos=draw(st.sampled_from([(), (), (3,)])),
        share=draw(st.sampled_from([0.0, 0.6, 0.8, 1.0])),
        draft_tick=draw(st.sampled_from([0.1, 1.0, 10.0])),
        likely=draw(st.dictionaries(moves, st.sampled_from([1, 40]), max_size=6)),
        troubles=draw(st.dictionaries(st.integers(0, 150), st.sampled_from(troubles), max_size=8)),
        seed=draw(st.integers(0, 2**16)),
    )


def _alone(asked: Settings, prompt: Prefix, eos: Sequence[TokenId]) -> Prefix:
    """What the target says with nobody's help, one token at a time."""

    def after_prompt(text: Prefix) -> Logits:
        return cast("Logits", SPEAKER(prompt + text).astype(np.float32))

    stop = StopRules(
        limit=asked.max_new_tokens,
        eos=frozenset(eos),
        strings=asked.stop,
        text=Detokenizer(spelled),
    )
    verifier = make_verifier(asked.effective_verifier, asked.sampling, asked.seed)
    return autoregressive(after_prompt, verifier, stop)


def _check(case: Case) -> World:
    """Run it: the text is the target's own, whoever waits is told, and nothing is left behind."""
    world = World(case)
    world.run()
    for number, asked in enumerate(case.requests):
        if number in world.failed:
            assert "failed with ArithmeticError: cannot be read" in world.failed[number]
        elif asked.effective_verifier == "rejection":  # another sample of the same law
            assert set(world.tokens[number]) <= set(SPOKEN)
            assert len(world.tokens[number]) <= asked.max_new_tokens
        else:
            assert world.tokens[number] == _alone(asked, PROMPTS[number], case.eos)
    return world


# -- claims ----------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=300)
@given(case=cases(ORDERLY))
def test_in_any_order_the_text_is_the_targets_own_and_nobody_waits_for_ever(case: Case) -> None:
    """Deaths and restarts included. Each command is answered: else all would come to a stop."""
    world = _check(case)

    for process in world.processes.values():
        assert process is not None
        assert process.runner.rows == 0
        assert not process.host.busy
        if isinstance(work := process.host._work, Judging):
            desk = work._desk
            assert [desk._done, desk._foresight, desk._own, work._held] == [{}] * 4


@pytest.mark.slow
@settings(max_examples=300)
@given(case=cases(ORDERLY), role=st.sampled_from(DEVICES), length=st.integers(0, 12))
def test_a_request_that_cannot_be_read_fails_alone(case: Case, role: Device, length: int) -> None:
    """Whatever else happens: the others end as if it had never been."""
    world = _check(dataclasses.replace(case, guilty=(role, length)))

    for process in world.processes.values():
        assert process is not None
        assert process.runner.rows == 0


def test_such_a_request_does_fail() -> None:
    """So that the claim above is one of failures."""
    asked = (Settings(gamma=2, max_new_tokens=20),) * 3
    worlds = [_check(Case(requests=asked, guilty=(role, 4), seed=3)) for role in DEVICES]

    assert [list(world.failed) for world in worlds] == [[0], [0]]


@pytest.mark.slow
@settings(max_examples=300)
@given(case=cases(tuple(Trouble)))
def test_what_comes_twice_or_late_or_never_misleads_nobody(case: Case) -> None:
    """A restart may be needed then, and is enough."""
    _check(case)


EAGER: Final = {(TARGET, Move.TURN): 400, (TARGET, Move.TAKE): 1}
"""A target that rather works than listens."""


def _fickle(case: Case) -> World:
    """As `_check`, with plans that take another gamma after each window, resting or not."""
    with pytest.MonkeyPatch.context() as patched:
        fickle(patched, case.seed)
        return _check(case)


@pytest.mark.slow
@settings(max_examples=200)
@given(case=cases(ORDERLY))
def test_a_plan_that_changes_its_mind_leaves_nobody_waiting(case: Case) -> None:
    """What was foreseen is then not what is asked: the command that comes has the last word."""
    capricious = tuple(
        msgspec.structs.replace(asked, schedule="sd", gamma="auto", head_start=0, strict=False)
        for asked in case.requests
    )
    _fickle(dataclasses.replace(case, requests=capricious))


def test_such_a_plan_is_foreseen_wrongly_now_and_then() -> None:
    """So that the claim above is not an empty one."""
    asked = Settings(schedule="sd", gamma="auto", max_new_tokens=60)
    worlds = [_fickle(Case(requests=(asked,), likely=EAGER, seed=seed)) for seed in range(5)]

    assert sum(world.mistaken for world in worlds) > 0


@pytest.mark.parametrize(
    ("schedule", "ahead"),
    [
        (Settings(schedule="ar"), True),
        (Settings(gamma=2), True),
        (Settings(gamma=2, strict=True), True),
        (Settings(gamma="auto"), True),
        (Settings(gamma=2, sampling=Sampling(temperature=1.0)), True),
        (Settings(gamma=2, head_start=2), True),
        (Settings(schedule="sd", gamma=2), False),
        (
            Settings(gamma=2, verifier="rejection", sampling=Sampling(temperature=1.0)),
            False,
        ),
    ],
    ids=["AR", "PEARL", "strict", "auto", "coupled", "head start", "SD", "rejection"],
)
def test_the_target_judges_what_it_foresaw_before_it_is_asked(
    schedule: Settings,
    ahead: bool,  # noqa: FBT001 - pytest gives it by name
) -> None:
    """So what is claimed above is claimed of something. A row that is held foretells nothing."""
    worlds = [
        _check(Case(requests=(schedule,), share=0.9, likely=EAGER, seed=seed)) for seed in range(5)
    ]

    assert (sum(world.ahead for world in worlds) > 0) is ahead


@pytest.mark.parametrize(
    "schedule",
    [
        Settings(schedule="ar", max_new_tokens=60),
        Settings(gamma=3, max_new_tokens=60),
        Settings(gamma=3, strict=True, max_new_tokens=60),
        Settings(gamma=3, sampling=Sampling(temperature=1.0), max_new_tokens=60),
    ],
    ids=["AR", "PEARL", "strict", "coupled"],
)
def test_a_command_that_was_foreseen_is_not_judged_twice(schedule: Settings) -> None:
    """As many passes as commands: none was made in vain, and none once more."""
    world = _check(Case(requests=(schedule,), likely=EAGER))
    target = world.processes[TARGET]

    assert target is not None
    commands = [
        packet for packet in target.taken if isinstance(packet, Order) and not _is_ahead(packet)
    ]
    known = [_ahead(p) for p in target.taken if _ahead(p)]
    assert world.ahead > 0
    assert world.mistaken == 0
    assert len(target.runner.forwards) == len(commands)
    assert all(one != other for one, other in itertools.pairwise(known)), "told twice"
