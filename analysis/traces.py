"""From the records of a run to its figures, by the same definitions as while it runs.

    requests = traces.read(path)
    traces.figures(requests).tokens_per_target_pass      # 2.71 (2.43 to 3.02)

What a request was measured to be does not depend on who decoded it, and not on when one looks:
`metrics` feeds the records to the `Meter` that the scheduler feeds while it decodes.
"""

from __future__ import annotations

import itertools
import pathlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from pearl.decoding import exchanges, trace
from pearl.decoding.errors import MalformedTraceError
from pearl.decoding.exchanges import agreement
from pearl.decoding.messages import (
    DEVICES,
    DRAFT,
    TARGET,
    Device,
    DeviceBack,
    DeviceLost,
    Judge,
    Judged,
    Propose,
    Proposed,
)
from pearl.decoding.metrics import Meter, Metrics
from pearl.decoding.schedules import Counts
from pearl.decoding.settings import Settings
from pearl.decoding.summaries import Figures, over_requests
from pearl.decoding.trace import Received, Record, Sent

PARTS: Final = ("useful", "wasted", "waiting_for_other", "waiting_for_messages")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a run.

    Args:
        name: what to call it: its file, and its number where the file has several.
        run: which requests share its clock; those of a file do.
        settings: what it was decoded with.
        prompt: tokens of its prompt; None if that was not written down.
        records: everything that was sent and received.
        simulated: whether it ran on a virtual clock.
        eos: tokens that end a text.
    """

    name: str
    run: str = ""
    settings: Settings
    prompt: int | None
    records: tuple[Record, ...]
    simulated: bool = False
    eos: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """What was generated."""
        return tuple(token for r in self.records if isinstance(r, Received) for token in r.tokens)

    @property
    def luck(self) -> str:
        """Where the draft agreed with the text; see `pearl.decoding.exchanges.agreement`."""
        return next(iter(agreement(self.records).values()), "")


def read(path: pathlib.Path) -> list[Request]:
    """The requests of a trace file, of real devices or simulated ones; also of one cut short.

    Raises:
        MalformedTraceError: it is no trace, does not say how it was run, or nothing was
            generated in it.
    """
    header, records, _ = trace.read(path)
    about = trace.about(path, header)
    name = path.name.removesuffix(".gz").removesuffix(".json")
    by_number: defaultdict[int, list[Record]] = defaultdict(list)
    for record in records:
        by_number[record.request].append(record)
    found = [
        Request(
            name=name if len(by_number) == 1 else f"{name} {number}",
            run=str(path),
            settings=about.settings,
            prompt=about.prompts[place] if place < len(about.prompts) else None,
            records=tuple(own),
            simulated=about.simulated,
            eos=about.eos,
        )
        for place, (number, own) in enumerate(sorted(by_number.items()))
    ]
    if not any(request.tokens for request in found):
        message = f"{path} has no token that was generated; it says nothing of any figure"
        raise MalformedTraceError(message)
    return [request for request in found if request.tokens]


def metrics(request: Request) -> Metrics:
    """The figures of a request, from its first command to its last token."""
    seen = _Seen(gamma=_gamma(request))
    return _measured(request, request.records, request.records[0].at, seen)


def least_s(request: Request) -> float:
    """Seconds that the jobs of a request must take where nothing waits for messages.

    Each round is as long as the longer of the pass and the window that is written beside it; a
    window that no pass runs beside (a head start, speculative decoding) comes on top, and so does
    nothing else. A window that was cut short was as long as its round let it be.
    """
    beside = {(job.epoch, job.base): answer for _, job, answer in exchanges.passes(request.records)}
    seconds = {place: answer.ended - answer.began for place, answer in beside.items()}
    alone = 0.0
    for _, job, answer in exchanges.windows(request.records):
        taken, place = answer.ended - answer.began, (job.epoch, job.base)
        if place not in seconds or _before(answer, beside[place]):
            alone += taken
        elif len(answer.drafted) == job.count:
            seconds[place] = max(seconds[place], taken)
    return sum(seconds.values()) + alone


def _before(window: Proposed, judged: Judged) -> bool:
    """Whether a window was written for a pass, not beside it: they stand on the same tokens."""
    return window.start < judged.base + judged.judged


def overlap_efficiency(request: Request) -> float:
    """What its jobs must take, over what the request took from the first job to the last.

    That is the speed achieved over what the measured acceptance, pass times and windows allow: the
    rounds are those that were made, so what was agreed on is the same.
    """
    passes = _jobs(request, Judged)
    began = np.concatenate([passes, _jobs(request, Proposed)])[:, 0].min()
    return least_s(request) / float(passes[:, 1].max() - began)


def control_s(request: Request) -> list[float]:
    """Seconds between two passes in which neither device worked, for each pass but the first."""
    found = []
    windows = _jobs(request, Proposed)
    passes = [tuple(job) for job in _jobs(request, Judged)]
    for (_, ended), (began, _) in itertools.pairwise(passes):
        found.append(max(0.0, began - ended - _busy(windows, ended, began)))
    return found


def runs(request: Request) -> list[Metrics]:
    """The same for every run of it, from one rejection to the next; a pass a run without a draft.

    Runs are what repeats itself in a request: of one request alone they give the intervals. The
    last one is cut short by the end of the text.
    """
    since, seen, found = request.records[0].at, _Seen(gamma=_gamma(request)), []
    busy = {kind: _jobs(request, kind) for kind in (Proposed, Judged)}
    for part in _parts(request):
        until = part[-1].at
        run = _measured(request, part, since, seen, until=until)
        # A job goes on from run to run; each has the time that it spent in it.
        draft, target = (_idle(jobs, since, until) for jobs in busy.values())
        found.append(msgspec.structs.replace(run, draft_idle=draft, target_idle=target))
        since = until
    return found


def figures(requests: Sequence[Request]) -> Figures:
    """Every figure with its interval: over requests, or of a single one over its runs."""
    if len(requests) > 1:
        return over_requests([metrics(request) for request in requests])
    (single,) = requests
    whole = metrics(single)
    of_runs = over_requests(runs(single))
    # A request has one first token, and a median of rounds is no sum of its runs'.
    alone = over_requests([whole])
    return msgspec.structs.replace(
        of_runs,
        time_to_first_token_s=alone.time_to_first_token_s,
        control_us_per_round=alone.control_us_per_round,
    )


def shares(requests: Sequence[Request]) -> dict[str, dict[str, float]]:
    """How draft and target spent the time of requests: by device and part, summing to 1.

    The parts have the names of `pearl.analysis.figures.waiting_bars`. A device waits for the other
    while that one works, and for messages (and the scheduler) while neither does. Of the draft's
    work so much is wasted as of its tokens; a pass is wasted if its verdict was not wanted.
    """
    parts = {device: dict.fromkeys(PARTS, 0.0) for device in DEVICES}
    for request in requests:
        for device, seconds in _spent(request).items():
            for part, value in seconds.items():
                parts[device][part] += value
    return {
        str(device): {part: value / sum(own.values()) for part, value in own.items()}
        for device, own in parts.items()
    }


def _spent(request: Request) -> dict[Device, dict[str, float]]:
    """Seconds of each device in a request, by part."""
    figures, since = metrics(request), request.records[0].at
    until = since + figures.seconds
    passes = [r for r in request.records if isinstance(r, Received) and isinstance(r.event, Judged)]
    lost = sum(not record.wanted for record in passes) / max(1, len(passes))
    jobs = {DRAFT: _jobs(request, Proposed), TARGET: _jobs(request, Judged)}
    either = _busy(np.concatenate(list(jobs.values())), since, until)
    found = {}
    for device, wasted in ((DRAFT, figures.wasted), (TARGET, lost)):
        busy = _busy(jobs[device], since, until)
        found[device] = {
            "useful": busy * (1 - wasted),
            "wasted": busy * wasted,
            "waiting_for_other": either - busy,
            "waiting_for_messages": figures.seconds - either,
        }
    return found


def overlap(requests: Sequence[Request]) -> bool:
    """Whether some of them ran at the same time, so that one's times are not its own."""
    spans = sorted((r.run, r.records[0].at, r.records[-1].at) for r in requests)
    return any(
        one == other and ended > began
        for (one, _, ended), (other, began, _) in itertools.pairwise(spans)
    )


def _jobs(request: Request, kind: type[Proposed | Judged]) -> NDArray[np.float64]:
    """When each job of a device began and ended, shape (jobs, 2)."""
    answers = [r.event for r in request.records if isinstance(r, Received)]
    times = [(e.began, e.ended) for e in answers if isinstance(e, kind)]
    return np.array(times, dtype=float).reshape(-1, 2)


def _busy(jobs: NDArray[np.float64], since: float, until: float) -> float:
    """Seconds of a time in which any of these jobs ran."""
    inside = np.clip(jobs[np.argsort(jobs[:, 0])], since, until)
    ended = np.maximum.accumulate(np.append(since, inside[:, 1]))
    return float(np.maximum(inside[:, 1] - np.maximum(inside[:, 0], ended[:-1]), 0).sum())


def _idle(jobs: NDArray[np.float64], since: float, until: float) -> float:
    """The share of a time in which none of these jobs ran."""
    return 1 - _busy(jobs, since, until) / (until - since) if until > since else 0.0


class _Seen(msgspec.Struct):
    """How far into a request was counted, and the window of all of it."""

    gamma: int
    kept: int = 0
    rejections: int = 0
    without_draft: bool = False


def _parts(request: Request) -> Iterator[list[Record]]:
    """The records up to the last token, divided where a rejection was seen; else at each pass."""
    last = max(n for n, r in enumerate(request.records) if isinstance(r, Received) and r.tokens)
    part: list[Record] = []
    rejections = 0
    for record in request.records[: last + 1]:
        part.append(record)
        if not isinstance(record, Received):
            continue
        if record.rejections > rejections or (not request.settings.kind.drafts and record.tokens):
            rejections = record.rejections
            yield part
            part = []
    if part:
        yield part


def _measured(
    request: Request,
    records: Sequence[Record],
    since: float,
    seen: _Seen,
    *,
    until: float | None = None,
) -> Metrics:
    """What the meter says of some records, which begin where the counting had ended."""
    meter = Meter(since)
    rounds = tokens = without_draft = 0
    losses = dict.fromkeys(DEVICES, 0)
    kept, rejections = seen.kept, seen.rejections
    for record in records:
        if isinstance(record, Sent):
            continue
        match record.event:
            case DeviceLost(device=device):
                losses[device] += 1
                seen.without_draft |= device == DRAFT
            case DeviceBack(device=device):
                seen.without_draft &= device != DRAFT
            case Proposed() | Judged() as answer:
                meter.add(answer, wanted=record.wanted)
                if isinstance(answer, Judged) and record.wanted:
                    rounds += answer.passes
        seen.kept, seen.rejections = record.kept, record.rejections
        if record.tokens:
            meter.commit(record.at)
            tokens += len(record.tokens)
            without_draft += len(record.tokens) if seen.without_draft else 0
    if until is not None:
        meter.commit(until)
    settings = request.settings
    counts = Counts(
        rounds=rounds,
        kept=seen.kept - kept,
        rejections=seen.rejections - rejections,
        draft_losses=losses[DRAFT],
        target_losses=losses[TARGET],
        tokens_without_draft=without_draft,
    )
    return meter.metrics(
        counts,
        schedule=settings.schedule,
        verifier=settings.effective_verifier,
        gamma=seen.gamma,
        tokens=tokens,
    )


def _gamma(request: Request) -> int:
    """The window; of automatic ones the last, where the text had room for a whole one."""
    settings = request.settings
    if not settings.kind.drafts:
        return 0
    if isinstance(settings.gamma, int):
        return settings.gamma
    window, beside, end = 0, False, len(request.tokens)
    for record in request.records:
        command = record.command if isinstance(record, Sent) else None
        # A window that is not written where the schedule writes its own is a head start.
        if isinstance(command, Propose) and beside is settings.kind.parallel:
            whole = command.base + len(command.pending) + command.count + 1 < end
            window = command.count if whole else max(window, command.count)
        beside = isinstance(command, Judge)
    return window
