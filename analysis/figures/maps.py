"""How much faster than the target alone, and where one schedule overtakes another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from numpy.typing import ArrayLike, NDArray

from pearl.analysis.figures import style
from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES

Numbers: TypeAlias = NDArray[np.float64]
Overtaking: TypeAlias = tuple[str, str, Any]  # one, other, the other's lead
FINER: Final = 8  # points in the place of one, where lines are looked for
SHORT: Final = 0.15  # of the axes: a line that has no name
UPRIGHT: Final = 91  # degrees: words turned further stand on their heads; level lines read up
TIE: Final = 1e-9  # speeds as close as this are the same
RATE, RATIO = "acceptance rate α", "speed ratio c"


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
        speeds: by schedule (`ar`, `sd`, `pearl`, `head start`, or some of them) its speed over
            that of AR, shape (speed_ratios, alphas). PEARL with its best head start is never
            behind PEARL; one line shows where it begins to pay, and the other lines are drawn as
            if there were none.
        title: which run this is.

    Raises:
        SettingError: no schedule is given.
    """
    names = style.schedule_lines()
    known = {n: np.asarray(speeds[n], dtype=np.float64) for n in names if n in speeds}
    if not known:
        raise SettingError(f"no schedule to draw; speeds must have one of {', '.join(names)}")
    axes.set_title(title, loc="left", color=style.INK)
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


def _draw_lines(axes: Axes, x: Numbers, speeds: Mapping[str, Numbers], across: str) -> None:
    lines = style.schedule_lines()
    for name, speed in speeds.items():
        look: dict[str, Any] = asdict(lines[name])
        axes.plot(x, speed, label=style.in_words(name), markersize=3.5, **look)
    style.frame(axes, across=across, up="speed over AR")
    style.legend_below(axes, entry=70)


def _draw_map(axes: Axes, rates: Numbers, ratios: Numbers, speeds: Mapping[str, Numbers]) -> None:
    x, y = _finer(rates), _finer(ratios)
    fine = {name: _interpolated(speed, rates, ratios, x, y) for name, speed in speeds.items()}
    best = np.fmax.reduce(list(fine.values()))
    mesh = axes.pcolormesh(x, y, best, cmap="cividis", shading="gouraud", rasterized=True)
    _scale(axes.set_yscale, axes.yaxis, ratios)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    axes.set_xlabel(RATE, color=style.SOFT)
    axes.set_ylabel(RATIO, color=style.SOFT)
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


def _overtakings(speeds: Mapping[str, Numbers]) -> Iterator[Overtaking]:
    """For each two schedules the second's lead over the first, masked where a third is ahead."""
    rivals = {name: speed for name, speed in speeds.items() if name != style.HEAD_START}
    for one, other in itertools.combinations(rivals, 2):
        lead = speeds[other] - speeds[one]
        # Of two that are equally fast over a whole stretch none overtakes the other there.
        lead = np.where(np.abs(lead) < TIE, TIE, lead)
        ahead = np.fmax(speeds[one], speeds[other]) + TIE
        beaten = np.any([third > ahead for third in rivals.values()], axis=0)
        contested = np.ma.masked_invalid(np.where(beaten, np.nan, lead))
        if np.any(contested > 0) and np.any(contested < 0):
            yield one, other, contested
    plain = next((name for name, kind in SCHEDULES.items() if kind.takes("head_start")), "")
    if style.HEAD_START in speeds and plain in speeds:
        # Never behind PEARL, which is the same without one: the line is where it begins to pay.
        lead = speeds[style.HEAD_START] - speeds[plain]
        pays = np.ma.masked_invalid(np.where(lead < TIE, -TIE, lead))
        if np.any(pays > 0) and np.any(pays < 0):
            yield plain, style.HEAD_START, pays


@dataclass(frozen=True, slots=True, eq=False)
class Border:
    """A line where `other` overtakes `one`: its points in parts of the axes, (points, xy).

    `other` is the faster on its left, for one who walks along the points.
    """

    one: str
    other: str
    points: Numbers


def _borders(axes: Axes, x: Numbers, y: Numbers, pair: Overtaking) -> Iterator[Border]:
    """Draw where the lead is zero, in ink with a pale seam; a line can have several pieces."""
    one, other, lead = pair
    lines = axes.contour(x, y, lead, levels=[0.0])
    seam = withStroke(linewidth=3, foreground="white")
    lines.set(edgecolor=style.INK, linewidth=1.2, path_effects=[seam])
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
    words = " | ".join(map(style.in_words, names))
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    look: dict[str, Any] = {"transform": axes.transAxes, "rotation": angle, "bbox": box}
    style.write(axes, x, y, words, color=style.INK, **look)


def _roomiest(points: Numbers, others: Sequence[Numbers]) -> int:
    """The point that is farthest from all other lines and from the edges."""
    rivals = np.concatenate([np.full((1, 2), np.inf), *others])
    apart = np.linalg.norm(points[:, None] - rivals[None], axis=2).min(axis=1)
    inside = np.minimum(points, 1 - points).min(axis=1)
    return int(np.argmax(np.minimum(apart, inside)))


def _fastest(speeds: Mapping[str, Numbers], best: Numbers) -> str:
    """Whose speed the colour is; where one schedule is nowhere behind, its name."""
    for name, speed in speeds.items():
        if np.all((speed >= best - TIE) | np.isnan(best)):
            return style.in_words(name)
    return "the fastest"


def _scale(set_scale: Callable[[str], None], axis: Axis, values: Numbers) -> None:
    """Powers of two along an axis whose points are that far apart."""
    steps = np.diff(values)
    if len(steps) > 1 and values[0] > 0 and steps[-1] > 2 * steps[0]:  # as in 1, 2, 4, 8
        set_scale("log")
        axis.set_major_locator(LogLocator(base=2))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
