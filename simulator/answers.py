"""The answer to a what-if: every figure over replications, with its interval.

    answer = simulate(Scenario(acceptance=Independent(0.9), pair=Pair.of(speed_ratio=8)))
    print(answer.speedup_over_ar)       # 3.53 (3.48 to 3.58)

Estimates that are ratios (tokens per pass, shares) are ratios of sums over all replications.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pearl.decoding.errors import SettingError
from pearl.decoding.estimates import Estimate, of_mean, of_part, of_ratio
from pearl.decoding.policies import Gamma
from pearl.decoding.settings import Settings
from pearl.simulator.costs import Spread
from pearl.simulator.ledger import Account
from pearl.simulator.parallel import spread
from pearl.simulator.workload import Geometric, LogNormal, Poisson, Uniform, check_tokens
from pearl.simulator.world import Run, Scenario, World

REPLICATIONS = 5


class RunLength(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens from one rejection to the next, in the conventions that are in circulation.

    Args:
        accepted: draft tokens kept between two rejections; a / (1 - a) if independent.
        emitted: the same with the replacement (and the bonus tokens of speculative decoding).
        emitted_given_preverify: `emitted` of those runs in which anything was kept: the mean
            accepted tokens of the PEARL paper's theorem 2, 1 / (1 - a) + 1.
        per_verify_step: tokens for each pass of the target.
    """

    accepted: Estimate
    emitted: Estimate
    emitted_given_preverify: Estimate
    per_verify_step: Estimate


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """How a device spent the run, in mean seconds; they sum to the run's length."""

    useful: Estimate
    wasted: Estimate
    waiting_for_other: Estimate
    waiting_for_messages: Estimate
    down: Estimate
    without_work: Estimate


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests were served.

    Args:
        served: requests in a replication.
        tokens_per_s: of all requests together.
        queue_s: mean time that a request waited for a slot.
        latency_s: mean time from arrival to the last token; then its quantiles.
        first_token_s: mean time from arrival to the first token.
    """

    served: int
    tokens_per_s: Estimate
    queue_s: Estimate
    latency_s: Estimate
    latency_p50_s: Estimate
    latency_p95_s: Estimate
    latency_p99_s: Estimate
    first_token_s: Estimate


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a scenario; counts and seconds are means over replications.

    Args:
        alpha: the mean acceptance rate that was asked for.
        speed_ratio: a target pass over a draft step, one token each.
        speedup_over_ar: how much sooner a request is done than with the target alone, in the
            same scenario with the same agreement.
        draft_idle, target_idle: share of the run in which the device was idle; without a draft,
            draft_idle is 1.
        wasted: share of the draft's tokens that were not kept.
        events: of the event simulations together.
        wall_s: what the simulation itself took, in real seconds.
    """

    schedule: str
    alpha: float
    speed_ratio: float
    gamma: Gamma
    head_start: int
    replications: int
    tokens: Estimate
    target_passes: Estimate
    draft_steps: Estimate
    seconds: Estimate
    speedup_over_ar: Estimate
    tokens_per_target_pass: Estimate
    acceptance_rate: Estimate
    draft_idle: Estimate
    target_idle: Estimate
    wasted: Estimate
    run_length: RunLength
    draft: Waiting
    target: Waiting
    requests: Requests
    events: int
    wall_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Numbers by name, and under `interval` the ends of each one's interval."""
        values, intervals = _flat(self)
        return values | {"interval": intervals}


def _flat(figures: msgspec.Struct) -> tuple[dict[str, Any], dict[str, Any]]:
    """A figure's value where its estimate stood, and apart from them the intervals."""
    values: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for name in figures.__struct_fields__:
        figure = getattr(figures, name)
        if isinstance(figure, Estimate):
            values[name], intervals[name] = figure.value, figure.interval
        elif isinstance(figure, msgspec.Struct):
            values[name], intervals[name] = _flat(figure)
        else:
            values[name] = figure
    return values, intervals


def simulate(
    scenario: Scenario,
    *,
    seed: int = 0,
    replications: int = REPLICATIONS,
    workers: int = 1,
    progress: Callable[[], None] = lambda: None,
) -> Answer:
    """Run a scenario so many times, and the target alone beside it.

    Args:
        seed: of all randomness; the same seed gives the same answer, whatever `workers` is.
        replications: independent repetitions; from two on there are intervals.
        workers: processes that share the replications.
        progress: called after each run.

    Raises:
        SettingError: no replication is asked for.
    """
    check_work(scenario, replications)
    jobs = _jobs(scenario, seed, replications)
    runs = []
    for run in spread(_run, jobs, workers):
        runs.append(run)
        progress()
    mine, others = runs[:replications], runs[replications:] or runs[:replications]
    if len(others) < replications:
        others *= replications
    return summarise(scenario, mine, others, events=sum(run.events for run in runs))


def check_work(scenario: Scenario, replications: int) -> None:
    """Refuse replications that are none, or that would be computed for hours.

    Raises:
        SettingError: there are none, or their answers have too many tokens.
    """
    if replications < 1:
        raise SettingError(f"replications is {replications}; it must be 1 or more")
    load = scenario.workload
    check_tokens(load.requests * load.output.expected * replications, "all replications")


def runs_of(scenario: Scenario, replications: int) -> int:
    """How many runs `simulate` makes."""
    return len(_jobs(scenario, 0, replications))


def _jobs(scenario: Scenario, seed: int, replications: int) -> list[tuple[Scenario, int, int]]:
    """The runs of the scenario, then those of the target alone."""
    jobs = [(scenario, seed, n) for n in range(replications)]
    if not scenario.settings.kind.drafts:
        return jobs
    alone = _alone(scenario)
    # Where nothing but the draft is left to chance, the target alone always does the same.
    return jobs + [(alone, seed, n) for n in range(1 if _is_certain(alone) else replications)]


def run(scenario: Scenario, *, seed: int = 0, replication: int = 0, trace: bool = False) -> Run:
    """One replication, with its trace if wanted."""
    return World(scenario, seed, replication, trace=trace).run()


def _run(job: tuple[Scenario, int, int]) -> Run:
    scenario, seed, replication = job
    return run(scenario, seed=seed, replication=replication)


def _alone(scenario: Scenario) -> Scenario:
    """The same requests, decoded by the target alone."""
    settings = scenario.settings
    alone = Settings(schedule="ar", verifier=settings.verifier, sampling=settings.sampling)
    return msgspec.structs.replace(scenario, settings=alone)


def _is_certain(scenario: Scenario) -> bool:
    """Whether nothing is random for the target alone."""
    load, random_lengths = scenario.workload, (Uniform, Geometric, LogNormal)
    return not (
        isinstance(scenario.pair.target, Spread)
        or isinstance(load.arrivals, Poisson)
        or isinstance(load.prompt, random_lengths)
        or isinstance(load.output, random_lengths)
        or scenario.network.target.jitter_s
    )


def summarise(
    scenario: Scenario, runs: Sequence[Run], alone: Sequence[Run], *, events: int
) -> Answer:
    """The answer, from the runs of the scenario and those of the target alone."""
    total = functools.partial(_total, runs)
    kept, rejections, steps = total("kept"), total("rejections"), total("draft_steps")
    tokens, passes = total("tokens"), total("target_passes")
    seconds = np.array([run.seconds for run in runs])
    barren = np.array([sum(served.barren_runs for served in run.served) for run in runs])
    settings = scenario.settings
    return Answer(
        schedule=settings.schedule,
        alpha=scenario.acceptance.mean,
        speed_ratio=scenario.pair.speed_ratio,
        gamma=settings.gamma if settings.widest else 0,
        head_start=settings.head_start,
        replications=len(runs),
        tokens=of_mean(tokens),
        target_passes=of_mean(passes),
        draft_steps=of_mean(steps),
        seconds=of_mean(seconds),
        speedup_over_ar=of_ratio(_latency(alone), _latency(runs)),
        tokens_per_target_pass=of_ratio(tokens, passes),
        acceptance_rate=of_part(kept, kept + rejections),
        draft_idle=of_part(seconds - _busy(runs, "draft"), seconds),
        target_idle=of_part(seconds - _busy(runs, "target"), seconds),
        wasted=of_part(steps - kept, steps) if steps.any() else Estimate(0.0),
        run_length=RunLength(
            accepted=of_ratio(kept, rejections),
            emitted=of_ratio(tokens, rejections),
            emitted_given_preverify=of_ratio(tokens - barren, rejections - barren),
            per_verify_step=of_ratio(tokens, passes),
        ),
        draft=_waiting([run.draft for run in runs]),
        target=_waiting([run.target for run in runs]),
        requests=_requests(runs),
        events=events,
    )


def _total(runs: Iterable[Run], name: str) -> NDArray[np.float64]:
    """A metric's sum over the requests of each run."""
    return np.array(
        [sum(getattr(served.metrics, name) for served in run.served) for run in runs], float
    )


def _latency(runs: Iterable[Run]) -> list[float]:
    """The mean time of a request, run by run."""
    return [float(np.mean([s.finished - s.arrived for s in run.served])) for run in runs]


def _busy(runs: Iterable[Run], device: str) -> list[float]:
    return [getattr(run, device).busy for run in runs]


def _waiting(accounts: Sequence[Account]) -> Waiting:
    names = Waiting.__struct_fields__
    return Waiting(**{name: of_mean([getattr(a, name) for a in accounts]) for name in names})


def _requests(runs: Sequence[Run]) -> Requests:
    latencies = [[s.finished - s.arrived for s in run.served] for run in runs]
    tokens = [sum(s.metrics.tokens for s in run.served) for run in runs]
    waits = [[s.began - s.arrived for s in run.served] for run in runs]
    first = [
        [s.began - s.arrived + s.metrics.time_to_first_token_s for s in run.served] for run in runs
    ]
    of_each = functools.partial(_of_each, latencies)
    return Requests(
        served=len(runs[0].served),
        tokens_per_s=of_ratio(tokens, [run.seconds for run in runs]),
        queue_s=_of_each(waits, np.mean),
        latency_s=of_each(np.mean),
        latency_p50_s=of_each(lambda values: np.quantile(values, 0.5)),
        latency_p95_s=of_each(lambda values: np.quantile(values, 0.95)),
        latency_p99_s=of_each(lambda values: np.quantile(values, 0.99)),
        first_token_s=_of_each(first, np.mean),
    )


def _of_each(values: Sequence[Sequence[float]], figure: Callable[[Any], Any]) -> Estimate:
    return of_mean([float(figure(run)) for run in values])
