"""What two numbers make of a run, against the rule itself, walked round by round."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pearl.decoding import rounds
from pearl.decoding.rounds import RoundTimes

LENGTHS = np.arange(40)
NUMBERS = [
    (before, beside) for before in (0, 1, 3, 7) for beside in (0, 1, 2, 5) if before or beside
]
TIMES = RoundTimes(before=2.0, beside=5.0, first=4.0, later=3.0)
numbers = pytest.mark.parametrize(("before", "beside"), NUMBERS)


@dataclasses.dataclass(slots=True)
class Walk:
    """One run, as the rule at the top of `pearl.decoding.schedules` goes on."""

    tokens: int = 0
    first: int = 0
    later: int = 0
    steps: int = 0
    kept: int = 0
    rejections: int = 0
    seconds: float = 0.0
    spared: float = 0.0  # seconds of windows for which nobody waits without a barrier


def walked(length: int, before: int, beside: int, times: RoundTimes) -> Walk:
    found, place, pending = Walk(), 0, None
    window = times.beside if beside else 0.0
    while not found.rejections and place <= length:
        if pending is None:  # nothing is: the draft writes ahead
            found.first, judge, pending = found.first + 1, times.first, before
            found.steps += before
            found.seconds += times.before if before else 0.0
        else:
            found.later, judge = found.later + 1, times.later
        found.steps += beside
        found.seconds += max(window, judge)
        kept = min(pending, length - place)
        found.kept += kept
        place += kept
        if kept < pending:
            found.rejections, found.spared = 1, max(window - judge, 0.0)
        elif not beside:
            place, pending = place + 1, None  # the bonus token
        elif place < length:  # the target says the window's first token, too
            found.kept, place, pending = found.kept + 1, place + 1, beside - 1
        else:
            found.rejections = 1
    found.tokens = place + found.rejections
    return found


@numbers
def test_counts_are_those_of_the_rule(before: int, beside: int) -> None:
    found = rounds.of_run(LENGTHS, before, beside)

    walks = [walked(length, before, beside, TIMES) for length in LENGTHS.tolist()]
    for name in ("tokens", "first", "later", "steps", "kept", "rejections"):
        counted = np.broadcast_to(getattr(found, name), LENGTHS.shape)
        assert counted.tolist() == [getattr(walk, name) for walk in walks], name


@numbers
@pytest.mark.parametrize("window", [1.0, 3.5, 5.0])
def test_seconds_are_those_of_the_rule(before: int, beside: int, window: float) -> None:
    """Windows are in time, late for some passes, or for all; without a barrier some are spared."""
    times = RoundTimes(
        before=2.0 if before else 0.0, beside=window if beside else 0.0, first=4.0, later=3.0
    )
    walks = [walked(length, before, beside, times) for length in LENGTHS.tolist()]

    barrier, none = (
        rounds.of_run(LENGTHS, before, beside, barrier=each).seconds(times)
        for each in (True, False)
    )

    assert barrier.tolist() == [walk.seconds for walk in walks]
    assert none.tolist() == [walk.seconds - walk.spared for walk in walks]


def test_the_target_alone_makes_a_pass_for_every_token() -> None:
    found = rounds.of_run(LENGTHS, 0, 0)

    assert found.passes.tolist() == found.tokens.tolist() == (LENGTHS + 1).tolist()
    assert found.steps == found.kept == found.rejections == 0


@numbers
def test_several_windows_are_answered_at_once(before: int, beside: int) -> None:
    """A column of runs and a row of windows make a table."""
    width = np.arange(1, 4)
    both = before + width if not beside else before, beside + width if beside else 0

    table = rounds.of_run(LENGTHS[:, None], *both)

    for column, number in enumerate(width.tolist()):
        single = rounds.of_run(
            LENGTHS, before if beside else before + number, beside + number if beside else 0
        )
        assert np.broadcast_to(table.passes, (40, 3))[:, column].tolist() == single.passes.tolist()


@numbers
def test_a_part_of_a_run_is_what_makes_a_longer_one_longer(before: int, beside: int) -> None:
    """Twelve whole windows more, wherever they begin."""
    kept = 12 * (beside or before)
    further = kept if beside else kept + 12  # a bonus token for each window
    short = rounds.of_run(LENGTHS[before + 1 :], before, beside)
    long = rounds.of_run(LENGTHS[before + 1 :] + further, before, beside)

    part = rounds.of_part(kept, before, beside)

    for name in ("tokens", "first", "later", "steps", "kept", "rejections"):
        differences = np.asarray(getattr(long, name)) - np.asarray(getattr(short, name)).astype(int)
        assert set(differences.ravel().tolist()) == {getattr(part, name)}, name


@numbers
def test_runs_of_kept_tokens_are_those_with_a_place_for_every_bonus_token(
    before: int, beside: int
) -> None:
    found = rounds.of_kept(LENGTHS, before, beside)

    lengths = LENGTHS if beside else LENGTHS + LENGTHS // before
    same = rounds.of_run(lengths, before, beside)
    for field in dataclasses.fields(found):
        one, other = getattr(found, field.name), getattr(same, field.name)
        assert np.all(np.asarray(one) == np.asarray(other)), field.name
    assert found.kept.tolist() == LENGTHS.tolist()
    assert np.all(found.rejections)
