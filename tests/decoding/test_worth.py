"""Whether a draft pays, by what rounds took: doubt, debt and distance."""

from __future__ import annotations

import random

import pytest

from pearl.decoding.worth import FEW_ALONE, SHARE, Worth


def timed(seconds: float = 1.0) -> Worth:
    """The target alone was timed, and the draft is asked."""
    worth = Worth()
    for _ in range(FEW_ALONE):
        worth.add_alone(seconds, 1)
    worth.begin()
    return worth


def test_before_the_target_alone_was_timed_there_is_no_try() -> None:
    worth = Worth()

    for _ in range(FEW_ALONE):
        assert worth.rests
        assert worth.alone_s is None
        assert not worth.may_try(hopeful=True)
        worth.add_alone(0.5, 1)

    assert worth.alone_s == 0.5
    assert worth.may_try(hopeful=True)


@pytest.mark.parametrize(("seconds", "rounds"), [(10.0, 3), (2.0, 12), (1.3, 32)])
def test_rounds_that_lose_are_given_up_the_sooner_the_more_they_lose(
    seconds: float, rounds: int
) -> None:
    """Of one token each, where the target alone takes one second."""
    worth, seen = timed(), 0
    while not worth.has_failed():
        worth.add_drafted(seconds, 1, 1, first=False)
        seen += 1

    assert seen <= rounds


@pytest.mark.parametrize("seed", range(20))
def test_a_draft_that_gains_a_third_is_not_given_up_by_chance(seed: int) -> None:
    """Runs of agreement vary: a thousand rounds, 4 passes long, of 1 to 11 tokens."""
    dice, worth = random.Random(seed), timed()
    for _ in range(1000):
        worth.add_drafted(4.0, dice.choice([1, 2, 4, 6, 8, 11]), 1, first=False)
        assert not worth.has_failed()


def test_a_try_that_fails_is_made_good_twice_before_the_next() -> None:
    worth, waits = timed(), []
    for _ in range(3):
        for _ in range(3):
            worth.add_drafted(10.0, 1, 1, first=False)
        worth.give_up()
        rested = 0
        while not worth.may_try(hopeful=True):
            worth.add_alone(1.0, 1)
            rested += 1
        waits.append(rested)
        worth.begin()

    lost = 27
    assert waits == pytest.approx([2 * lost / SHARE] * 3, rel=0.01)


def test_what_could_not_pay_if_it_were_always_right_is_left_alone_for_longer() -> None:
    worth = timed()
    worth.give_up()
    for _ in range(1000):
        worth.add_alone(1.0, 1)

    assert worth.may_try(hopeful=True)
    assert not worth.may_try(hopeful=False)


def test_what_the_draft_must_read_after_rest_is_lost_and_no_reason_to_give_up() -> None:
    worth = timed()
    worth.add_drafted(30.0, 1, 1, first=True)
    for _ in range(10):
        worth.add_drafted(1.0, 2, 1, first=False)
    failed = worth.has_failed()
    worth.give_up()
    for _ in range(int(1 / SHARE)):
        worth.add_alone(1.0, 1)

    assert not failed
    assert not worth.may_try(hopeful=True)


def test_the_rounds_of_a_crowd_are_one_round() -> None:
    """Eight requests that all waited for the same slow pass say no more than one."""
    worth = timed()
    for _ in range(8 * 2):
        worth.add_drafted(10.0, 1, 8, first=False)

    assert not worth.has_failed()


def test_the_time_of_the_target_alone_grows_old() -> None:
    worth = timed()
    while not worth.is_old():
        worth.add_drafted(1.0, 2, 1, first=False)
    worth.look()

    assert worth.rests
    assert worth.alone_s is None
