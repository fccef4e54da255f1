"""A forecast: the measured requests, under settings that were not measured.

    profile = profiles.read(path)
    print(forecast(profile, Settings(schedule="sd", gamma=6)).tokens_per_s)

A machine drifts: what took one time in this minute takes another in the next. So the requests are
simulated once for each block of the measurement, with everything as slow as it was then. The
figures are of all of them together; the interval of a speed says where that of another minute is to
be expected. Speeds of two systems drift alike, so their ratio (`over`) is known better.

The same figures can be made of a real run's metrics (`over_requests`), so that a forecast and a
run are compared name by name; and where they differ, `explain` says how much of the difference is
acceptance, times of the jobs, and times of the messages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from scipy.special import stdtrit

from pearl.decoding.estimates import LEVEL, Estimate
from pearl.decoding.settings import Settings
from pearl.decoding.summaries import Figures, over_requests
from pearl.simulator.answers import run
from pearl.simulator.profiles import BlockLevel, Profile
from pearl.simulator.profiling import Recording, luck_of, network, times_of, with_spread
from pearl.simulator.workload import ClosedLoop
from pearl.simulator.world import Run

DRIFT: Final = 0.025  # of speeds between minutes, as it was seen on several quiet machines
PRESUMED: Final = 12  # blocks: so much is that worth beside those of a measurement
SAME: Final = BlockLevel(draft=1.0, target=1.0, messages=1.0)


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What is expected of a system.

    Args:
        figures: of all blocks; the interval of `tokens_per_s` is that of another minute, the others
            are over requests.
        speeds: tokens per second, block by block.
    """

    figures: Figures
    speeds: tuple[float, ...]

    @property
    def tokens_per_s(self) -> Estimate:
        """Of all requests together."""
        return self.figures.tokens_per_s

    def over(self, other: Forecast) -> Estimate:
        """How many times as fast as another system in the same minute."""
        return _of_another([a / b for a, b in zip(self.speeds, other.speeds, strict=True)])


def forecast(profile: Profile, settings: Settings, *, users: int = 1, seed: int = 0) -> Forecast:
    """The profile's requests under other settings, so many at a time."""
    runs = [
        _run(profile.at(level), settings, users, seed, block)
        for block, level in enumerate(profile.levels)
    ]
    speeds = tuple(sum(s.metrics.tokens for s in done.served) / done.seconds for done in runs)
    found = over_requests([served.metrics for done in runs for served in done.served])
    if users == 1:
        figures = msgspec.structs.replace(found, tokens_per_s=_of_another(speeds))
        return Forecast(figures=figures, speeds=speeds)
    # Requests that share a device see each other's work as idle time of it: ask the device.
    seconds = sum(done.seconds for done in runs)
    figures = msgspec.structs.replace(
        found,
        tokens_per_s=_of_another(speeds),
        draft_idle=Estimate(1 - sum(done.draft.busy for done in runs) / seconds),
        target_idle=Estimate(1 - sum(done.target.busy for done in runs) / seconds),
    )
    return Forecast(figures=figures, speeds=speeds)


def _run(profile: Profile, settings: Settings, users: int, seed: int, block: int) -> Run:
    scenario = profile.scenario(settings)
    load = msgspec.structs.replace(scenario.workload, arrivals=ClosedLoop(users))
    return run(msgspec.structs.replace(scenario, workload=load), seed=seed, replication=block)


def _of_another(values: Sequence[float]) -> Estimate:
    """The mean, and where another value like these is to be expected: Student's interval.

    A few quiet blocks know little of the next hour: their spread is pooled with that of `DRIFT`.
    """
    found, count = np.array(values), len(values)
    mean, freedom = float(found.mean()), count - 1 + PRESUMED
    away = float(((found / mean - 1) ** 2).sum()) + PRESUMED * DRIFT**2
    apart = math.sqrt(away / freedom * (1 + 1 / count))
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * apart
    return Estimate(mean, mean * max(0.0, 1 - half), mean * (1 + half))


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
    pair = with_spread(times_of(recordings, profile.pair), recordings)
    timed = msgspec.structs.replace(own, pair=pair, levels=(SAME,))
    wired = msgspec.structs.replace(timed, network=network(recordings))
    speeds = [float(forecast(p, settings).tokens_per_s) for p in (profile, own, timed, wired)]
    steps = [math.log(a / b) for a, b in zip(speeds, [*speeds[1:], measured], strict=True)]
    acceptance, times, ways, rest = steps
    return Gap(
        error=speeds[0] / measured - 1, acceptance=acceptance, times=times, ways=ways, rest=rest
    )
