"""Where the time of recorded requests went: from a model of two numbers to the run, step by step.

Every step simulates the same requests with the agreement that was recorded, and lets in one thing
more of what was measured. What a step changes is what that thing costs.

    constant    a draft step and a target pass take one time each; rounds have a barrier
                (counted: the rounds that were made)
    free        a verdict that dooms a window does not wait for it
    grown       forwards take what they took on average, by the tokens they read
    reading     prompts are read, and contexts grow
    messages    messages take what they took on average: the simulator's answer
    own         every job takes its own time (a replay with mean messages)
    delayed     every message takes its own time, too (a replay with exact ones)
    measured    the run itself

The step before the last reproduces the time wherever the schedule does on the virtual clock what it
did on the real one; what remains after it is not explained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from pearl.decoding.errors import SettingError
from pearl.decoding.messages import Propose
from pearl.decoding.metrics import Metrics
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules
from pearl.decoding.summaries import Figures, over_requests
from pearl.decoding.trace import Sent
from pearl.simulator import fitting
from pearl.simulator.acceptance import Independent, Replay
from pearl.simulator.answers import run
from pearl.simulator.costs import Constant, Measured
from pearl.simulator.fitting import Sample
from pearl.simulator.profiling import (
    Recording,
    luck_of,
    network,
    passes,
    times_of,
    windows,
)
from pearl.simulator.recording import Delays, replay
from pearl.simulator.workload import ClosedLoop, Recorded, Workload
from pearl.simulator.world import Pair, Scenario

ENOUGH: Final = 4096  # tokens, to tell windows apart


class Steps(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of all requests together, step by step; see above.

    None where a step cannot be taken: windows that adapt follow times, so other times would make
    them other windows, and a device that was lost is lost in no scenario. `own` and `delayed` are
    None where a replay did not commit the same tokens.

    Args:
        figures: of the step `messages`.
    """

    constant: float
    free: float | None = None
    grown: float | None = None
    reading: float | None = None
    messages: float | None = None
    own: float | None = None
    delayed: float | None = None
    measured: float
    figures: Figures | None = None


def steps(recordings: Sequence[Recording], settings: Settings, constant: Pair) -> Steps:
    """Take every step for requests that ran one after the other.

    Args:
        recordings: the requests.
        settings: of all of them.
        constant: the two numbers to begin with.
    """
    other = settings.adapts or any(recording.losses for recording in recordings)
    done = {} if other else _simulated(recordings, settings, constant)
    return Steps(
        constant=_counted(recordings, constant),
        **{name: sum(m.seconds for m in metrics) for name, metrics in done.items()},
        own=_replayed(recordings, settings, "mean"),
        delayed=_replayed(recordings, settings, "exact"),
        measured=sum(r.records[-1].at - r.records[0].at for r in recordings),
        figures=over_requests(done["messages"]) if done else None,
    )


def _counted(recordings: Sequence[Recording], constant: Pair) -> float:
    """The rounds that were made, each as long as its slower half, and what is not beside one."""
    step, judge = constant.draft.seconds(1), constant.target.seconds(1)
    beside = [sample.beside for recording in recordings for sample in passes([recording])]
    asked = sum(
        record.command.count
        for recording in recordings
        for record in recording.records
        if isinstance(record, Sent) and isinstance(record.command, Propose)
    )
    rounds = sum(max(window * step, judge) for window in beside)
    return rounds + (asked - sum(beside)) * step


def _simulated(
    recordings: Sequence[Recording], settings: Settings, constant: Pair
) -> dict[str, list[Metrics]]:
    """What each scenario gives; none where too little was recorded to have times."""
    try:
        level, own = _level(recordings, constant), times_of(recordings, constant)
        plain = _plain(recordings, settings, constant)
    except SettingError:
        return {}
    read = _workload(recordings, read=True)
    scenarios = {
        "free": plain,
        "grown": replace(plain, pair=level),
        "reading": replace(plain, pair=own, workload=read),
        "messages": replace(plain, pair=own, workload=read, network=network(recordings)),
    }
    return {
        name: [served.metrics for served in run(scenario).served]
        for name, scenario in scenarios.items()
    }


def _plain(recordings: Sequence[Recording], settings: Settings, pair: Pair) -> Scenario:
    """The requests with their agreement and their lengths, one after the other, without prompts."""
    return Scenario(
        settings=settings,
        pair=pair,
        acceptance=Replay(luck_of(recordings).texts) if settings.widest else Independent(1.0),
        workload=_workload(recordings, read=False),
    )


def _workload(recordings: Sequence[Recording], *, read: bool) -> Workload:
    """The requests; their prompts are read, or have one token."""
    return Workload(
        requests=len(recordings),
        arrivals=ClosedLoop(1),
        prompt=Recorded(tuple(max(1, r.prompt) if read else 1 for r in recordings)),
        output=Recorded(tuple(recording.tokens for recording in recordings)),
    )


def constants(*, drafted: Sequence[Recording], judged: Sequence[Recording]) -> Pair:
    """The two numbers: means of a draft step, and of the smallest passes of the target.

    Where nothing was drafted a step counts as long as a pass; none is needed then.

    Raises:
        SettingError: the target did nothing but read prompts.
    """
    first = [sample for recording in drafted for sample in windows([recording])]
    written, read = _later(windows, drafted) or first, _later(passes, judged)
    smallest = min((sample.tokens for sample in read), default=0)
    small = [sample for sample in read if sample.tokens == smallest]
    if not small:
        raise SettingError("the target did nothing but read prompts; record longer runs")
    target = Constant(_mean(small))
    return Pair(draft=Constant(_mean(written)) if written else target, target=target)


def _mean(samples: Sequence[Sample]) -> float:
    """Seconds of a forward."""
    return sum(s.seconds for s in samples) / sum(s.forwards for s in samples)


def speeds(
    recordings: Sequence[Recording], settings: Settings, gammas: Iterable[int]
) -> dict[int, float]:
    """Tokens per second of the same requests with other windows; none if too little is known.

    Of long requests their beginnings.
    """
    try:
        own = times_of(recordings, constants(drafted=recordings, judged=recordings))
        plain = _plain(recordings, settings, own)
    except SettingError:
        return {}
    lengths = Recorded(tuple(min(r.tokens, max(1, ENOUGH // len(recordings))) for r in recordings))
    read = replace(_workload(recordings, read=True), output=lengths)
    scenario = replace(plain, workload=read, network=network(recordings))
    found = {}
    for gamma in gammas:
        done = run(replace(scenario, settings=replace(settings, gamma=gamma)))
        found[gamma] = sum(served.metrics.tokens for served in done.served) / done.seconds
    return found


def _level(recordings: Sequence[Recording], known: Pair) -> Pair:
    """Mean times by the tokens that are read, at one context and without prompts."""
    drafted, judged = (
        [found for r in recordings if (found := kind([r])[1:])] for kind in (windows, passes)
    )
    draft = _flat(fitting.of_windows(drafted)) if drafted else known.draft
    return Pair(draft=draft, target=_flat(fitting.of_passes(judged)))


def _flat(cost: Measured) -> Measured:
    return replace(cost, per_position=0.0)


def _later(
    kind: Callable[[Sequence[Recording]], list[Sample]], recordings: Sequence[Recording]
) -> list[Sample]:
    """The jobs of a device, request by request, but for the first one: it reads the prompt."""
    return [sample for recording in recordings for sample in kind([recording])[1:]]


def _replayed(recordings: Sequence[Recording], settings: Settings, delays: Delays) -> float | None:
    """Seconds of the replays; None where one was another run."""
    try:
        found = [
            replay(r.records, settings, r.stop or StopRules(limit=r.tokens), delays=delays)
            for r in recordings
        ]
    except SettingError:
        return None
    same = all(done.same_commits for done in found)
    return sum(done.simulated_s for done in found) if same else None
