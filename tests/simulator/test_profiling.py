"""A profile of a simulated pair says what the pair was made of.

So one of a real pair can be believed: the measurement is tested where the truth is known.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import msgspec
import pytest

from pearl.decoding.errors import SettingError
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.simulator import fitting, profiles, profiling
from pearl.simulator.acceptance import Bursts, Independent, Mixture, Positions, Replay
from pearl.simulator.answers import run
from pearl.simulator.costs import Affine, Measured, Spread
from pearl.simulator.forecast import explain, forecast
from pearl.simulator.links import Link, Network, Ways
from pearl.simulator.optimise import expected
from pearl.simulator.profiles import BlockLevel, Profile
from pearl.simulator.twin import PairTimes, Scheme
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.simulator.profiled import (
    DRAFT,
    NETWORK,
    PROMPT,
    TARGET,
    measured_block,
    measured_profile,
    recorded,
)


@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 8])
def test_a_profile_finds_the_time_of_a_pass_by_its_tokens(tokens: int) -> None:
    found = measured_profile().pair.target.seconds(tokens, 1, 100)

    assert found == pytest.approx(TARGET.seconds(tokens, 1, 100), rel=0.01)


def test_a_profile_finds_the_time_of_a_draft_step() -> None:
    """A step is never seen alone: windows are taken apart."""
    found = measured_profile().pair.draft.seconds(1, 1, 100)

    assert found == pytest.approx(DRAFT.seconds(1, 1, 100), rel=0.01)


def test_a_profile_finds_how_much_longer_a_long_context_takes() -> None:
    pair = measured_profile().pair
    assert isinstance(pair.draft, Measured)
    assert isinstance(pair.target, Measured)

    assert pair.draft.per_position == pytest.approx(DRAFT.per_position, rel=0.1)
    assert pair.target.per_position == pytest.approx(TARGET.per_position, rel=0.1)


def test_a_profile_finds_the_time_of_a_pass_over_several_requests() -> None:
    found = measured_profile().pair.target.seconds(5, 4, 100)

    assert found == pytest.approx(TARGET.seconds(5, 4, 100), rel=0.05)


def test_a_profile_finds_what_reading_a_prompt_takes() -> None:
    found = measured_profile().pair.target.seconds(PROMPT, 1, PROMPT)

    assert found == pytest.approx(TARGET.seconds(PROMPT, 1, PROMPT), rel=0.05)


def test_a_profile_finds_the_ways_of_messages() -> None:
    network = measured_profile().network

    for link, latency in ((network.draft, 60e-6), (network.target, 90e-6)):
        for ways in (link.in_turns, link.at_once):
            assert msgspec.structs.astuple(ways) == pytest.approx((latency,) * 4, rel=1e-6)
    assert network.foresight


SYSTEMS = {
    "AR": Settings(schedule="ar"),
    "SD": Settings(schedule="sd", gamma=4),
    "PEARL in time": Settings(gamma=2),
    "PEARL nearly in time": Settings(gamma=4),
    "PEARL late": Settings(gamma=8),
    "PEARL with a barrier": Settings(gamma=4, strict=True),
}


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("foresight", [True, False], ids=["foresight", "told"])
@pytest.mark.parametrize("slower", [1, 100], ids=["near", "far"])
def test_jobs_that_were_begun_unasked_make_no_link_shorter(
    name: str, slower: int, *, foresight: bool
) -> None:
    """They began before they were sent, or when news of their window came: no way out shows there.

    Far is farther than a pass: then a job may have been foreseen and yet begin after it was sent.
    """
    links = Network(
        draft=Link(latency_s=slower * 60e-6),
        target=Link(latency_s=slower * 90e-6),
        foresight=foresight,
    )
    found = profiling.network(recorded(SYSTEMS[name], requests=3, network=links))

    own = "at_once" if name.startswith("PEARL") else "in_turns"
    target, draft = (getattr(link, own) for link in (found.target, found.draft))
    assert msgspec.structs.astuple(target) == pytest.approx((slower * 90e-6,) * 4, rel=1e-6)
    if name != "AR":
        assert msgspec.structs.astuple(draft) == pytest.approx((slower * 60e-6,) * 4, rel=1e-6)
    assert found.foresight is (foresight and name != "SD")
    assert found.onward_s == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["AR", "PEARL in time", "PEARL nearly in time"])
def test_a_profile_finds_what_the_target_takes_to_go_on(name: str) -> None:
    """Of passes whose windows came late enough to be waited for it says nothing."""
    links = msgspec.structs.replace(NETWORK, onward_s=50e-6)
    found = profiling.network(recorded(SYSTEMS[name], requests=3, network=links))

    assert found.onward_s == pytest.approx(50e-6, rel=1e-6)
    assert found.target.in_turns.after_window == pytest.approx(90e-6, rel=1e-6)


def test_a_profile_finds_the_acceptance_rate_and_that_it_is_independent() -> None:
    """12 requests of 96 tokens; four standard errors on each side."""
    luck = measured_profile().luck
    positions = sum(len(text.replace("?", "")) for text in luck.texts)

    assert luck.rate == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / positions))
    assert luck.correlation_within == pytest.approx(0.0, abs=4 / math.sqrt(positions))


def test_bursts_and_prompts_that_differ_are_told_apart() -> None:
    """Both correlate neighbours; only bursts do so around each text's own mean."""
    settings = Settings(gamma=4)
    bursts = profiling.luck_of(recorded(settings, Bursts(0.7, 0.5), requests=20))
    prompts = profiling.luck_of(recorded(settings, Mixture((0.3, 0.95), (1.0, 1.0)), requests=20))

    assert bursts.correlation_within == pytest.approx(0.5, abs=0.1)
    assert prompts.correlation > 0.3
    assert prompts.correlation_within == pytest.approx(0.0, abs=0.1)


def test_acceptance_by_position_is_that_of_the_window() -> None:
    rates = (0.9, 0.7, 0.5)

    luck = profiling.luck_of(
        recorded(Settings(schedule="sd", gamma=3), Positions(rates), requests=30)
    )

    assert luck.by_position == pytest.approx(rates, abs=0.06)


WAYS = Ways(after_window=20e-6, after_verdict=50e-6, alone=30e-6, beside=80e-6)


def test_ways_are_told_apart_by_what_else_happens() -> None:
    """Late windows and such as come in time; of speculative decoding, whose ways are its own."""
    turns = Ways(after_window=25e-6, after_verdict=60e-6, alone=35e-6, beside=35e-6)
    link = Link(in_turns=turns, at_once=WAYS)
    links = Network(draft=link, target=link)
    systems = [Settings(schedule="sd", gamma=4), Settings(gamma=2), Settings(gamma=8)]
    found = profiling.network([r for each in systems for r in recorded(each, network=links)])

    # Of the target's way behind a verdict nothing is known: it has begun before.
    for ways, wanted in (
        (found.draft.at_once, WAYS),
        (msgspec.structs.replace(found.target.at_once, after_verdict=50e-6), WAYS),
        (found.draft.in_turns, msgspec.structs.replace(turns, after_window=60e-6)),
    ):
        assert msgspec.structs.astuple(ways) == pytest.approx(msgspec.structs.astuple(wanted))


@pytest.mark.parametrize(("gamma", "slower"), [(2, 1.1), (5, 1.2), (8, 1.3)])
def test_passes_beside_a_busy_draft_have_their_own_times(gamma: int, slower: float) -> None:
    """On one machine a pass takes the longer the more is written beside it; AR knows nothing of it.

    Gamma 5 was not recorded: it lies between.
    """
    groups = [recorded(Settings(schedule="ar")), recorded(Settings(schedule="sd", gamma=7))]
    groups += [recorded(Settings(gamma=g), target=slower_by(f)) for g, f in ((2, 1.1), (8, 1.3))]
    luck = recorded(Settings(gamma=4))

    profile = profiling.profile(
        [groups], luck=luck, settings=Settings(gamma=4), machine={}, models={}
    )

    target = profile.pair.target
    assert isinstance(target, Measured)
    for tokens in (1, 8):
        alone = TARGET.seconds(tokens, 1, 80)
        assert target.seconds(tokens, 1, 80) == pytest.approx(alone, rel=0.02)
    beside = target.seconds(1, 1, 80) * target.slower(1, gamma)
    assert beside == pytest.approx(slower * TARGET.seconds(1, 1, 80), rel=0.02)


def test_passes_that_take_as_long_beside_a_draft_have_no_times_of_their_own() -> None:
    target = measured_profile().pair.target
    assert isinstance(target, Measured)

    assert target.beside == ()


def test_the_first_step_behind_a_rest_is_told_from_the_next_ones() -> None:
    """By windows of several lengths, behind rests of several lengths."""
    draft = Measured(
        tokens=(1,), batches=(1,), grid=((1e-3,),),
        rests=(0.0, 2e-3, 8e-3), waking=(0.0, 0.4e-3, 0.8e-3), waking_beside=(0.0, 0.6e-3, 1e-3),
    )  # fmt: skip
    systems = [Settings(schedule="sd", gamma=g) for g in (1, 3, 5, 8)]
    systems += [Settings(gamma=g, head_start=k) for g in (1, 2, 3, 5) for k in (0, 1, 3)]
    found = fitting.of_windows([profiling.windows(recorded(s, draft=draft)) for s in systems])

    assert found.seconds(1) == pytest.approx(1e-3, rel=0.01)
    for rest in (1e-3, 2e-3, 4e-3):
        assert found.woken(rest, beside=True) == pytest.approx(
            draft.woken(rest, beside=True), abs=0.05e-3
        )
    assert found.woken(5e-3) == pytest.approx(draft.woken(5e-3), abs=0.05e-3)


def test_a_profile_finds_how_times_scatter() -> None:
    """Of single passes, and of windows, of whose steps only the sum is seen."""
    draft, target = Spread(around=DRAFT, variation=0.3), Spread(around=TARGET, variation=0.1)
    systems = [Settings(schedule="ar"), *(Settings(schedule="sd", gamma=g) for g in (1, 2, 4, 8))]
    recordings = [r for s in systems for r in recorded(s, draft=draft, target=target, tokens=800)]
    means = profiling.times_of(recordings, Pair(draft=draft, target=target))

    found = profiling.with_spread(means, recordings)

    assert isinstance(found.draft, Measured)
    assert isinstance(found.target, Measured)
    assert statistics.pstdev(found.draft.spread) == pytest.approx(0.3, rel=0.15)
    assert statistics.pstdev(found.target.spread) == pytest.approx(0.1, rel=0.15)


def test_a_machine_that_drifts_is_slower_in_some_blocks() -> None:
    """The second block takes a tenth longer: its level says so, and the intervals hold both."""
    luck = recorded(Settings(gamma=4))
    blocks = [measured_block(1), measured_block(1, slower_by(1.1)), measured_block(1)]

    profile = profiling.profile(
        blocks, luck=luck, settings=Settings(gamma=4), machine={}, models={}
    )

    levels = [level.target for level in profile.levels]
    assert levels[1] / levels[0] == pytest.approx(1.1, rel=0.01)
    assert levels[2] == pytest.approx(levels[0], rel=0.001)
    assert profile.levels[1].draft == pytest.approx(profile.levels[0].draft, rel=0.001)
    alone = forecast(profile, Settings(schedule="ar"))
    assert alone.speeds[0] / alone.speeds[1] == pytest.approx(1.1, rel=0.01)
    low, high = alone.tokens_per_s.interval or (0.0, 0.0)
    assert low < min(alone.speeds) < max(alone.speeds) < high


def test_a_ratio_to_ar_drifts_less_than_the_speeds_it_is_made_of() -> None:
    levels = tuple(BlockLevel(draft=f, target=f, messages=f) for f in (0.9, 1.0, 1.1))
    profile = msgspec.structs.replace(measured_profile(), levels=levels)
    one, alone = (forecast(profile, s) for s in (Settings(gamma=4), Settings(schedule="ar")))

    assert max(one.speeds) / min(one.speeds) == pytest.approx(1.1 / 0.9, rel=0.01)
    ratios = [a / b for a, b in zip(one.speeds, alone.speeds, strict=True)]
    assert max(ratios) / min(ratios) == pytest.approx(1.0, abs=0.01)
    assert float(one.over(alone)) == pytest.approx(sum(ratios) / 3)


def slower_by(factor: float) -> Affine:
    """The target, taking so many times as long."""
    fields = msgspec.structs.asdict(TARGET)
    return Affine(**{name: factor * seconds for name, seconds in fields.items()})


def test_too_few_recordings_are_refused_in_words() -> None:
    with pytest.raises(SettingError, match="record more"):
        fitting.of_passes([])
    with pytest.raises(SettingError, match="record more"):
        fitting.of_windows([])


def test_a_profile_is_the_same_after_its_file(tmp_path: Path) -> None:
    profiles.write(tmp_path / "pair.json", measured_profile())

    assert profiles.read(tmp_path / "pair.json") == measured_profile()


UNSEEN = [
    Settings(schedule="ar"),
    Settings(schedule="sd", gamma=3),
    Settings(schedule="sd", gamma=7),
    Settings(gamma=3),
    Settings(gamma=7),
    Settings(gamma=5, head_start=2),
    Settings(gamma=6, strict=True),
]


@pytest.mark.parametrize("settings", UNSEEN, ids=str)
def test_a_forecast_of_settings_that_were_not_measured_is_what_happens(settings: Settings) -> None:
    """The same prompts under other settings: only times between the measured sizes are guessed."""
    truth = speed_of_the_same_prompts(settings)

    found = forecast(measured_profile(), settings).tokens_per_s

    assert float(found) == pytest.approx(truth, rel=0.01)


def speed_of_the_same_prompts(settings: Settings) -> float:
    """Tokens per second of the requests whose luck the profile has recorded."""
    scenario = Scenario(
        settings=settings,
        pair=Pair(draft=DRAFT, target=TARGET),
        acceptance=Independent(0.8),
        network=NETWORK,
        workload=Workload(requests=12, prompt=Fixed(PROMPT), output=Fixed(96)),
    )
    metrics = [served.metrics for served in run(scenario, seed=1).served]
    return sum(m.tokens for m in metrics) / sum(m.seconds for m in metrics)


@pytest.mark.parametrize("gamma", [2, 5])
def test_the_twin_answers_for_a_profile_too(gamma: int) -> None:
    """It leaves out the reading of prompts, and takes one context for all."""
    profile, settings = measured_profile(), Settings(gamma=gamma, strict=True)
    times = PairTimes(profile.pair, profile.network, context=PROMPT + 48)

    found = expected(Replay(profile.luck.texts), Scheme("pearl", gamma), times)

    forecasted = float(forecast(profile, settings).tokens_per_s)
    assert found.tokens_per_s == pytest.approx(forecasted, rel=0.05)


def test_a_forecast_for_several_users_shares_the_passes() -> None:
    settings = Settings(schedule="sd", gamma=4)

    alone, crowd = (forecast(measured_profile(), settings, users=n) for n in (1, 4))

    assert float(crowd.tokens_per_s) > 2 * float(alone.tokens_per_s)
    assert float(crowd.figures.target_idle) < float(alone.figures.target_idle)


def test_the_parts_of_a_forecasts_error_name_its_cause() -> None:
    """The profile believes in links ten times as slow: that, and nothing else, is found."""
    settings = Settings(schedule="sd", gamma=4)
    recordings = recorded(settings, requests=12)

    gap = explain(
        slowed(measured_profile()), settings, recordings, speed_of_the_same_prompts(settings)
    )

    assert gap.error < -0.1
    assert gap.ways == pytest.approx(math.log1p(gap.error), abs=0.01)
    assert [gap.acceptance, gap.times, gap.rest] == pytest.approx([0, 0, 0], abs=0.01)


def slowed(profile: Profile) -> Profile:
    """The same profile with links ten times as slow."""
    return msgspec.structs.replace(profile, network=profile.network.slowed(10))


def test_texts_of_a_rejection_run_can_be_replayed() -> None:
    """The verifier that holds rows agrees position by position, too."""
    settings = Settings(gamma=4, verifier="rejection", sampling=Sampling(temperature=1.0))

    luck = profiling.luck_of(recorded(settings, requests=4))

    assert Replay(luck.texts).mean == pytest.approx(0.8, abs=0.1)
