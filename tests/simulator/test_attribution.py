"""Where time went: each step lets in what was left out, and nothing else."""

from __future__ import annotations

from typing import Final

import pytest

from pearl.decoding.errors import SettingError
from pearl.decoding.messages import DRAFT
from pearl.decoding.settings import Settings
from pearl.simulator import attribution
from pearl.simulator.acceptance import Bursts
from pearl.simulator.answers import run
from pearl.simulator.attribution import Steps
from pearl.simulator.costs import Affine, Constant
from pearl.simulator.faults import Fault, FaultKind
from pearl.simulator.links import Link, Network
from pearl.simulator.profiling import Recording
from pearl.simulator.workload import ClosedLoop, Fixed, Workload
from pearl.simulator.world import Pair, Scenario

STEP_S: Final = 0.004
PASS_S: Final = 0.020
CONSTANT: Final = Pair(draft=Constant(STEP_S), target=Constant(PASS_S))
REQUESTS, TOKENS, PROMPT = 3, 150, 40
SYSTEMS: Final = {
    "AR": Settings(schedule="ar"),
    "SD 4": Settings(schedule="sd", gamma=4),
    "PEARL 5": Settings(gamma=5),
    "PEARL 3, head start 2": Settings(gamma=3, head_start=2),
    "PEARL 9, strict": Settings(gamma=9, strict=True),
}


def recorded(
    settings: Settings,
    pair: Pair = CONSTANT,
    network: Network | None = None,
    faults: tuple[Fault, ...] = (),
) -> list[Recording]:
    """Requests one after the other, whose luck comes in bursts."""
    scenario = Scenario(
        settings=settings,
        pair=pair,
        acceptance=Bursts(0.8, 0.3),
        network=network or Network(),
        faults=faults,
        workload=Workload(
            requests=REQUESTS,
            arrivals=ClosedLoop(1),
            prompt=Fixed(PROMPT),
            output=Fixed(TOKENS),
        ),
    )
    records = run(scenario, seed=4, trace=True).records
    return [
        Recording(prompt=PROMPT, records=tuple(r for r in records if r.request == number))
        for number in range(REQUESTS)
    ]


def single() -> list[Recording]:
    """A text of one token."""
    scenario = Scenario(settings=SYSTEMS["PEARL 5"], workload=Workload(output=Fixed(1)))
    return [Recording(prompt=1, records=run(scenario, trace=True).records)]


def taken(settings: Settings, recordings: list[Recording]) -> Steps:
    return attribution.steps(recordings, settings, CONSTANT)


@pytest.mark.parametrize("settings", SYSTEMS.values(), ids=list(SYSTEMS))
def test_where_nothing_is_left_out_every_step_is_the_run(settings: Settings) -> None:
    """Two times and no messages: of windows that are cancelled only the later steps know."""
    found = taken(settings, recorded(settings))
    ends = [
        found.free,
        found.grown,
        found.reading,
        found.messages,
        found.own,
        found.delayed,
    ]

    assert ends == pytest.approx([found.measured] * len(ends))
    if settings.strict or settings.schedule != "pearl":
        assert found.constant == pytest.approx(found.measured)


@pytest.mark.parametrize("settings", SYSTEMS.values(), ids=list(SYSTEMS))
def test_messages_are_told_from_work(settings: Settings) -> None:
    """Of a target that waits for every command; a window of nine steps covers most of them."""
    network = Network(draft=Link(latency_s=0.001), target=Link(latency_s=0.002), foresight=False)
    found = taken(settings, recorded(settings, network=network))
    assert found.reading is not None

    assert found.messages == pytest.approx(found.measured, rel=0.01)
    assert found.own == pytest.approx(found.measured, rel=0.01)
    assert found.reading < 0.95 * found.measured


@pytest.mark.parametrize("settings", SYSTEMS.values(), ids=list(SYSTEMS))
def test_messages_that_nobody_waited_for_cost_nothing(settings: Settings) -> None:
    """A target that goes on before it is told: its trace has jobs that began before they left."""
    network = Network(draft=Link(latency_s=0.001), target=Link(latency_s=0.002))
    recordings = recorded(settings, network=network)
    found = taken(settings, recordings)
    assert found.reading is not None

    assert found.messages == pytest.approx(found.measured, rel=0.01)
    assert found.own == pytest.approx(found.measured, rel=0.01)
    if settings.schedule == "ar":
        assert found.measured - found.reading == pytest.approx(REQUESTS * 0.004)


@pytest.mark.parametrize("settings", SYSTEMS.values(), ids=list(SYSTEMS))
def test_growing_passes_are_told_from_prompts_that_are_read(settings: Settings) -> None:
    """Every token of a pass takes a tenth of a pass more: a prompt of 40 tokens takes five."""
    pair = Pair(draft=Constant(STEP_S), target=Affine(base=PASS_S, per_token=0.1 * PASS_S))
    found = taken(settings, recorded(settings, pair))
    assert found.free is not None
    assert found.grown is not None
    assert found.reading is not None

    prompts = REQUESTS * (PROMPT - 1) * 0.1 * PASS_S  # less what a window beside it takes anyway
    assert found.reading == pytest.approx(found.measured, rel=0.003)
    assert found.reading - found.grown == pytest.approx(prompts, rel=0.25)
    if settings.widest:
        assert found.grown > found.free


def test_the_figures_are_those_of_the_whole_simulation() -> None:
    settings = SYSTEMS["PEARL 5"]
    found = taken(settings, recorded(settings))
    assert found.figures is not None

    assert float(found.figures.tokens_per_s) == pytest.approx(REQUESTS * TOKENS / found.measured)


def test_automatic_windows_are_replayed_and_not_simulated() -> None:
    """Other times would make them other windows."""
    settings = Settings(gamma="auto")
    one = recorded(settings)[:1]  # the first request has learned nothing yet
    found = taken(settings, one)

    assert (found.free, found.messages, found.figures) == (None, None, None)
    assert found.own == pytest.approx(found.measured)


def test_a_run_that_lost_a_device_is_replayed_and_not_simulated() -> None:
    settings = SYSTEMS["PEARL 5"]
    fault = Fault(kind=FaultKind.CRASH, device=DRAFT, at=0.5, seconds=0.7)
    found = taken(settings, recorded(settings, faults=(fault,)))

    assert found.messages is None
    assert found.own == pytest.approx(found.measured, rel=0.02)


def test_of_too_little_no_times_are_made() -> None:
    """A text of one token: nothing but the prompt was read."""
    found = taken(SYSTEMS["PEARL 5"], single())

    assert found.messages is None
    assert found.measured > 0


def test_two_numbers_are_read_off_what_was_recorded() -> None:
    alone, parallel = recorded(SYSTEMS["AR"]), recorded(SYSTEMS["PEARL 5"])
    found = attribution.constants(drafted=parallel, judged=alone)

    assert found.draft.seconds(1) == pytest.approx(STEP_S)
    assert found.target.seconds(1) == pytest.approx(PASS_S)
    assert found.speed_ratio == pytest.approx(PASS_S / STEP_S)


def test_without_a_draft_there_is_one_number() -> None:
    alone = recorded(SYSTEMS["AR"])
    found = attribution.constants(drafted=alone, judged=alone)

    assert found.speed_ratio == 1


def test_prompts_alone_have_no_times() -> None:
    short = single()

    with pytest.raises(SettingError, match="nothing but read prompts; record longer runs"):
        attribution.constants(drafted=short, judged=short)


def test_other_windows_are_as_fast_as_they_would_have_been() -> None:
    """The same luck, recorded with windows of 5, tells the speed of windows of 3 and 8."""
    settings = SYSTEMS["PEARL 5"]
    said = attribution.speeds(recorded(settings), settings, [3, 5, 8])

    for gamma, speed in said.items():
        other = taken(Settings(gamma=gamma), recorded(Settings(gamma=gamma)))
        assert speed == pytest.approx(REQUESTS * TOKENS / other.measured, rel=0.005)


def test_nothing_is_said_of_windows_where_too_little_is_known() -> None:
    assert attribution.speeds(single(), SYSTEMS["PEARL 5"], [3]) == {}
