"""A forecast: the measured requests, under settings that were not measured.

    profile = profiles.read(path)
    print(forecast(profile, Settings(schedule="sd", gamma=6)).tokens_per_s)

The same figures can be made of a real run's metrics (`over_prompts`), so that a forecast and a
run are compared name by name; and where they differ, `explain` says how much of the difference is
luck, times of the jobs, and ways of the messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from decoding.estimates import Estimate, of_ratio
from decoding.metrics import Metrics
from decoding.settings import Settings
from simulator.answers import run
from simulator.profiles import Profile
from simulator.profiling import Recording, fit, luck_of, network, passes, windows
from simulator.workload import ClosedLoop
from simulator.world import Pair


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """One row of figures; the intervals are over prompts, for others like them.

    Args:
        tokens_per_s: tokens of all requests over their times, one request after the other; with
            several at once, over the time in which all were done.
    """

    tokens_per_s: Estimate
    tokens_per_target_pass: Estimate
    acceptance_rate: Estimate
    draft_idle: Estimate
    target_idle: Estimate
    wasted: Estimate


def forecast(profile: Profile, settings: Settings, *, users: int = 1, seed: int = 0) -> Forecast:
    """The profile's requests under other settings, so many at a time."""
    scenario = profile.scenario(settings)
    if users > 1:
        load = msgspec.structs.replace(scenario.workload, arrivals=ClosedLoop(users))
        scenario = msgspec.structs.replace(scenario, workload=load)
    done = run(scenario, seed=seed)
    figures = over_prompts([served.metrics for served in done.served])
    if users == 1:
        return figures
    # Requests that share a device see each other's work as idle time of it: ask the device.
    return msgspec.structs.replace(
        figures,
        tokens_per_s=Estimate(sum(s.metrics.tokens for s in done.served) / done.seconds),
        draft_idle=Estimate(1 - done.draft.busy / done.seconds),
        target_idle=Estimate(1 - done.target.busy / done.seconds),
    )


def over_prompts(metrics: Sequence[Metrics]) -> Forecast:
    """The figures of requests that ran one after the other, simulated or real."""

    def ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
        return of_ratio(above, below)

    seconds = [m.seconds for m in metrics]
    tokens = [m.tokens for m in metrics]
    kept = [m.kept for m in metrics]
    steps = [m.draft_steps for m in metrics]
    return Forecast(
        tokens_per_s=ratio(tokens, seconds),
        tokens_per_target_pass=ratio(tokens, [m.target_passes for m in metrics]),
        acceptance_rate=ratio(kept, [m.kept + m.rejections for m in metrics]),
        draft_idle=ratio([m.draft_idle * m.seconds for m in metrics], seconds),
        target_idle=ratio([m.target_idle * m.seconds for m in metrics], seconds),
        wasted=ratio([m.draft_steps - m.kept for m in metrics], steps),
    )


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast over measured tokens per second, less one, and its parts.

    Args:
        error: all of it; the parts sum to it nearly (they are logarithms).
        acceptance: what the run's own luck changes.
        times: what its own times of jobs change, on top.
        ways: what its own times of messages change, on top.
        rest: what remains.
    """

    error: float
    acceptance: float
    times: float
    ways: float
    rest: float


def explain(
    profile: Profile, settings: Settings, recordings: Sequence[Recording], measured: float
) -> Gap:
    """Why a forecast of `measured` tokens per second is off, given what that run recorded."""
    own = msgspec.structs.replace(
        profile,
        luck=luck_of(recordings) if settings.widest else profile.luck,
        prompts=tuple(r.prompt for r in recordings),
        outputs=tuple(r.tokens for r in recordings),
    )
    timed = msgspec.structs.replace(own, pair=own_times(profile.pair, recordings), beside=())
    wired = msgspec.structs.replace(timed, network=network(recordings))
    speeds = [_speed(p, settings) for p in (profile, own, timed, wired)]
    steps = [math.log(a / b) for a, b in zip(speeds, [*speeds[1:], measured], strict=True)]
    acceptance, times, ways, rest = steps
    return Gap(
        error=speeds[0] / measured - 1, acceptance=acceptance, times=times, ways=ways, rest=rest
    )


def own_times(known: Pair, recordings: Sequence[Recording]) -> Pair:
    """The times of these runs; where they say nothing of a device, those that were known."""
    groups = [[recording] for recording in recordings]
    drafted = [sample for group in groups for sample in windows(group)]
    judged = [sample for group in groups for sample in passes(group)]
    return Pair(draft=fit(drafted) if drafted else known.draft, target=fit(judged))


def _speed(profile: Profile, settings: Settings) -> float:
    return float(forecast(profile, settings).tokens_per_s)
