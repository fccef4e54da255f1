"""Runners that say what a script says, whatever they work with; no time passes here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import final

import pytest
from torch import Tensor

from pearl.actors.runners import stand_in
from pearl.actors.runners.stand_in import SPIN_S, ScriptedRunner, TimedRunner
from pearl.actors.scripts import POSITIONS, PROMPT_TOKENS, Script
from pearl.decoding.errors import PromptError
from pearl.decoding.messages import Role
from pearl.decoding.sampling import Sampling
from pearl.decoding.verification import make_verifier
from tests.actors.runners.models import feed
from tests.actors.toys import ToyRunner
from tests.decoding.toys import table

SCRIPT = Script(acceptance=0.5, vocabulary=64)
PROMPT = SCRIPT.prompt("a text")
TICK = 1e-6


@final
@dataclasses.dataclass
class Clock:
    """In place of the module `time`: to sleep is to move it on, and so is to look at it."""

    now: float = 0.0
    slept: list[float] = dataclasses.field(default_factory=list)

    def perf_counter(self) -> float:
        self.now += TICK
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stand_in, "time", clock)
    return clock


def _toy() -> ToyRunner:
    """It says nothing that matters, and refuses what no runner takes."""
    return ToyRunner(table(64, seed=1), vocab_size=64)


def _words(logits: Tensor) -> list[int]:
    return [int(word) for word in logits.argmax(dim=-1)]


def _target(prompt: Sequence[int], start: int, count: int) -> list[int]:
    return [SCRIPT.token(prompt, place) for place in range(start, start + count)]


def _draft(prompt: Sequence[int], start: int, count: int) -> list[int]:
    return [SCRIPT.guess(prompt, place) for place in range(start, start + count)]


# -- what is said ----------------------------------------------------------------------------------


def test_the_target_says_the_script_and_the_draft_its_guesses() -> None:
    """Each row of logits speaks of the token behind the one that was read."""
    says = {Role.TARGET: _target, Role.DRAFT: _draft}
    for role, expected in says.items():
        runner = ScriptedRunner(_toy(), SCRIPT, role)
        row = runner.allocate(40)

        first = runner.forward([feed(row, 0, PROMPT, logits=1)])[0]
        window = runner.forward([feed(row, 8, [1, 2, 3, 4])])[0]

        assert _words(first) == expected(PROMPT, 8, 1)
        assert _words(window) == expected(PROMPT, 9, 4)


def test_what_was_read_before_changes_nothing() -> None:
    """Only the prompt does, also after a rollback."""
    runner = ScriptedRunner(_toy(), SCRIPT, Role.TARGET)
    row = runner.allocate(40)
    runner.forward([feed(row, 0, [*PROMPT, 9, 9, 9])])

    again = runner.forward([feed(row, 9, [5, 6])])[0]

    assert _words(again) == _target(PROMPT, 10, 2)


def test_rows_speak_of_their_own_texts() -> None:
    runner = ScriptedRunner(_toy(), SCRIPT, Role.TARGET)
    prompts = [SCRIPT.prompt(name) for name in "ab"]
    rows = [runner.allocate(40) for _ in prompts]
    runner.forward([feed(row, 0, prompt) for row, prompt in zip(rows, prompts, strict=True)])

    said = runner.forward([feed(rows[1], 8, [1]), feed(rows[0], 8, [1, 1])])

    assert [_words(logits) for logits in said] == [
        _target(prompts[1], 9, 1),
        _target(prompts[0], 9, 2),
    ]


def test_a_row_that_is_used_again_has_forgotten_its_text() -> None:
    runner = ScriptedRunner(_toy(), SCRIPT, Role.TARGET)
    row = runner.allocate(40)
    runner.forward([feed(row, 0, PROMPT)])
    runner.release(row)
    other = SCRIPT.prompt("another text")
    row = runner.allocate(40)

    said = runner.forward([feed(row, 0, other, logits=1)])[0]

    assert _words(said) == _target(other, 8, 1)


def test_a_row_that_is_read_from_its_beginning_has_the_new_text() -> None:
    """A feed from 0 forgets all that there was."""
    runner = ScriptedRunner(_toy(), SCRIPT, Role.TARGET)
    row = runner.allocate(40)
    runner.forward([feed(row, 0, PROMPT)])
    other = SCRIPT.prompt("another text")

    said = runner.forward([feed(row, 0, other, logits=1)])[0]

    assert _words(said) == _target(other, 8, 1)


def test_nothing_is_said_where_nothing_is_asked() -> None:
    runner = ScriptedRunner(_toy(), SCRIPT, Role.TARGET)

    (logits,) = runner.forward([feed(runner.allocate(8), 0, PROMPT, logits=0)])

    assert logits.shape == (0, SCRIPT.vocabulary)


@pytest.mark.parametrize("seed", range(20))
def test_at_temperature_1_nothing_but_the_script_is_drawn(seed: int) -> None:
    runner = ScriptedRunner(_toy(), SCRIPT, Role.TARGET)
    (logits,) = runner.forward([feed(runner.allocate(8), 0, PROMPT)])
    sampling = Sampling(temperature=1.0)
    for name in ("coupled", "rejection"):
        verifier = make_verifier(name, sampling, seed)

        drawn = [
            token
            for place in range(len(PROMPT))
            for token in verifier.draft(logits[place : place + 1], place).tokens
        ]

        assert drawn == _target(PROMPT, 1, len(PROMPT))


# -- what is done ----------------------------------------------------------------------------------


def test_the_runner_inside_reads_all_that_is_fed() -> None:
    """A shape is as fast as a model only when it does the same work."""
    inner = _toy()
    runner = ScriptedRunner(inner, SCRIPT, Role.DRAFT)
    rows = [runner.allocate(20), runner.allocate(20)]
    feeds = [feed(rows[0], 0, PROMPT, logits=1), feed(rows[1], 0, PROMPT, logits=0)]

    runner.forward(feeds)
    runner.forward([feed(rows[0], 8, [1])])

    assert inner.forwards == [tuple(feeds), (feed(rows[0], 8, [1]),)]
    assert runner.statistics() == inner.statistics()
    assert (runner.positions, runner.vocab_size) == (inner.positions, SCRIPT.vocabulary)
    runner.release(rows[0])
    assert inner.rows == 1


@final
class Begun:
    """Logits on a GPU: whoever asks for a number waits for the pass."""

    waited = False

    def __getitem__(self, _: object) -> Begun:
        return self

    def sum(self) -> Begun:
        return self

    def __float__(self) -> float:
        self.waited = True
        return 0.0


def test_a_pass_is_over_when_the_script_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a shape on a GPU would be as fast as its launches."""
    inner, logits = _toy(), Begun()
    monkeypatch.setattr(inner, "forward", lambda _: [logits])
    runner = ScriptedRunner(inner, SCRIPT, Role.TARGET)

    runner.forward([feed(runner.allocate(20), 0, PROMPT)])

    assert logits.waited


def test_a_pass_takes_its_time_whatever_is_read(clock: Clock) -> None:
    """Most of it asleep; a sleeper wakes up late, so the end is waited for awake."""
    runner = TimedRunner(lambda _: 0.010)
    rows = [runner.allocate(4000) for _ in range(3)]
    for feeds in ([feed(rows[0], 0, PROMPT)], [feed(row, 0, [1] * 3000) for row in rows]):
        began = clock.now

        assert runner.forward(feeds) == []

        assert clock.now - began == pytest.approx(0.010, abs=3 * TICK)
    assert clock.slept == [pytest.approx(0.010 - SPIN_S)] * 2


@pytest.mark.parametrize("seconds", [0.0, SPIN_S / 2])
def test_a_short_pass_does_not_sleep(clock: Clock, seconds: float) -> None:
    runner = TimedRunner(lambda _: seconds)

    runner.forward([feed(runner.allocate(8), 0, PROMPT)])

    assert sum(clock.slept) == 0
    assert clock.now == pytest.approx(seconds, abs=3 * TICK)


def test_a_late_sleeper_waits_no_longer(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def oversleep(seconds: float) -> None:
        clock.now += seconds + 0.005

    monkeypatch.setattr(clock, "sleep", oversleep)
    runner = TimedRunner(lambda _: 0.010)

    runner.forward([feed(runner.allocate(8), 0, PROMPT)])

    assert clock.now == pytest.approx(0.015 - SPIN_S, abs=3 * TICK)


def test_a_timed_device_counts_its_passes_and_holds_no_cache(clock: Clock) -> None:
    del clock
    runner = TimedRunner(lambda _: 0.001)
    rows = [runner.allocate(20), runner.allocate(20)]
    runner.forward([feed(row, 0, PROMPT) for row in rows])
    runner.forward([feed(rows[0], 8, [1, 2])])

    counted = runner.statistics()

    assert (counted.passes, counted.tokens) == (2, 2 * PROMPT_TOKENS + 2)
    assert (counted.rows, counted.padding, counted.cache_bytes) == (2, 0, 0)


def test_a_timed_device_gives_the_lowest_free_row() -> None:
    runner = TimedRunner(lambda _: 0.0)
    rows = [runner.allocate(8) for _ in range(3)]
    runner.release(rows[1])

    assert rows == [0, 1, 2]
    assert runner.allocate(8) == 1
    assert runner.statistics().rows == 3


def test_a_timed_device_has_an_end() -> None:
    runner = TimedRunner(lambda _: 0.0)

    with pytest.raises(PromptError) as refused:
        runner.allocate(POSITIONS + 1)

    assert str(refused.value) == (
        f"{POSITIONS + 1} positions asked for; a timed device holds {POSITIONS}"
    )
    assert runner.allocate(POSITIONS) == 0


def test_a_scripted_timed_device_works_like_any_other(clock: Clock) -> None:
    """What a stand-in without a shape is made of."""
    runner = ScriptedRunner(TimedRunner(lambda _: 0.002), SCRIPT, Role.TARGET)
    row = runner.allocate(20)

    said = runner.forward([feed(row, 0, PROMPT, logits=1)])[0]

    assert _words(said) == _target(PROMPT, 8, 1)
    assert clock.now == pytest.approx(0.002, abs=3 * TICK)
    assert runner.positions == POSITIONS
    assert runner.statistics().passes == 1
