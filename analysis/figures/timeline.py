"""The rounds of one request: who worked when, what was thrown away, who waited."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes

from pearl.analysis.figures import style
from pearl.decoding.messages import Judged, Propose, Proposed, Role, TokenId
from pearl.decoding.trace import Received, Record, Sent

SKIP: Final = 2  # passes at the start of a request that may read the prompt
ROUNDS: Final = 10
# What a bar of the timeline can be, in the order of its legend.
PIECES: Final[Mapping[str, style.Paint]] = {
    "target pass": style.TARGET,
    "draft window, kept": style.DRAFT,
    "wasted": style.WASTED,
    "waiting": style.WAITING,
}
USEFUL: Final = {Role.TARGET: "target pass", Role.DRAFT: "draft window, kept"}
ROWS: Final = {Role.TARGET: 1, Role.DRAFT: 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class BusySpan:
    """A device at work, in seconds; of its time this share was of use."""

    began: float
    ended: float
    useful: float
    words: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """The stretch of time that is shown, in seconds on the devices' clock."""

    since: float
    until: float

    def shows(self, job: BusySpan) -> bool:
        return job.ended > self.since and job.began < self.until

    def bar(self, row: int, began: float, ended: float) -> style.Bar:
        """On the axes, where time is in milliseconds from the left edge."""
        return style.Bar(row, 1e3 * (began - self.since), 1e3 * (ended - began))


def timeline(
    axes: Axes, records: Sequence[Record], *, title: str = "", rounds: int = ROUNDS
) -> None:
    """The first rounds of one request: a bar a job, its waste apart, and the waiting between.

    On a pass stands how many tokens were committed because of it. A window's bar is divided as
    its tokens are, as if each had taken the same time. Below each row: the share of the time
    shown in which no job ran that came to its end; the device was idle then, or down.

    Args:
        axes: where to draw.
        records: the trace of one request.
        title: which run this is.
        rounds: how many passes of the target. The first two, which may read the prompt, are left
            out where enough others follow.
    """
    passes, windows = list(_passes(records)), list(_windows(records))
    axes.set_title(title, loc="left", color=style.INK)
    if not any(job.ended > job.began for job in passes):
        axes.set_axis_off()
        words = "no timed pass of the target in this trace"
        axes.text(0.5, 0.5, words, ha="center", color=style.SOFT)
        return
    first = SKIP if len(passes) >= SKIP + rounds else 0
    view = _view(passes, windows, first, rounds)
    _draw_rows(axes, view, {Role.TARGET: passes, Role.DRAFT: windows})
    _write_counts(axes, view, passes[first : first + rounds])
    axes.set_xlim(0, 1e3 * (view.until - view.since))
    axes.set_xlabel(f"ms from the start of round {first + 1}", loc="left", color=style.SOFT)
    style.plain(axes)
    style.legend_below(axes)


def _passes(records: Sequence[Record]) -> Iterator[BusySpan]:
    """The target's passes, each with the tokens that were committed because of it.

    With a barrier these come when the window beside it is in, and a verdict that took no pass
    belongs to the pass before; so whatever is committed counts for the latest pass.
    """
    passes: list[Received] = []
    committed: Counter[int] = Counter()
    latest = -1
    for record in records:
        if not isinstance(record, Received):
            continue
        if isinstance(record.event, Judged) and record.event.passes:
            latest = len(passes) if record.wanted else latest
            passes.append(record)
        committed[latest] += len(record.tokens)
    for number, record in enumerate(passes):
        assert isinstance(record.event, Judged)
        words = f"+{committed[number]}" if record.wanted else ""
        times = {"began": record.event.began, "ended": record.event.ended}
        yield BusySpan(**times, useful=float(record.wanted), words=words)


def _windows(records: Sequence[Record]) -> Iterator[BusySpan]:
    """The draft's windows, with the share of their tokens that the text has."""
    text = tuple(t for r in records if isinstance(r, Received) for t in r.tokens)
    stood_on: dict[tuple[int, int], Propose] = {}
    for record in records:
        match record:
            case Sent(command=Propose() as asked):
                stood_on[asked.epoch, asked.base + len(asked.pending)] = asked
            case Received(event=Proposed() as window, wanted=wanted):
                asked_for = stood_on.get((window.epoch, window.start)) if wanted else None
                kept = _kept(window, asked_for, text)
                share = kept / len(window.drafted) if kept else 0.0
                yield BusySpan(began=window.began, ended=window.ended, useful=share)
            case _:
                pass


def _kept(window: Proposed, asked: Propose | None, text: Sequence[TokenId]) -> int:
    """How many of a window's tokens the text has; none if the text has not what they stand on."""
    if asked is None or text[asked.base : window.start] != asked.pending:
        return 0
    pairs = zip(window.drafted.tokens, text[window.start :], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _view(passes: Sequence[BusySpan], windows: Sequence[BusySpan], first: int, rounds: int) -> View:
    """From the end of the pass before, so that each round is there with its waiting."""
    begins = min(job.began for job in (*passes, *windows))
    since = passes[first - 1].ended if first else begins
    return View(since, passes[first : first + rounds][-1].ended)


def _draw_rows(axes: Axes, view: View, jobs: Mapping[Role, Sequence[BusySpan]]) -> None:
    bars: dict[str, list[style.Bar]] = {words: [] for words in PIECES}
    for device, row in ROWS.items():
        shown = [job for job in jobs[device] if view.shows(job)]
        gaps = list(_gaps(shown, view)) if jobs[device] else []
        bars["waiting"] += [view.bar(row, *gap) for gap in gaps]
        for job in shown:
            turn = job.began + job.useful * (job.ended - job.began)
            bars[USEFUL[device]].append(view.bar(row, job.began, turn))
            bars["wasted"].append(view.bar(row, turn, job.ended))
        share = sum(ended - began for began, ended in gaps) / (view.until - view.since)
        words = f"waits {100 * share:.0f} %" if jobs[device] else "not used"
        axes.text(0, row - 0.36, words, color=style.SOFT, fontsize=style.SMALL, va="top")
    style.draw_bars(axes, bars, PIECES, height=0.62)
    axes.set_yticks(list(ROWS.values()), list(ROWS))
    axes.set_ylim(-0.75, 1.45)


def _gaps(jobs: Sequence[BusySpan], view: View) -> Iterator[tuple[float, float]]:
    """The stretches of the view in which no job runs."""
    free = view.since
    for job in sorted(jobs, key=lambda job: job.began):
        if job.began > free:
            yield free, job.began
        free = max(free, job.ended)
    if free < view.until:
        yield free, view.until


def _write_counts(axes: Axes, view: View, shown: Sequence[BusySpan]) -> None:
    room = style.width_in_points(axes) / len(shown) / 2  # half of a round may be waiting
    size = min(style.SMALL, max(5.0, room / 1.6))
    look: dict[str, Any] = {"color": style.TARGET.ink, "fontsize": size, "clip_on": True}
    for job in filter(view.shows, shown):
        bar = view.bar(1, job.began, job.ended)
        style.write(axes, bar.left + bar.width / 2, bar.row, job.words, **look)
