"""`gamma="auto"` chooses its window from what it sees.

Whether that window is the one that theory says is a matter of both clocks: tests/agreement.
"""

from __future__ import annotations

import itertools
import random
import statistics

import pytest

from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES, ScheduleKind
from pearl.decoding.measured import Measurements, Wait
from pearl.decoding.policies import AutoPolicy, FixedPolicy
from tests.decoding.learning import flat, judged, learn, timed, window, windows

SD, PEARL = SCHEDULES["sd"], SCHEDULES["pearl"]


def test_the_first_jobs_are_not_counted() -> None:
    """They read the prompt: a thousand times the usual says nothing about the rest."""
    usual = list(learn(AutoPolicy(PEARL), 0.8, flat(6)))
    slow_start = list(learn(AutoPolicy(PEARL), 0.8, flat(6), first=1000.0))

    assert slow_start == usual


def test_gamma_is_stable_once_it_is_found() -> None:
    """A change must promise a hundredth: in 1500 rounds the window hardly moves."""
    found = windows(AutoPolicy(PEARL), 0.8, 5)[500:]

    assert sum(one != other for one, other in itertools.pairwise(found)) <= 5


def test_gamma_follows_what_changes() -> None:
    """Another load, another speed: the old times are forgotten within a few hundred rounds."""
    policy = AutoPolicy(PEARL)
    before = list(learn(policy, 0.8, flat(4)))[-1]
    after = list(learn(policy, 0.8, flat(12)))[-1]

    assert before <= 5
    assert after >= 9


def test_a_clock_that_stands_still_teaches_nothing() -> None:
    """Events without times (began = ended = 0) leave it at rest instead of dividing by 0."""
    policy = AutoPolicy(PEARL)
    for _ in range(9):
        policy.observe_window(window(0, 2, 0.0))
        policy.observe_pass(judged(0, 2, 0, 0.0, 0.0))
        policy.observe_comparison(kept=0, rejected=True)

    assert (policy.before, policy.beside) == (0, 0)


def test_passes_that_compare_nothing_teach_nothing_about_acceptance() -> None:
    """A thousand passes without a draft leave what was seen of it as it was."""
    measured = timed()
    policy = AutoPolicy(PEARL, measured=measured)
    before = measured.speeds(PEARL)

    for _ in range(1000):
        policy.observe_comparison(kept=0, rejected=False)

    assert measured.speeds(PEARL).tolist() == before.tolist()


def test_speculative_decoding_has_a_bonus_token_for_each_window_that_is_kept() -> None:
    """Runs of 5 kept tokens: windows of 2 take three passes over 3 and yield 5 + 1 + 2 tokens."""
    measured = timed()
    for _ in range(Measurements.RUNS):
        measured.add_run(5)

    found = measured.speeds(SD)

    assert found[2] == pytest.approx(8 / (3 * (2 + 4)))
    assert found[5] == pytest.approx(7 / (2 * (5 + 4)))
    assert found[6] == pytest.approx(6 / (6 + 4))
    assert found[0] == pytest.approx(1 / 4)  # the target alone


def test_a_draft_that_is_always_right_is_given_a_longer_window() -> None:
    """At a = 1 there is no rejection, and the window that pays most must be found all the same."""
    assert windows(AutoPolicy(PEARL), 1.0, 12)[-1] > 4


def test_requests_of_the_same_kind_share_their_window() -> None:
    """Those that are in a pass together pay for the longest window of all."""
    measured = Measurements()
    policy, other = (AutoPolicy(PEARL, measured=measured) for _ in range(2))
    with_head_start = AutoPolicy(PEARL, head_start=2, measured=measured)

    list(learn(policy, 0.9, flat(10)))

    assert other.beside == policy.beside > 4
    assert with_head_start.beside == 0


def test_texts_that_end_within_a_run_do_not_hide_how_long_it_was() -> None:
    """The draft is always right, but no text has more than forty tokens."""
    measured = Measurements()
    for _ in range(40):
        policy = AutoPolicy(PEARL, measured=measured)
        begins_with, tokens = policy.beside, 0
        for gamma in learn(policy, 1.0, flat(12)):
            tokens += gamma
            if tokens > 30:
                break

    assert begins_with >= 12


def test_windows_that_are_late_now_and_then_do_not_make_longer_ones_look_late() -> None:
    """Of a hundred rounds one has a window that something delayed, all others come in time."""
    measured = timed(step=0.01, judge=0.08)
    at_best = measured.speeds(PEARL)[8]
    for _ in range(20):
        measured.add_control(0.05, Wait.BESIDE)
        for _ in range(99):
            measured.add_in_time(0.002)

    assert measured.speeds(PEARL)[8] > 0.9 * at_best


@pytest.mark.parametrize(("kind", "head_start"), [(PEARL, 3), (PEARL, 0), (SD, 0)])
def test_a_policy_writes_before_or_beside_a_pass(kind: ScheduleKind, head_start: int) -> None:
    """The two numbers of each schedule; it begins at rest."""
    policy = AutoPolicy(kind, head_start=head_start)
    at_first = policy.before, policy.beside
    list(learn(policy, 0.8, flat(6)))
    gamma = policy.beside or policy.before

    assert at_first == (0, 0)
    assert gamma > 1
    assert kind.numbers(gamma, head_start) == (policy.before, policy.beside)


def test_a_policy_cannot_be_negative() -> None:
    with pytest.raises(SettingError, match=r"a policy of -1 and 2 tokens; neither can be negative"):
        FixedPolicy(before=-1, beside=2)


def test_what_messages_take_is_counted_in_every_round() -> None:
    """Rounds that cost more than their jobs want longer windows."""
    chosen = []
    for messages in (0.0, 0.01):
        policy = AutoPolicy(SD)
        found = list(learn(policy, 0.9, flat(0.01), step=0.002, messages=messages))
        chosen.append(statistics.median(found[-500:]))

    assert 0 < chosen[0] < chosen[1]


@pytest.mark.parametrize(
    ("kind", "a", "step", "messages"),
    [
        (SD, 0.5, 0.002, 0.03),  # messages eat what it gains
        (SD, 0.0, 0.002, 0.0),  # the draft is never right
        (SD, 0.95, 0.02, 0.0),  # it is slower than the target
        (PEARL, 0.95, 0.02, 0.0),
        (PEARL, 0.5, 0.002, 0.05),
    ],
)
def test_it_rests_where_the_draft_does_not_pay(
    kind: ScheduleKind, a: float, step: float, messages: float
) -> None:
    """After the first hundred rounds it asks for a window in fewer than one of fifty."""
    found = list(learn(AutoPolicy(kind), a, flat(0.01), step=step, messages=messages))

    assert any(found)
    assert sum(map(bool, found[100:])) < len(found) / 50


def test_passes_that_are_slower_beside_a_draft_make_it_rest() -> None:
    """No estimate says so beforehand: what the rounds took does."""
    found = list(learn(AutoPolicy(PEARL), 0.6, lambda tokens: 0.01 if tokens == 1 else 0.04))

    assert any(found)
    assert sum(map(bool, found[200:])) < len(found) / 50


def test_what_rests_asks_the_draft_again_when_the_text_has_become_easier() -> None:
    """Within a few thousand passes, though every earlier try has failed."""
    policy = AutoPolicy(PEARL)
    before = list(learn(policy, 0.0, flat(0.01), step=0.002, messages=0.01))
    after = list(learn(policy, 0.9, flat(0.01), step=0.002, rounds=6000))

    assert sum(map(bool, before[-1000:])) < 300
    assert sum(map(bool, after[-100:])) > 90


def test_in_a_crowd_every_token_is_one_for_each() -> None:
    """Eight requests whose windows share a pass: a longer one costs eight times as much more."""
    chosen = []
    for crowd in (1, 8):
        measured, dice = Measurements(), random.Random(1)
        at: list[int | None] = [None] * crowd
        for turn in range(200):
            own = dice.randint(1, 9)
            at[turn % crowd] = measured.count_verdict(at[turn % crowd])
            measured.add_window(1, 0.001)
            measured.add_pass(own * crowd, 0.01 + 0.0005 * own * crowd)
            measured.add_run(dice.choice((0, 2, 4, 12)))
        chosen.append(int(measured.speeds(PEARL)[1:].argmax()) + 1)

    assert chosen[1] < chosen[0]
