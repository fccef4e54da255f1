"""Requests that share two devices, and luck that belongs to the text."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from pearl.decoding.messages import DRAFT, TARGET, Judged, Proposed
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received, Sent
from pearl.simulator.acceptance import Independent
from pearl.simulator.answers import run
from pearl.simulator.costs import Affine, Constant, Spread
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import (
    ClosedLoop,
    Fixed,
    Geometric,
    Lengths,
    LogNormal,
    Poisson,
    Recorded,
    Times,
    Uniform,
    Workload,
)
from pearl.simulator.world import Pair, Run, Scenario, World
from tests.simulator.measuring import (
    AR,
    PASS_S,
    committed,
    one,
    pearl,
    sd,
    several,
)

SCHEDULES: Final = [AR, sd(4), pearl(4), pearl(4, 2), pearl(9), pearl(9, strict=False)]
RESTLESS: Final = Scenario(
    settings=pearl(5, strict=False),
    pair=Pair(
        draft=Spread(around=Constant(PASS_S / 5), variation=0.3),
        target=Spread(around=Constant(PASS_S), variation=0.3),
    ),
    network=Network(draft=Link(jitter_s=0.001), target=Link(jitter_s=0.002)),
    workload=Workload(
        requests=8, arrivals=Poisson(1.0), prompt=Uniform(1, 50), output=Geometric(60), slots=3
    ),
)
"""Whatever can be random is."""


def of(played: Run, number: int, kind: type[Proposed | Judged]) -> list[Proposed | Judged]:
    return [
        record.event
        for record in played.records
        if isinstance(record, Received)
        and record.request == number
        and isinstance(record.event, kind)
    ]


# -- the same again --------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run() -> None:
    assert run(RESTLESS, seed=3, trace=True) == run(RESTLESS, seed=3, trace=True)


def test_replications_and_seeds_are_different_runs() -> None:
    runs = [run(RESTLESS, seed=seed, replication=r) for seed in (3, 4) for r in (0, 1)]

    assert len({played.seconds for played in runs}) == 4


def test_a_trace_changes_nothing() -> None:
    """Looking does not disturb."""
    watched, unwatched = run(RESTLESS, trace=True), run(RESTLESS)

    assert msgspec.structs.replace(watched, records=()) == unwatched


# -- common random numbers -------------------------------------------------------------------------


def rejections(settings: Settings, network: Network | None = None) -> int:
    scenario = Scenario(settings=settings, network=network or Network(), workload=one(3001))
    return run(scenario, seed=7).served[0].metrics.rejections


def test_all_windows_of_pearl_meet_the_same_text() -> None:
    """Each position is compared once, whatever the window: the misses are those of the text.

    The last token is never compared, because the target gives it anyway.
    """
    text = World(Scenario(), 7, 0, trace=False)._text(0)
    misses = text.window(0, 3000).count(0)

    found = {
        rejections(s) for s in (pearl(1), pearl(2), pearl(7), pearl(5, 3), pearl(9, strict=False))
    }

    assert found == {misses}


def test_a_link_does_not_change_the_text() -> None:
    """Nor does jitter: every stream has one purpose."""
    far = Network(draft=Link(latency_s=0.02, jitter_s=0.01), target=Link(jitter_s=0.01))

    for settings in SCHEDULES:
        assert rejections(settings) == rejections(settings, far)


@pytest.mark.parametrize("prompt", [Fixed(7), Geometric(30), Uniform(2, 9), LogNormal(20, 1)])
def test_other_prompts_and_more_requests_do_not_change_the_outputs(prompt: Lengths) -> None:
    """Prompts and outputs are drawn apart."""
    load = Workload(requests=5, output=Geometric(40))
    other = msgspec.structs.replace(load, requests=8, prompt=prompt)

    lengths = [
        [len(text) for _, text in sorted(committed(run(Scenario(workload=w), trace=True)).items())]
        for w in (load, other)
    ]

    assert lengths[1][:5] == lengths[0]


def test_schedules_give_the_same_text() -> None:
    """The target's: every committed token is its own choice."""
    texts = [
        committed(run(Scenario(settings=s, workload=several(3, 70)), trace=True)) for s in SCHEDULES
    ]

    assert texts == [{number: [1] * 70 for number in range(3)}] * len(SCHEDULES)


# -- one request -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [3, 8, 16])
@pytest.mark.parametrize("head_start", [0, 2])
def test_acting_at_once_makes_the_same_passes_and_is_never_slower(
    gamma: int, head_start: int
) -> None:
    """Without the barrier a doomed window is cancelled after the token that is being written."""
    strict, hasty = (
        run(Scenario(settings=pearl(gamma, head_start, strict=strict), workload=one(2000)))
        for strict in (True, False)
    )

    passes = [played.served[0].metrics.target_passes for played in (strict, hasty)]
    assert passes[0] == passes[1]
    assert hasty.seconds <= strict.seconds + 1e-9
    if gamma > 5:  # the speed ratio: below it, a window is always written when its verdict is in
        assert hasty.seconds < 0.95 * strict.seconds


def test_the_first_jobs_read_the_prompt() -> None:
    """100 tokens on the target; the draft reads them too, before its first token."""
    pair = Pair(draft=Affine(base=1, per_token=1), target=Affine(base=100, per_token=1))
    load = Workload(prompt=Fixed(100), output=Fixed(10))
    played = run(Scenario(settings=pearl(3), pair=pair, workload=load), trace=True)

    windows, verdicts = of(played, 0, Proposed), of(played, 0, Judged)
    assert windows[0].ended - windows[0].began == 100 + 1 + 1
    assert verdicts[0].ended - verdicts[0].began == 100 + 99
    assert windows[1].ended - windows[1].began == 3


def test_after_a_window_kept_whole_the_draft_reads_its_last_token_and_the_bonus() -> None:
    """Speculative decoding: the last token was written and not read, the bonus is the target's."""
    pair = Pair(draft=Affine(base=1, per_token=0.5), target=Constant(10))
    scenario = Scenario(settings=sd(3), pair=pair, acceptance=Independent(1.0), workload=one(12))
    windows = of(run(scenario, trace=True), 0, Proposed)

    assert [window.ended - window.began for window in windows] == [3, 3.5, 3.5]


def test_the_schedule_says_how_many_tokens_each_pass_reads() -> None:
    """A pass over n pending tokens reads n + 1: the one before them is new, too."""
    pair = Pair(draft=Constant(0.25), target=Affine(base=1, per_token=1))
    scenario = Scenario(settings=pearl(4), pair=pair, acceptance=Independent(1.0), workload=one(13))
    verdicts = of(run(scenario, trace=True), 0, Judged)

    assert [verdict.ended - verdict.began for verdict in verdicts] == [1, 4, 4, 4]


# -- requests at once ------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [AR, pearl(1), pearl(3)])
def test_requests_at_once_take_as_long_as_the_longest_alone(settings: Settings) -> None:
    """Continuous batching: where a forward takes the same for any batch, company costs nothing.

    They stay in step because every window is written before its pass ends.
    """
    outputs = Recorded((90, 130, 60, 75))
    load = Workload(requests=4, arrivals=ClosedLoop(4), output=outputs)
    played = run(Scenario(settings=settings, pair=Pair.of(4), workload=load))

    passes = max(served.metrics.target_passes for served in played.served)
    assert played.seconds == passes * PASS_S


def test_requests_out_of_step_take_turns_at_a_target_that_is_told() -> None:
    """A device begins with what is there: who comes during a pass waits for its end.

    By then the other one has just gone, so the two never share a pass.
    """
    load = Workload(requests=2, arrivals=Times((0.0, PASS_S / 2)), output=Fixed(20))
    played = run(Scenario(settings=AR, network=Network(foresight=False), workload=load))

    assert played.seconds == 40 * PASS_S


def test_a_request_that_comes_later_joins_at_the_next_token() -> None:
    """The draft is in the middle of a token of another window; it does not wait for its end."""
    step = PASS_S / 8
    load = Workload(requests=2, arrivals=Times((0.0, 1.5 * step)), output=Fixed(30))
    scenario = Scenario(settings=sd(6), pair=Pair.of(8), workload=load)
    played = run(scenario, trace=True)

    first, second = of(played, 0, Proposed)[0], of(played, 1, Proposed)[0]
    assert (first.began, first.ended) == (0, 6 * step)
    assert (second.began, second.ended) == (2 * step, 8 * step)


def test_a_batch_costs_what_its_rows_cost() -> None:
    """Three requests of one token a pass: every pass is of three rows."""
    pair = Pair(draft=Constant(1), target=Affine(base=1, per_row=0.25))
    played = run(Scenario(settings=AR, pair=pair, workload=several(3, 20)))

    assert played.seconds == 20 * 1.5


def test_a_user_sends_the_next_request_when_the_last_one_is_done() -> None:
    played = run(
        Scenario(settings=AR, workload=Workload(requests=4, output=Recorded((3, 5, 2, 7))))
    )

    ends = [served.finished / PASS_S for served in played.served]
    assert [served.arrived / PASS_S for served in played.served] == [0, 3, 8, 10]
    assert ends == [3, 8, 10, 17]


def test_requests_beyond_the_slots_wait_for_one() -> None:
    """In the order of their arrival, and their waiting is no part of their own figures."""
    played = run(Scenario(settings=AR, workload=several(3, 10, slots=1)))

    served = played.served
    assert [s.began / PASS_S for s in served] == [0, 10, 20]
    assert [s.arrived for s in served] == [0, 0, 0]
    assert [s.metrics.seconds / PASS_S for s in served] == [10, 10, 10]


def test_requests_may_arrive_at_the_same_moment() -> None:
    """Also where the clock, a sum of differences, is a little ahead of the list."""
    load = Workload(requests=3, arrivals=Times((0.3, 0.9, 0.9)), output=Fixed(2))

    served = run(Scenario(settings=AR, workload=load)).served

    assert [s.arrived for s in served] == pytest.approx([0.3, 0.9, 0.9])


# -- messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SCHEDULES)
def test_every_message_takes_its_link_there_and_back(settings: Settings) -> None:
    """The first verdict: control and a link, the pass, and the link again."""
    network = Network(target=Link(latency_s=0.25), draft=Link(latency_s=0.125), control_s=0.5)
    scenario = Scenario(
        settings=settings,
        pair=Pair(draft=Constant(1), target=Constant(8)),
        network=network,
        workload=one(9),
    )
    records = run(scenario, trace=True).records

    sent = {r.command: r.at for r in records if isinstance(r, Sent)}
    for record in records:
        if not isinstance(record, Received) or not isinstance(record.event, Judged | Proposed):
            continue
        device = TARGET if isinstance(record.event, Judged) else DRAFT
        latency = 0.25 if device is TARGET else 0.125
        assert record.at == record.event.ended + latency
        assert record.event.began >= min(sent.values()) + 0.5 + latency


# -- gamma auto ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "c"), [(0.8, 6), (0.5, 3), (0.9, 10)])
def test_gamma_auto_finds_the_speed_ratio(a: float, c: int) -> None:
    """For PEARL the best window is g = c; chosen from what answers say of the virtual clock."""
    scenario = Scenario(
        settings=Settings(gamma="auto", strict=True),
        pair=Pair.of(c),
        acceptance=Independent(a),
        workload=one(4000),
    )

    assert run(scenario).served[0].metrics.gamma == c


@pytest.mark.slow
def test_gamma_auto_of_speculative_decoding_comes_near_the_best_speed() -> None:
    """Leviathan's optimum is flat: 95 % of its speed is near."""
    a, c = 0.8, 5.0

    def speed(settings: Settings) -> float:
        scenario = Scenario(
            settings=settings, pair=Pair.of(c), acceptance=Independent(a), workload=one(6000)
        )
        return 6000 / run(scenario).seconds

    auto = Settings(schedule="sd", gamma="auto")

    assert speed(auto) > 0.95 * max(speed(sd(gamma)) for gamma in range(1, 10))
