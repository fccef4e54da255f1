"""Systems beside each other, a line each: how fast, by whom, and what lies between the answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

from pearl.analysis.figures import style
from pearl.decoding.estimates import Estimate

# One a part, in the order in which parts come; neighbours differ in darkness.
LAYERS: Final = (
    style.TARGET,
    style.Paint("#b9c2ee"),
    style.DRAFT,
    style.Paint("#a8d5ce", hatch="\\\\\\\\"),
    style.WASTED,
    style.Paint("#8c6d1f", ink="white"),
    style.Paint("#e3c9dd", hatch="||||"),
    style.Paint("#b5467f", ink="white"),
    style.Paint("#c4cad1"),
    style.NO_WORK,
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


def side_by_side(axes: Axes, rows: Sequence[ThreeAnswers], *, title: str = "") -> None:
    """A line a system: what theory said, what the simulation said, what was measured.

    Args:
        axes: where to draw.
        rows: the systems, from above.
        title: which run this is.
    """
    for line, row in enumerate(rows):
        if row.measured.interval is not None:
            axes.plot(row.measured.interval, (line, line), color=style.INK, linewidth=1.4, zorder=2)
    said, made = [row.theory for row in rows], [row.simulation for row in rows]
    style.draw_marks(axes, said, "theory", marker="d", markeredgecolor=style.SOFT, **OPEN)
    style.draw_marks(
        axes, made, "simulation", marker="s", markeredgecolor=style.TARGET.face, **OPEN
    )
    measured = [row.measured.value for row in rows]
    look = {"marker": "o", "markersize": 5}
    style.draw_marks(axes, measured, "measured, 95 % interval", color=style.INK, **look)
    style.name_lines(axes, [row.name for row in rows], across="tokens/s", title=title)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=style.WAITING.face, linewidth=0.8)
    axes.set_axisbelow(True)
    style.legend_below(axes, entry=140)


def factor_bars(axes: Axes, factors: Mapping[str, Mapping[Any, float]], *, title: str = "") -> None:
    """What makes each system slower (to the left) or faster than theory says, part by part.

    Lengths are logarithms, so that bars in a row are factors one upon the other.

    Args:
        axes: where to draw.
        factors: system -> part -> what it multiplies the speed by; a diamond marks the product.
        title: which run this is.
    """
    parts = list(dict.fromkeys(part for own in factors.values() for part in own))
    ends = {line: [1.0, 1.0] for line in range(len(factors))}  # so far to the left, to the right
    for number, part in enumerate(parts):
        lefts, widths = [], []
        for line, own in enumerate(factors.values()):
            factor = own.get(part, 1.0)
            side = int(factor > 1)
            lefts.append(ends[line][side])
            ends[line][side] *= factor
            widths.append(ends[line][side] - lefts[-1])
        paint = LAYERS[number % len(LAYERS)]
        axes.barh(
            range(len(factors)),
            widths,
            left=lefts,
            height=0.62,
            label=str(part),
            facecolor=paint.face,
            edgecolor=style.INK if paint is style.NO_WORK else paint.edge,
            hatch=paint.hatch,
            linewidth=0.6,
        )
    wholes = [math.prod(own.values()) for own in factors.values()]
    look = {"marker": "D", "markersize": 6, "markeredgecolor": "white"}
    style.draw_marks(axes, wholes, "all", color=style.INK, **look)
    axes.axvline(1, color=style.INK, linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    style.name_lines(axes, list(factors), across="times the speed that theory says", title=title)
    style.legend_below(axes, entry=130)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One system.

    Args:
        name: of it.
        measured: speed over AR.
        theory: what theory allows it; None where theory does not speak of it.
        ours: whether a schedule of this project decodes.
    """

    name: str
    measured: Estimate
    theory: float | None = None
    ours: bool = True


def speeds(axes: Axes, rows: Sequence[Speed], *, title: str = "") -> None:
    """A bar a system, with its interval, and a tick at what theory allows.

    Args:
        axes: where to draw.
        rows: the systems, from above.
        title: which run this is.
    """
    owners = (True, "this project", style.TARGET.face), (False, "Hugging Face", style.SOFT)
    for ours, owner, face in owners:
        lines = [line for line, row in enumerate(rows) if row.ours is ours]
        values = [rows[line].measured.value or 0.0 for line in lines]
        if lines:
            axes.barh(lines, values, height=0.56, color=face, label=owner, zorder=1)
    words: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    words |= {"color": "white", "fontsize": style.SMALL, "zorder": 5}
    for line, row in enumerate(rows):
        if row.measured.value is not None:  # inside the bar at its beginning
            axes.annotate(f"{row.measured.value:.2f}", (0, line), **words)
    known = [(row.measured.interval, line) for line, row in enumerate(rows)]
    for number, (ends, line) in enumerate((e, n) for e, n in known if e is not None):
        label = "" if number else "95 % interval over prompts"
        axes.plot(ends, (line, line), color=style.INK, linewidth=1.6, label=label, zorder=3)
    look: dict[str, Any] = {"marker": "d", "markersize": 8, "markerfacecolor": "white", "zorder": 4}
    allowed = [row.theory for row in rows]
    style.draw_marks(axes, allowed, "theory, at its own values", markeredgecolor=style.INK, **look)
    axes.axvline(1, color=style.INK, linewidth=1, linestyle=":")
    style.name_lines(axes, [row.name for row in rows], across="speed over AR", title=title)
    reach = [x for row in rows for x in (row.theory, row.measured.high, row.measured.value) if x]
    axes.set_xlim(0, 1.1 * max(reach, default=1.0))
    axes.grid(axis="x", color=style.WAITING.face, linewidth=0.8)
    axes.set_axisbelow(True)
    style.legend_below(axes, entry=150)
