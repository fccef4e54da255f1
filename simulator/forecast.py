"""A forecast: the measured requests, under settings that were not measured.

    profile = profiles.read(path)
    print(forecast(profile, Settings(schedule="sd", gamma=6)).tokens_per_s)

The same figures can be made of a real run's metrics (`over_requests`), so that a forecast and a
run are compared name by name; and where they differ, `explain` says how much of the difference is
acceptance, times of the jobs, and times of the messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pearl.decoding.estimates import Estimate
from pearl.decoding.settings import Settings
from pearl.decoding.summaries import Figures, over_requests
from pearl.simulator.answers import run
from pearl.simulator.profiles import Profile
from pearl.simulator.profiling import Recording, fit, luck_of, network, passes, windows
from pearl.simulator.workload import ClosedLoop
from pearl.simulator.world import Pair


def forecast(profile: Profile, settings: Settings, *, users: int = 1, seed: int = 0) -> Figures:
    """The profile's requests under other settings, so many at a time."""
    scenario = profile.scenario(settings)
    if users > 1:
        load = msgspec.structs.replace(scenario.workload, arrivals=ClosedLoop(users))
        scenario = msgspec.structs.replace(scenario, workload=load)
    done = run(scenario, seed=seed)
    figures = over_requests([served.metrics for served in done.served])
    if users == 1:
        return figures
    # Requests that share a device see each other's work as idle time of it: ask the device.
    return msgspec.structs.replace(
        figures,
        tokens_per_s=Estimate(sum(s.metrics.tokens for s in done.served) / done.seconds),
        draft_idle=Estimate(1 - done.draft.busy / done.seconds),
        target_idle=Estimate(1 - done.target.busy / done.seconds),
    )


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """Forecast over measured tokens per second, less one, and its parts.

    Args:
        error: all of it; the parts sum to it nearly (they are logarithms).
        acceptance: what the run's own agreement changes.
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
    speeds = [float(forecast(p, settings).tokens_per_s) for p in (profile, own, timed, wired)]
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
