"""Theory, simulation and measurement of several systems, and what lies between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from analysis.figures.style import (
    DRAFT,
    INK,
    NO_WORK,
    SOFT,
    TARGET,
    WAITING,
    WASTED,
    Paint,
    legend_below,
    plain,
)
from decoding.estimates import Estimate

# One a part, in the order in which parts come; neighbours differ in darkness.
LAYERS: Final = (
    TARGET,
    Paint("#b9c2ee"),
    DRAFT,
    Paint("#a8d5ce", hatch="\\\\\\\\"),
    WASTED,
    Paint("#8c6d1f", ink="white"),
    Paint("#e3c9dd", hatch="||||"),
    Paint("#b5467f", ink="white"),
    Paint("#c4cad1"),
    NO_WORK,
)
# What is measured is the smallest and on top, so that the others can be seen around it.
OPEN: Final[Mapping[str, Any]] = {
    "markersize": 9,
    "markerfacecolor": "white",
    "markeredgewidth": 1.4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreeAnswers:
    """One system, three ways; None where there is no answer."""

    name: str
    theory: float | None
    simulation: float | None
    measured: Estimate


def side_by_side(
    axes: Axes, rows: Sequence[ThreeAnswers], *, unit: str = "tokens/s", title: str = ""
) -> None:
    """A line a system: what theory said, what the simulation said, what was measured.

    Args:
        axes: where to draw.
        rows: the systems, from above.
        unit: of all values.
        title: which run this is.
    """
    for line, row in enumerate(rows):
        if row.measured.interval is not None:
            axes.plot(row.measured.interval, (line, line), color=INK, linewidth=1.4, zorder=2)
    said, made = [row.theory for row in rows], [row.simulation for row in rows]
    _draw_marks(axes, said, "theory", marker="d", markeredgecolor=SOFT, **OPEN)
    _draw_marks(axes, made, "simulation", marker="s", markeredgecolor=TARGET.face, **OPEN)
    measured = [row.measured.value for row in rows]
    _draw_marks(axes, measured, "measured, 95 % interval", marker="o", color=INK, markersize=5)
    axes.set_title(title, loc="left", color=INK)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(unit, loc="left", color=SOFT)
    axes.grid(axis="x", color=WAITING.face, linewidth=0.8)
    axes.set_axisbelow(True)
    plain(axes)
    legend_below(axes, entry=140)


def _draw_marks(axes: Axes, values: Sequence[float | None], words: str, **look: Any) -> None:
    """One mark a line, where there is a value; what is drawn later lies above."""
    known = [(value, line) for line, value in enumerate(values) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), linestyle="none", label=words, **look)


def gap_bars(axes: Axes, gaps: Mapping[str, Mapping[Any, float]], *, title: str = "") -> None:
    """What makes each system slower (to the left) or faster than theory says, part by part.

    Args:
        axes: where to draw.
        gaps: system -> part -> share of the speed; a diamond marks the sum.
        title: which run this is.
    """
    parts = list(dict.fromkeys(part for gap in gaps.values() for part in gap))
    ends = {line: [0.0, 0.0] for line in range(len(gaps))}  # so far to the left, to the right
    for number, part in enumerate(parts):
        lefts, widths = [], []
        for line, gap in enumerate(gaps.values()):
            share = gap.get(part, 0.0)
            side = int(share > 0)
            lefts.append(ends[line][side])
            widths.append(share)
            ends[line][side] += share
        paint = LAYERS[number % len(LAYERS)]
        axes.barh(
            range(len(gaps)),
            widths,
            left=lefts,
            height=0.62,
            label=str(part),
            facecolor=paint.face,
            edgecolor=INK if paint is NO_WORK else paint.edge,
            hatch=paint.hatch,
            linewidth=0.6,
        )
    sums = [sum(gap.values()) for gap in gaps.values()]
    axes.plot(
        sums,
        range(len(gaps)),
        marker="D",
        markersize=6,
        color=INK,
        markeredgecolor="white",
        linestyle="none",
        label="all",
    )
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_title(title, loc="left", color=INK)
    axes.set_yticks(range(len(gaps)), list(gaps))
    axes.set_ylim(len(gaps) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(PercentFormatter(1, None, " %"))
    axes.set_xlabel("of the speed that theory says", loc="left", color=SOFT)
    plain(axes)
    legend_below(axes, entry=130)
