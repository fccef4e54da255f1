"""When the scheduler gives up on a device, and whom it blames."""

from __future__ import annotations

import pytest

from pearl.actors.stations import MOST_STARTS, SAMPLES, STALLED, Asked, Station


def _measured(*seconds_of_a_token: float) -> Station:
    station = Station()
    for seconds in seconds_of_a_token:
        station.observe(Asked(since=0.0, tokens=10), 10 * seconds, now=0.0)
    return station


def test_patience_grows_with_the_work_that_was_asked() -> None:
    """A long prompt is no stalled device."""
    station = _measured(0.001, 0.001, 0.001)

    assert station.patience(4000) == pytest.approx(STALLED * 4.0)
    assert station.patience(1) == pytest.approx(STALLED * 0.001)


def test_a_device_of_which_nothing_is_known_is_given_time_for_its_first_prompt() -> None:
    assert Station().patience(4000) > 300


def test_one_stall_does_not_make_the_next_one_wait_longer() -> None:
    usual = [0.001] * SAMPLES

    assert _measured(*usual, 5.0).patience(100) == _measured(*usual).patience(100)


def test_a_device_that_has_become_slow_is_known_as_such_in_time() -> None:
    assert _measured(*[0.001] * SAMPLES, *[0.1] * SAMPLES).patience(1) == pytest.approx(
        STALLED / 10
    )


def test_suspects_have_a_device_one_by_one() -> None:
    station = Station()
    station.regained()
    station.suspects = [5, 2]

    assert [number for number in range(9) if station.serves(number)] == [5]
    station.suspects.clear()
    assert all(station.serves(number) for number in range(9))


def test_a_device_that_fails_to_start_again_and_again_is_dead_until_it_works() -> None:
    station = Station()
    for _ in range(MOST_STARTS):
        assert not station.dead
        station.failed_to_start()

    assert station.dead
    station.regained()
    assert not station.dead
