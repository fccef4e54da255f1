"""Systems side by side on the same prompts: from runs to ratios with intervals.

    report(systems, runs, traced)["PEARL 5"].speed_over_ar     # 2.4 (2.1 to 2.6)

A prompt is decoded by every system in each of several rounds. Of the rounds the median counts, so
that one disturbed run is nothing; ratios are of two systems on the same prompt, so that hard
prompts and easy ones weigh alike; of the prompts the median is reported, with an interval that
needs no assumption but that they were drawn independently. The ratio of totals stands beside it: it
is what a whole batch of work would gain, and long and slow prompts count for more in it.

Times are those of the caller: from asking to the last token, streamed. What theory says of a system
is of the same whole requests, so that it can be compared: it waits for the first token as long as
the run did, and has the speed of the closed form from there on.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from pearl.analysis import traces
from pearl.analysis.parameters import own_constants, own_rates, rate_of, tokens_per_s, window
from pearl.analysis.traces import Request
from pearl.decoding.estimates import Estimate, of_median, of_ratio
from pearl.decoding.metrics import Metrics
from pearl.decoding.settings import Settings
from pearl.decoding.summaries import over_requests
from pearl.decoding.trace import Received

NOTHING: Final = Estimate(None)


class System(msgspec.Struct, frozen=True, kw_only=True):
    """What is compared.

    Args:
        name: of its own.
        settings: of our schedules; None where others decode.
        devices: how many compute for it.
        same_text: whether it must write what AR writes, token for token.
    """

    name: str
    settings: Settings | None
    devices: int
    same_text: bool = True


class BenchmarkRun(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt by one system, once.

    Args:
        system, prompt, round: which; prompts are counted from 0.
        tokens: what was written.
        arrivals: seconds since it was asked for, and how many tokens came then.
        metrics: what the scheduler measured; None where others decode.
        memory_bytes: the most that its processes held meanwhile; None where it cannot be read.
        joules: what the machine took meanwhile; None as above.
    """

    system: str
    prompt: int
    round: int
    tokens: tuple[int, ...]
    arrivals: tuple[tuple[float, int], ...]
    metrics: Metrics | None = None
    memory_bytes: int | None = None
    joules: float | None = None

    @property
    def seconds(self) -> float:
        """From asking to the last token."""
        return self.arrivals[-1][0]

    @property
    def tokens_per_s(self) -> float:
        """Speed, the reading of the prompt included."""
        return len(self.tokens) / self.seconds


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of many values."""

    p50: float
    p95: float
    p99: float


class Allowed(msgspec.Struct, frozen=True, kw_only=True):
    """What theory allows a system, at its own acceptance, pass times and window.

    Args:
        tokens_per_s: of whole requests (`whole_requests`), the median over prompts. None where
            nothing was compared.
        speed_over_ar: that over what theory allows AR, the median over prompts; None without AR.
        efficiency: seconds that the jobs of these very rounds must take, over seconds taken
            (`pearl.analysis.traces.overlap_efficiency`).
        control_us: of each round: time between two passes in which neither device worked.
    """

    tokens_per_s: float | None
    efficiency: Estimate
    control_us: Quantiles | None
    speed_over_ar: float | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Where a text first differs from AR's; prompts and tokens are counted from 0."""

    system: str
    prompt: int
    round: int
    token: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One system; names that `pearl.decoding.metrics.Metrics` has mean what they mean there.

    Args:
        speed_over_ar, speed_over_sd: medians over prompts, against AR and the SD that was run.
        of_totals: tokens over seconds of all prompts, over the same of AR.
        speed_per_device: speed over AR for each device that computes.
        time_per_token_s: of all tokens but those that came first; tokens that came together share
            the time since the ones before.
        memory_bytes: the most that was held in any run.
        joules_per_token: mean over all runs.
        same_text: whether every text was AR's; None where coins are others, so that it cannot be.
    """

    system: System
    tokens_per_s: Estimate
    speed_over_ar: Estimate
    of_totals: Estimate
    speed_over_sd: Estimate
    speed_per_device: Estimate
    time_to_first_token_s: Estimate
    time_per_token_s: Quantiles | None
    tokens_per_target_pass: Estimate = NOTHING
    acceptance_rate: Estimate = NOTHING
    draft_idle: Estimate = NOTHING
    target_idle: Estimate = NOTHING
    wasted: Estimate = NOTHING
    allowed: Allowed | None = None
    memory_bytes: int | None = None
    joules_per_token: float | None = None
    same_text: bool | None = True

    @property
    def achieved(self) -> float | None:
        """Speed over AR, over what theory says of it; None where there is none of them."""
        said = None if self.allowed is None else self.allowed.speed_over_ar
        measured = self.speed_over_ar.value
        return None if said is None or measured is None else measured / said


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was compared."""

    prompts: int
    rounds: int
    rows: tuple[Standing, ...]
    differences: tuple[Difference, ...]

    def __getitem__(self, name: str) -> Standing:
        return next(row for row in self.rows if row.system.name == name)


def report(
    systems: Sequence[System],
    runs: Sequence[BenchmarkRun],
    traced: Mapping[str, Sequence[Request]] | None = None,
) -> Report:
    """Compare.

    Args:
        systems: the first one is AR, what all others are compared with; of several in which draft
            and target take turns, the first counts as the SD.
        runs: of all systems, every prompt in every round.
        traced: by system, runs with their records.
    """
    found = {system.name: _by_prompt(runs, system.name) for system in systems}
    alone = systems[0].name
    sd = next((system.name for system in systems if _takes_turns(system)), None)
    different = tuple(differences(systems, runs))
    limits = _allowed(traced or {}, alone)
    wrong = {difference.system for difference in different}
    return Report(
        prompts=len(found[alone]),
        rounds=max(len(rounds) for rounds in found[alone].values()),
        rows=tuple(
            msgspec.structs.replace(
                _row(system, found[system.name], found[alone], None if sd is None else found[sd]),
                allowed=limits.get(system.name),
                same_text=None if not system.same_text else system.name not in wrong,
            )
            for system in systems
        ),
        differences=different,
    )


def _takes_turns(system: System) -> bool:
    """Whether it is speculative decoding of ours."""
    kind = None if system.settings is None else system.settings.kind
    return kind is not None and kind.drafts and not kind.parallel


ByPrompt = dict[int, list[BenchmarkRun]]  # by prompt


def _by_prompt(runs: Sequence[BenchmarkRun], system: str) -> ByPrompt:
    own = sorted((r for r in runs if r.system == system), key=lambda r: (r.prompt, r.round))
    return {prompt: list(found) for prompt, found in itertools.groupby(own, lambda r: r.prompt)}


def _row(system: System, own: ByPrompt, alone: ByPrompt, sd: ByPrompt | None) -> Standing:
    every = [run for rounds in own.values() for run in rounds]
    over_ar = ratios(own, alone)
    row = Standing(
        system=system,
        tokens_per_s=of_median([_speed(rounds) for rounds in own.values()]),
        speed_over_ar=of_median(over_ar),
        of_totals=_of_totals(own, alone),
        speed_over_sd=NOTHING if sd is None else of_median(ratios(own, sd)),
        speed_per_device=of_median([ratio / system.devices for ratio in over_ar]),
        time_to_first_token_s=of_median(
            [statistics.median(run.arrivals[0][0] for run in rounds) for rounds in own.values()]
        ),
        time_per_token_s=quantiles([s for run in every for s in token_times(run)]),
        memory_bytes=max((m for run in every if (m := run.memory_bytes) is not None), default=None),
        joules_per_token=_joules_per_token(every),
    )
    # One run a prompt: rounds of one prompt are no independent requests.
    middle = [_middle(rounds).metrics for rounds in own.values()]
    measured = [metrics for metrics in middle if metrics is not None]
    if len(measured) < len(middle):
        return row
    figures = over_requests(measured)
    names = set(figures.__struct_fields__) - {"tokens_per_s", "time_to_first_token_s"}
    shared = {name: getattr(figures, name) for name in names & set(row.__struct_fields__)}
    return msgspec.structs.replace(row, **shared)


def _speed(rounds: Sequence[BenchmarkRun]) -> float:
    """Tokens a second on one prompt: the median of its rounds."""
    return statistics.median(run.tokens_per_s for run in rounds)


def _middle(rounds: Sequence[BenchmarkRun]) -> BenchmarkRun:
    """The round of median speed, or the one below."""
    return sorted(rounds, key=lambda run: run.tokens_per_s)[(len(rounds) - 1) // 2]


def ratios(own: ByPrompt, other: ByPrompt) -> list[float]:
    """Speed over another system's on the same prompt, for every prompt that both have."""
    return [_speed(own[prompt]) / _speed(other[prompt]) for prompt in own if prompt in other]


def _of_totals(own: ByPrompt, alone: ByPrompt) -> Estimate:
    """Seconds that AR would take for the same tokens, over seconds taken."""
    tokens = {prompt: len(_middle(rounds).tokens) for prompt, rounds in own.items()}
    both = [prompt for prompt in own if prompt in alone]
    return of_ratio(
        [tokens[prompt] / _speed(alone[prompt]) for prompt in both],
        [tokens[prompt] / _speed(own[prompt]) for prompt in both],
    )


def _joules_per_token(runs: Sequence[BenchmarkRun]) -> float | None:
    taken = [run.joules for run in runs if run.joules is not None]
    tokens = sum(len(run.tokens) for run in runs)
    return sum(taken) / tokens if len(taken) == len(runs) else None


# -- medians and quantiles ---------------------------------------------------------------------


def quantiles(values: Sequence[float]) -> Quantiles | None:
    """Median, 95 and 99 %; None of nothing."""
    if not values:
        return None
    p50, p95, p99 = np.quantile(values, [0.5, 0.95, 0.99]).tolist()
    return Quantiles(p50=p50, p95=p95, p99=p99)


def token_times(run: BenchmarkRun) -> list[float]:
    """Seconds of each token behind the first arrival."""
    return [
        (at - before) / count
        for (before, _), (at, count) in itertools.pairwise(run.arrivals)
        for _ in range(count)
    ]


# -- texts -------------------------------------------------------------------------------------


def differences(systems: Sequence[System], runs: Sequence[BenchmarkRun]) -> Iterator[Difference]:
    """Of every system and prompt the first round in which the text was not AR's."""
    first = {run.prompt: run.tokens for run in reversed(runs) if run.system == systems[0].name}
    checked = {system.name for system in systems if system.same_text}
    seen = set()
    for run in sorted(runs, key=lambda run: (run.prompt, run.round)):
        known = first.get(run.prompt)
        where = (run.system, run.prompt)
        if known is None or run.tokens == known or run.system not in checked or where in seen:
            continue
        seen.add(where)
        yield Difference(
            system=run.system,
            prompt=run.prompt,
            round=run.round,
            token=first_difference(known, run.tokens),
        )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Where two texts that differ part."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


# -- theory at the run's own values --------------------------------------------------------------


def _allowed(traced: Mapping[str, Sequence[Request]], alone: str) -> dict[str, Allowed]:
    base = traced.get(alone, ())
    return {name: own for name, found in traced.items() if (own := allowed(found, base))}


def allowed(requests: Sequence[Request], alone: Sequence[Request] = ()) -> Allowed | None:
    """What theory says of these requests, and how much of it was achieved; None if too little ran.

    Args:
        requests: of a system, prompt by prompt.
        alone: AR's of the same prompts.
    """
    if own_constants(requests) is None:
        return None
    speeds, base = whole_requests(requests), whole_requests(alone)
    over = [own / ar for own, ar in zip(speeds, base, strict=False)]
    least = [traces.least_s(request) for request in requests]
    shares = [traces.overlap_efficiency(request) for request in requests]
    gaps = [1e6 * gap for request in requests for gap in traces.control_s(request)]
    return Allowed(
        tokens_per_s=statistics.median(speeds) if speeds else None,
        efficiency=of_ratio(least, [s / share for s, share in zip(least, shares, strict=True)]),
        control_us=quantiles(gaps),
        speed_over_ar=statistics.median(over) if over else None,
    )


def whole_requests(requests: Sequence[Request]) -> list[float]:
    """Tokens per second that theory says of each, the first token included; none if it cannot.

    The first token comes when it came in the run: prompts that are read are not in the closed form.
    From there on texts are without end, messages take no time, and agreement does not come in
    bursts. Each request has its own acceptance; window and times are means over all of them.
    """
    constants = own_constants(requests)
    if constants is None or rate_of(requests) is None:
        return []
    settings, gamma, found = requests[0].settings, window(requests), []
    for request, rate in zip(requests, own_rates(requests), strict=True):
        first = next(r for r in request.records if isinstance(r, Received) and r.tokens)
        behind = len(request.tokens) - len(first.tokens)
        seconds = first.at - request.records[0].at
        seconds += behind / tokens_per_s(settings, gamma, rate, constants)
        found.append(len(request.tokens) / seconds)
    return found
