"""Messages on their way: latency, jitter, bandwidth, and the order of TCP."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from pearl.decoding.errors import SettingError
from pearl.decoding.messages import (
    Cancel,
    Drafted,
    Foresight,
    Judge,
    Judged,
    Order,
    Propose,
    Proposed,
)
from pearl.simulator.devices import Process
from pearl.simulator.links import MESSAGE_BYTES, TOKEN_BYTES, Line, Link, Message, Network
from tests.decoding.certainty import margin

SHORT: Final = Order(request=0, command=Cancel(epoch=1))
PENDING: Final = Judge(job=1, epoch=0, base=0, pending=Drafted(tokens=(1,) * 8))
AHEAD: Final = Foresight(job=1, restarts=True, window=(1, 1, 1))
UNKNOWN: Final = Foresight(job=1, restarts=True)


def arrivals(
    link: Link,
    sent: Sequence[tuple[float, Message]],
    *,
    delay_s: float = 0.0,
    seed: int = 0,
) -> list[tuple[float, int]]:
    """When each message arrives, in the order in which they do."""
    env = simpy.Environment()
    line = Line(env, link, np.random.default_rng(seed))
    heard: list[tuple[float, int]] = []

    def deliver(number: int, _: object) -> None:
        heard.append((env.now, number))

    def send() -> Process:
        for number, (gap, message) in enumerate(sent):
            yield env.timeout(gap)
            line.carry(number, message, deliver, delay_s)

    env.process(send())
    env.run()
    return heard


def test_a_link_without_delays_delivers_at_once() -> None:
    assert arrivals(Link(), [(1.0, SHORT)]) == [(1.0, 0)]


def test_a_message_takes_the_latency_and_what_the_scheduler_takes() -> None:
    assert arrivals(Link(latency_s=0.5), [(1.0, SHORT)], delay_s=0.25) == [(1.75, 0)]


@given(
    gaps=st.lists(st.floats(0, 0.1), min_size=2, max_size=30),
    seed=st.integers(0, 100),
    bandwidth=st.sampled_from([0.0, 1e3]),
)
def test_no_message_overtakes_another(gaps: list[float], seed: int, bandwidth: float) -> None:
    """However different their jitter; also where the arrival times differ by rounding alone."""
    link = Link(latency_s=0.1, jitter_s=1.0, bandwidth=bandwidth)
    heard = arrivals(link, [(gap, SHORT) for gap in gaps], seed=seed)

    assert [number for _, number in heard] == list(range(len(gaps)))


def test_jitter_has_the_mean_it_says() -> None:
    link = Link(latency_s=1.0, jitter_s=0.01)
    heard = arrivals(link, [(1.0, SHORT)] * 5000)
    taken = [at - number - 1 for at, number in heard]

    assert abs(statistics.mean(taken) - 1.01) < margin(taken)
    assert min(taken) >= 1.0 - 1e-9


def test_large_messages_take_what_the_bandwidth_says() -> None:
    link = Link(latency_s=1.0, bandwidth=64.0)

    ((at, _),) = arrivals(link, [(0.0, Order(request=0, command=PENDING))])

    assert at == 1.0 + (MESSAGE_BYTES + 8 * TOKEN_BYTES) / 64


def test_messages_share_the_bandwidth() -> None:
    """Three at once leave one after the other; a fourth finds the line free again."""
    link = Link(latency_s=1.0, bandwidth=64.0)
    heard = arrivals(link, [(0.0, SHORT)] * 3 + [(10.0, SHORT)])

    assert [at for at, _ in heard] == [2.0, 3.0, 4.0, 12.0]


@pytest.mark.parametrize(
    ("message", "tokens", "laws"),
    [
        (PENDING, 8, 8),
        (Propose(job=1, epoch=0, base=0, pending=(1, 1), count=5), 2, 0),
        (Proposed(job=1, epoch=0, start=0, drafted=Drafted(tokens=(1, 1, 1))), 3, 3),
        (Judged(job=1, epoch=0, base=0, judged=4, kept=2, token=1), 1, 0),
        (SHORT, 0, 0),
        (AHEAD, 3, 0),
        (UNKNOWN, 0, 0),
        (Order(request=0, command=PENDING, foresight=UNKNOWN), 8, 8),
        (Order(request=0, command=PENDING, foresight=AHEAD), 11, 8),
    ],
)
def test_laws_travel_with_the_tokens_that_were_drawn_from_them(
    message: Message, tokens: int, laws: int
) -> None:
    link = Link(bandwidth=1.0, law_bytes=1000)

    ((at, _),) = arrivals(link, [(0.0, message)])

    assert at == MESSAGE_BYTES + TOKEN_BYTES * tokens + 1000 * laws


@pytest.mark.parametrize("name", ["latency_s", "jitter_s", "bandwidth", "law_bytes"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_link_that_runs_backwards_is_refused(name: str, value: float) -> None:
    shown = name.replace("_", "-")
    with pytest.raises(SettingError, match=f"^{shown} is {value}; it must be 0 or more$"):
        Link(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["control_s", "onward_s"])
def test_a_scheduler_or_a_target_that_runs_backwards_is_refused(name: str) -> None:
    shown = name.replace("_", "-")
    with pytest.raises(SettingError, match=rf"^{shown} is -0\.1; it must be seconds, 0 or from "):
        Network(**{name: -0.1})  # type: ignore[arg-type]
