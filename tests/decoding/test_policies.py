"""`gamma="auto"` chooses its window from what it sees.

Whether that window is the one that theory says is a matter of both clocks: tests/agreement.
"""

from __future__ import annotations

import itertools
import random

import msgspec
import pytest

from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES, ScheduleKind
from pearl.decoding.measured import Measurements, Wait
from pearl.decoding.messages import Drafted, Judged, Proposed
from pearl.decoding.policies import FIRST_GAMMA, AutoPolicy, FixedPolicy
from tests.decoding.learning import flat, learn, timed, windows

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
    """Events without times (began = ended = 0) leave gamma where it is instead of dividing by 0."""
    policy = AutoPolicy(PEARL)
    for _ in range(9):
        policy.observe_window(Proposed(job=1, epoch=0, start=0, drafted=Drafted(tokens=(1, 2))))
        policy.observe_pass(Judged(job=1, epoch=0, base=0, judged=2, kept=0, token=0))
        policy.observe_comparison(kept=0, rejected=True)

    assert policy.beside == FIRST_GAMMA


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
    assert windows(AutoPolicy(PEARL), 1.0, 12)[-1] > FIRST_GAMMA


def test_requests_of_the_same_kind_share_their_window() -> None:
    """Those that are in a pass together pay for the longest window of all."""
    measured = Measurements()
    policy, other = (AutoPolicy(PEARL, measured=measured) for _ in range(2))
    with_head_start = AutoPolicy(PEARL, head_start=2, measured=measured)

    list(learn(policy, 0.9, flat(10)))

    assert other.beside == policy.beside > FIRST_GAMMA
    assert with_head_start.beside == FIRST_GAMMA


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


@pytest.mark.parametrize(
    ("kind", "head_start", "numbers"), [(PEARL, 3, (3, FIRST_GAMMA)), (SD, 0, (0, 1))]
)
def test_a_policy_writes_before_or_beside_a_pass(
    kind: ScheduleKind, head_start: int, numbers: tuple[int, int]
) -> None:
    """The two numbers of each schedule; who waits for windows begins at rest."""
    policy = AutoPolicy(kind, head_start=head_start)

    assert (policy.before, policy.beside) == numbers


def test_a_policy_cannot_be_negative() -> None:
    with pytest.raises(SettingError, match=r"a policy of -1 and 2 tokens; neither can be negative"):
        FixedPolicy(before=-1, beside=2)


def _in_turns(
    policy: AutoPolicy, a: float, *, step: float, messages: float, rounds: int = 800
) -> None:
    """Speculative rounds on the target's clock, 10 ms a pass; a pass alone needs no messages."""
    dice, judge, now, base = random.Random(1), 0.01, 0.0, 0
    for _ in range(rounds):
        gamma, judged = policy.before or policy.beside, policy.before
        kept = next((i for i in range(gamma) if dice.random() >= a), gamma)
        drafted = Drafted(tokens=(0,) * gamma)
        policy.observe_window(
            Proposed(job=1, epoch=0, start=base, drafted=drafted, ended=gamma * step)
        )
        now += messages + gamma * step if policy.before else 0.0
        answer = Judged(
            job=1, epoch=0, base=base, judged=judged, kept=min(kept, judged), token=0, began=now
        )
        now += judge
        base += answer.kept + 1
        policy.observe_pass(msgspec.structs.replace(answer, ended=now))
        policy.observe_comparison(kept=kept, rejected=kept < gamma)


def test_what_messages_take_is_counted_in_every_round() -> None:
    """Rounds that cost more than their jobs want longer windows."""
    chosen = []
    for messages in (0.0, 0.01):
        policy = AutoPolicy(SD)
        _in_turns(policy, 0.8, step=0.002, messages=messages)
        chosen.append(policy.before)

    assert 0 < chosen[0] < chosen[1]


def test_speculation_rests_where_its_messages_eat_what_it_gains() -> None:
    chosen = []
    for messages in (0.0, 0.03):
        policy = AutoPolicy(SD)
        _in_turns(policy, 0.5, step=0.002, messages=messages)
        chosen.append((policy.before, policy.beside))

    assert chosen[0][0] > 0
    assert chosen[1] == (0, 1)


def test_who_rests_remembers_why() -> None:
    """Passes take longer after waiting for a window, which nobody sees who does not try."""
    policy, dice, waited = AutoPolicy(SD), random.Random(1), []
    for _ in range(4000):
        gamma = policy.before or policy.beside
        waited.append(policy.before > 0)
        kept = next((i for i in range(gamma) if dice.random() >= 0.7), gamma)
        drafted = Drafted(tokens=(0,) * gamma)
        policy.observe_window(
            Proposed(job=1, epoch=0, start=0, drafted=drafted, ended=gamma * 0.002)
        )
        judged = policy.before
        seconds = 0.025 if policy.before else 0.01
        policy.observe_pass(
            Judged(job=1, epoch=0, base=0, judged=judged, kept=0, token=0, ended=seconds)
        )
        policy.observe_comparison(kept=kept, rejected=kept < gamma)

    assert any(waited)
    assert sum(waited[1000:]) <= 16


def test_in_a_crowd_every_token_is_one_for_each() -> None:
    """Eight requests whose windows share a pass: a longer one costs eight times as much more."""
    chosen = []
    for crowd in (1, 8):
        measured = Measurements()
        dice = random.Random(1)
        for _ in range(200):
            own = dice.randint(1, 9)
            measured.add_window(1, 0.001)
            measured.add_pass(own * crowd, 0.01 + 0.0005 * own * crowd, own)
            measured.add_run(dice.choice((0, 2, 4, 12)))
        chosen.append(int(measured.speeds(PEARL)[1:].argmax()) + 1)

    assert chosen[1] < chosen[0]
