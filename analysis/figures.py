"""Figures: a table in, axes out, and nothing of matplotlib's global state.

    timeline       the rounds of one request: who worked when, what was thrown away, who waited
    speedup_map    how much faster than the target alone, and where one schedule overtakes another
    waiting_bars   what draft and target spend their time on, schedule by schedule
    save           one of them as a file

A figure is drawn on axes that the caller owns, so that a page of several is the caller's to lay
out. The same colour means the same thing in all of them; hatches and shades of different darkness
keep that so in a print without colours.

    save("run.svg", lambda axes: timeline(axes, records, title="PEARL, gamma 5"))

This is the home of matplotlib: the rest of the project imports this module late, or not at all.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, StrMethodFormatter
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray

from decoding.errors import SettingError
from decoding.messages import Device, Judged, Propose, Proposed, TokenId
from decoding.settings import ScheduleName
from decoding.trace import Received, Record, Sent

Numbers: TypeAlias = NDArray[np.float64]
Overtaking: TypeAlias = tuple[ScheduleName, ScheduleName, Any]  # one, other, the other's lead
SUFFIXES: Final = (".png", ".svg")
SKIP: Final = 2  # passes at the start of a request that may read the prompt
ROUNDS: Final = 10

INK, SOFT = "#1f2328", "#656d76"
SMALL: Final = 8.5  # points
POINTS: Final = 72  # to the inch
WORD: Final = 24  # points that a share needs, in width
FINER: Final = 8  # points in the place of one, where lines are looked for
HAIR: Final = 1e-6  # no bar is as narrow as this, unless by rounding: 1 ns, or a millionth
SHORT: Final = 0.15  # of the axes: a line that has no name
UPRIGHT: Final = 91  # degrees: words turned further stand on their heads; level lines read up
TIE: Final = 1e-9  # speeds as close as this are the same


@dataclass(frozen=True, slots=True)
class Paint:
    """How one thing looks in every figure; `ink` is for words on it."""

    face: str
    ink: str = INK
    hatch: str = ""
    edge: str = "white"


DRAFT: Final = Paint("#2a9d8f", ink="white")
TARGET: Final = Paint("#4a5bc4", ink="white")
WASTED: Final = Paint("#f2b263", hatch="////")
WAITING: Final = Paint("#e6e9ed")
MESSAGES: Final = Paint("#e6e9ed", hatch="....", edge="#8c959f")
DOWN: Final = Paint("#3b4047", ink="white", hatch="xx", edge="#656d76")
NO_WORK: Final = Paint("white", edge="#c4cad1")
# What a bar of the timeline can be, in the order of its legend.
PIECES: Final[Mapping[str, Paint]] = {
    "target pass": TARGET,
    "draft window, kept": DRAFT,
    "wasted": WASTED,
    "waiting": WAITING,
}
USEFUL: Final = {Device.TARGET: "target pass", Device.DRAFT: "draft window, kept"}
ROWS: Final = {Device.TARGET: 1, Device.DRAFT: 0}

# The parts of a device's time, by the names that `simulator.answers.Waiting` gives them.
PARTS: Final[Mapping[str, str]] = {
    "useful": "{device}, useful",
    "wasted": "wasted",
    "waiting_for_other": "waiting for the other",
    "waiting_for_messages": "waiting for messages",
    "down": "down",
    "without_work": "without work",
}
SHARES: Final[Mapping[str, Paint]] = {
    "draft, useful": DRAFT,
    "target, useful": TARGET,
    "wasted": WASTED,
    "waiting for the other": WAITING,
    "waiting for messages": MESSAGES,
    "down": DOWN,
    "without work": NO_WORK,
}

LINES: Final[Mapping[ScheduleName, Mapping[str, str]]] = {
    ScheduleName.AR: {"color": SOFT, "linestyle": ":", "marker": "."},
    ScheduleName.SD: {"color": "#b5467f", "linestyle": "--", "marker": "s"},
    ScheduleName.PEARL: {"color": INK, "linestyle": "-", "marker": "o"},
}
RATE, RATIO = "acceptance rate α", "speed ratio c"


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar, in the units of its axes."""

    row: int
    left: float
    width: float


# -- files -------------------------------------------------------------------------------------


def check_figure_path(file: str | Path) -> Path:
    """Where a figure is to go; for callers that want to know before a long run.

    Raises:
        SettingError: its name does not say that it is a PNG or an SVG.
    """
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        allowed = " or ".join(SUFFIXES)
        raise SettingError(f"{path} cannot hold a figure; its name must end in {allowed}")
    return path


def save(
    path: str | Path, draw: Callable[[Axes], object], *, size: tuple[float, float] = (9.0, 3.2)
) -> None:
    """Draw one figure into a file, PNG or SVG by its name; the same figure gives the same bytes.

    Args:
        path: the file.
        draw: what puts the figure on its axes.
        size: width and height in inches.

    Raises:
        SettingError: the name says neither; nothing has been drawn then.
    """
    checked = check_figure_path(path)
    with mpl.rc_context({"svg.hashsalt": "pearl", "hatch.linewidth": 0.8}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        kind = checked.suffix.lower()[1:]
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(checked, format=kind, dpi=160, metadata=metadata)


# -- the rounds of a request -------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
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

    def shows(self, job: Job) -> bool:
        return job.ended > self.since and job.began < self.until

    def bar(self, row: int, began: float, ended: float) -> Bar:
        """On the axes, where time is in milliseconds from the left edge."""
        return Bar(row, 1e3 * (began - self.since), 1e3 * (ended - began))


def timeline(
    axes: Axes, records: Sequence[Record], *, title: str = "", rounds: int = ROUNDS
) -> None:
    """The first rounds of one request: a bar a job, its waste apart, and the waiting between.

    On a pass stands how many tokens were committed because of it. A window's bar is divided as
    its tokens are, as if each had taken the same time. Below each row: the share of the time
    shown in which no job ran that came to its end; the device waited then, or was down.

    Args:
        axes: where to draw.
        records: the trace of one request.
        title: which run this is.
        rounds: how many passes of the target. The first two, which may read the prompt, are left
            out where enough others follow.
    """
    passes, windows = list(_passes(records)), list(_windows(records))
    axes.set_title(title, loc="left", color=INK)
    if not any(job.ended > job.began for job in passes):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no timed pass of the target in this trace", ha="center", color=SOFT)
        return
    first = SKIP if len(passes) >= SKIP + rounds else 0
    view = _view(passes, windows, first, rounds)
    _draw_rows(axes, view, {Device.TARGET: passes, Device.DRAFT: windows})
    _write_counts(axes, view, passes[first : first + rounds])
    axes.set_xlim(0, 1e3 * (view.until - view.since))
    axes.set_xlabel(f"ms from the start of round {first + 1}", loc="left", color=SOFT)
    _plain(axes)
    _legend_below(axes)


def _passes(records: Sequence[Record]) -> Iterator[Job]:
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
        yield Job(**times, useful=float(record.wanted), words=words)


def _windows(records: Sequence[Record]) -> Iterator[Job]:
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
                yield Job(began=window.began, ended=window.ended, useful=share)
            case _:
                pass


def _kept(window: Proposed, asked: Propose | None, text: Sequence[TokenId]) -> int:
    """How many of a window's tokens the text has; none if the text has not what they stand on."""
    if asked is None or text[asked.base : window.start] != asked.pending:
        return 0
    pairs = zip(window.drafted.tokens, text[window.start :], strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _view(passes: Sequence[Job], windows: Sequence[Job], first: int, rounds: int) -> View:
    """From the end of the pass before, so that each round is there with its waiting."""
    begins = min(job.began for job in (*passes, *windows))
    since = passes[first - 1].ended if first else begins
    return View(since, passes[first : first + rounds][-1].ended)


def _draw_rows(axes: Axes, view: View, jobs: Mapping[Device, Sequence[Job]]) -> None:
    bars: dict[str, list[Bar]] = {words: [] for words in PIECES}
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
        axes.text(0, row - 0.36, words, color=SOFT, fontsize=SMALL, va="top")
    _draw_bars(axes, bars, PIECES, height=0.62)
    axes.set_yticks(list(ROWS.values()), list(ROWS))
    axes.set_ylim(-0.75, 1.45)


def _gaps(jobs: Sequence[Job], view: View) -> Iterator[tuple[float, float]]:
    """The stretches of the view in which no job runs."""
    free = view.since
    for job in sorted(jobs, key=lambda job: job.began):
        if job.began > free:
            yield free, job.began
        free = max(free, job.ended)
    if free < view.until:
        yield free, view.until


def _write_counts(axes: Axes, view: View, shown: Sequence[Job]) -> None:
    room = _width(axes) / len(shown) / 2  # half of a round may be waiting
    for job in filter(view.shows, shown):
        bar = view.bar(1, job.began, job.ended)
        axes.text(
            bar.left + bar.width / 2,
            bar.row,
            job.words,
            ha="center",
            va="center",
            color=TARGET.ink,
            fontsize=min(SMALL, max(5.0, room / 1.6)),
            clip_on=True,
        )


# -- where which schedule is the fastest -------------------------------------------------------


def speedup_map(
    axes: Axes,
    alphas: Sequence[float],
    speed_ratios: Sequence[float],
    speeds: Mapping[str, ArrayLike],
    *,
    title: str = "",
) -> None:
    """How much the best schedule gains over AR, and the lines where one overtakes another.

    With a single rate or ratio there is no map to draw: then a line for each schedule.

    Args:
        axes: where to draw.
        alphas: acceptance rates, ascending.
        speed_ratios: times of a target pass over a draft step, ascending.
        speeds: by schedule (`ar`, `sd`, `pearl`, or some of them) its speed over that of AR,
            shape (speed_ratios, alphas).
        title: which run this is.

    Raises:
        SettingError: no schedule is given.
    """
    known = {n: np.asarray(speeds[n], dtype=np.float64) for n in ScheduleName if n in speeds}
    if not known:
        raise SettingError("no schedule to draw; speeds must have one of ar, sd, pearl")
    axes.set_title(title, loc="left", color=INK)
    rates, ratios = np.asarray(alphas, np.float64), np.asarray(speed_ratios, np.float64)
    if len(ratios) == 1:
        across = {name: speed[0, :] for name, speed in known.items()}
        _draw_lines(axes, rates, across, f"{RATE}  (at {RATIO} = {ratios[0]:g})")
    elif len(rates) == 1:
        across = {name: speed[:, 0] for name, speed in known.items()}
        _draw_lines(axes, ratios, across, f"{RATIO}  (at {RATE} = {rates[0]:g})")
        _scale(axes.set_xscale, axes.xaxis, ratios)
    else:
        _draw_map(axes, rates, ratios, known)


def _draw_lines(
    axes: Axes, x: Numbers, speeds: Mapping[ScheduleName, Numbers], across: str
) -> None:
    for name, speed in speeds.items():
        axes.plot(x, speed, label=name.upper(), markersize=3.5, **LINES[name])  # type: ignore[arg-type]
    axes.set_xlabel(across, color=SOFT)
    axes.set_ylabel("speed over AR", color=SOFT)
    axes.grid(color=WAITING.face, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_below(axes, entry=70)


def _draw_map(
    axes: Axes, rates: Numbers, ratios: Numbers, speeds: Mapping[ScheduleName, Numbers]
) -> None:
    x, y = _finer(rates), _finer(ratios)
    fine = {name: _interpolated(speed, rates, ratios, x, y) for name, speed in speeds.items()}
    best = np.fmax.reduce(list(fine.values()))
    mesh = axes.pcolormesh(x, y, best, cmap="cividis", shading="gouraud", rasterized=True)
    _scale(axes.set_yscale, axes.yaxis, ratios)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.set_xlabel(RATE, color=SOFT)
    axes.set_ylabel(RATIO, color=SOFT)
    borders = [border for pair in _overtakings(fine) for border in _borders(axes, x, y, pair)]
    for border in borders:
        _name_sides(axes, border, [other for other in borders if other is not border])
    assert axes.figure is not None
    axes.figure.colorbar(mesh, ax=axes, label=f"speed of {_fastest(fine, best)} over AR")


def _finer(points: Numbers) -> Numbers:
    """The same points and some between them, so that lines can end where three schedules meet."""
    count = FINER * (len(points) - 1) + 1
    return np.interp(np.linspace(0, len(points) - 1, count), np.arange(len(points)), points)


def _interpolated(
    speed: Numbers, rates: Numbers, ratios: Numbers, finer_rates: Numbers, finer_ratios: Numbers
) -> Numbers:
    """A speed at finer points, bilinearly."""
    along = np.array([np.interp(finer_rates, rates, row) for row in speed])
    return np.array([np.interp(finer_ratios, ratios, column) for column in along.T]).T


def _overtakings(speeds: Mapping[ScheduleName, Numbers]) -> Iterator[Overtaking]:
    """For each two schedules the second's lead over the first, masked where a third is ahead."""
    for one, other in itertools.combinations(speeds, 2):
        lead = speeds[other] - speeds[one]
        # Of two that are equally fast over a whole stretch none overtakes the other there.
        lead = np.where(np.abs(lead) < TIE, TIE, lead)
        ahead = np.fmax(speeds[one], speeds[other]) + TIE
        beaten = np.any([third > ahead for third in speeds.values()], axis=0)
        contested = np.ma.masked_invalid(np.where(beaten, np.nan, lead))
        if np.any(contested > 0) and np.any(contested < 0):
            yield one, other, contested


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """A line where `other` overtakes `one`: its points in parts of the axes, (points, xy).

    `other` is the faster on its left, for one who walks along the points.
    """

    one: ScheduleName
    other: ScheduleName
    points: Numbers


def _borders(axes: Axes, x: Numbers, y: Numbers, pair: Overtaking) -> Iterator[Border]:
    """Draw where the lead is zero, in ink with a pale seam; a line can have several pieces."""
    one, other, lead = pair
    lines = axes.contour(x, y, lead, levels=[0.0])
    seam = withStroke(linewidth=3, foreground="white")
    lines.set(edgecolor=INK, linewidth=1.2, path_effects=[seam])
    to_axes = axes.transData + axes.transAxes.inverted()
    for piece in lines.allsegs[0]:
        points = to_axes.transform(piece) if len(piece) else piece
        if len(points) and np.ptp(points, axis=0).max() > SHORT:
            yield Border(one, other, points)


def _name_sides(axes: Axes, border: Border, others: Sequence[Border]) -> None:
    """Across the line the two names, each on its own side."""
    points = border.points
    place = _roomiest(points, [other.points for other in others])
    size = axes.get_window_extent().size
    along = (points[min(place + 1, len(points) - 1)] - points[max(place - 1, 0)]) * size
    across = float(np.degrees(np.arctan2(along[0], -along[1])))
    names, angle = (border.one, border.other), across
    if not UPRIGHT - 180 < across <= UPRIGHT:
        names, angle = (border.other, border.one), across - float(np.copysign(180, across))
    x, y = points[place]
    axes.text(
        x,
        y,
        " | ".join(name.upper() for name in names),
        transform=axes.transAxes,
        rotation=angle,
        ha="center",
        va="center",
        color=INK,
        fontsize=SMALL,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
    )


def _roomiest(points: Numbers, others: Sequence[Numbers]) -> int:
    """The point that is farthest from all other lines and from the edges."""
    rivals = np.concatenate([np.full((1, 2), np.inf), *others])
    apart = np.linalg.norm(points[:, None] - rivals[None], axis=2).min(axis=1)
    inside = np.minimum(points, 1 - points).min(axis=1)
    return int(np.argmax(np.minimum(apart, inside)))


def _fastest(speeds: Mapping[ScheduleName, Numbers], best: Numbers) -> str:
    """Whose speed the colour is; where one schedule is nowhere behind, its name."""
    for name, speed in speeds.items():
        if np.all((speed >= best - TIE) | np.isnan(best)):
            return name.upper()
    return "the fastest"


def _growing(values: Numbers) -> bool:
    """Whether the steps grow, as in 1, 2, 4, 8: such an axis is logarithmic."""
    steps = np.diff(values)
    return len(steps) > 1 and bool(values[0] > 0 and steps[-1] > 2 * steps[0])


def _scale(set_scale: Callable[[str], None], axis: Axis, values: Numbers) -> None:
    """Powers of two along an axis whose points are that far apart."""
    if _growing(values):
        set_scale("log")
        axis.set_major_locator(LogLocator(base=2))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())


# -- what the devices spend their time on ------------------------------------------------------


def waiting_bars(
    axes: Axes, shares: Mapping[str, Mapping[str, Mapping[str, float]]], *, title: str = ""
) -> None:
    """For each schedule how draft and target spent the run, as shares that sum to 1.

    Args:
        axes: where to draw.
        shares: schedule -> device -> part -> share. Devices are `draft` and `target`, parts
            those of `PARTS`; what is missing is 0.
        title: which run this is.

    Raises:
        SettingError: a part has another name.
    """
    bars: dict[str, list[Bar]] = {words: [] for words in SHARES}
    ticks: dict[int, str] = {}
    for number, (schedule, devices) in enumerate(shares.items()):
        # Three lines a schedule: its name, then its two devices.
        axes.text(0, 3 * number + 0.3, schedule.upper(), weight="bold", color=INK, va="center")
        for line, device in enumerate(Device, start=3 * number + 1):
            ticks[line] = device
            for words, bar in _parts(line, device, devices.get(device, {})):
                bars[words].append(bar)
    axes.set_title(title, loc="left", color=INK)
    axes.set_xlim(0, 1)
    _draw_bars(axes, bars, SHARES, height=0.8)
    _write_shares(axes, bars)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(3 * len(shares) - 0.4, -0.2)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
    axes.set_xlabel("share of the run", loc="left", color=SOFT)
    _plain(axes)
    _legend_below(axes)


def _parts(line: int, device: Device, shares: Mapping[str, float]) -> Iterator[tuple[str, Bar]]:
    """What a device did, in the order of `PARTS`, one behind the other."""
    unknown = shares.keys() - PARTS.keys()
    if unknown:
        allowed = ", ".join(PARTS)
        raise SettingError(f"a share is of {min(unknown)!r}; it must be of one of {allowed}")
    left = 0.0
    for part, words in PARTS.items():
        share = shares.get(part, 0.0)
        yield words.format(device=device), Bar(line, left, share)
        left += share


def _write_shares(axes: Axes, bars: Mapping[str, Sequence[Bar]]) -> None:
    """On each bar that has room for it, its share."""
    room = _width(axes)
    for words, found in bars.items():
        for bar in found:
            if bar.width * room > WORD:
                middle, share = bar.left + bar.width / 2, f"{100 * bar.width:.0f} %"
                color, box = SHARES[words].ink, {"facecolor": SHARES[words].face, "pad": 1.0}
                axes.text(
                    middle,
                    bar.row,
                    share,
                    color=color,
                    fontsize=SMALL,
                    ha="center",
                    va="center_baseline",
                    bbox=box | {"edgecolor": "none"},
                )


# -- what figures share ------------------------------------------------------------------------


def _draw_bars(
    axes: Axes, bars: Mapping[str, Sequence[Bar]], paints: Mapping[str, Paint], *, height: float
) -> None:
    """All bars of one kind at once, so that the legend has one entry for them."""
    for words, found in bars.items():
        some, paint = [bar for bar in found if bar.width > HAIR], paints[words]
        if some:
            axes.barh(
                [bar.row for bar in some],
                [bar.width for bar in some],
                left=[bar.left for bar in some],
                height=height,
                label=words,
                facecolor=paint.face,
                edgecolor=paint.edge,
                hatch=paint.hatch,
                linewidth=0.8,
            )


def _plain(axes: Axes) -> None:
    """Rows need no frame: time alone has an axis."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _legend_below(axes: Axes, *, entry: float = 115) -> None:
    """Outside the data and below the words of the axis, whatever the size of the axes.

    Args:
        axes: whose legend.
        entry: points that an entry takes, in width; so many stand in a line as there is room for.
    """
    assert axes.figure is not None
    drop = ScaledTranslation(0, -40 / POINTS, axes.figure.dpi_scale_trans)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + drop,
        ncols=max(1, int(_width(axes) / entry)),
        fontsize=SMALL,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
    )


def _width(axes: Axes) -> float:
    """How wide the axes are, in points."""
    assert axes.figure is not None
    return axes.get_window_extent().width * POINTS / axes.figure.dpi
