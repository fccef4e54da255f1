"""How fast systems are beside each other: one line a system, AR at one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from analysis.figures import style
from decoding.estimates import Estimate


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
    for ours, words, face in (
        (True, "this project", style.TARGET.face),
        (False, "Hugging Face", style.SOFT),
    ):
        lines = [line for line, row in enumerate(rows) if row.ours is ours]
        values = [rows[line].measured.value or 0.0 for line in lines]
        if lines:
            axes.barh(lines, values, height=0.56, color=face, label=words, zorder=1)
    for line, row in enumerate(rows):
        _draw_words(axes, line, row)
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


def _draw_words(axes: Axes, line: int, row: Speed) -> None:
    """The value, inside the bar at its beginning."""
    if row.measured.value is not None:
        words = f"{row.measured.value:.2f}"
        axes.annotate(
            words,
            (0, line),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color="white",
            fontsize=style.SMALL,
            zorder=5,
        )
