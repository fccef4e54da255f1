"""What all figures share: one paint for one thing, bars, a plain frame, a legend below.

The same colour means the same thing everywhere; hatches and shades of different darkness keep that
so in a print without colours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

from pearl.decoding.kinds import SCHEDULES

INK, SOFT = "#1f2328", "#656d76"
SMALL: Final = 8.5  # points
POINTS: Final = 72  # to the inch
HAIR: Final = 1e-6  # no bar is as narrow as this, unless by rounding: 1 ns, or a millionth


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

HEAD_START: Final = "head start"  # PEARL with its best one, in figures a schedule of its own


@dataclass(frozen=True, slots=True)
class LineStyle:
    """How the line of one schedule looks."""

    color: str
    linestyle: str
    marker: str


SCHEDULE_LINES: Final = (  # in the order of their table
    LineStyle(SOFT, ":", "."),
    LineStyle("#b5467f", "--", "s"),
    LineStyle(INK, "-", "o"),
)
HEAD_START_LINE: Final = LineStyle("#7a5195", "-.", "^")
FURTHER_LINES: Final = (  # of whatever else there is
    HEAD_START_LINE,
    LineStyle("#8c6d1f", "-", "v"),
    LineStyle("#00798c", "--", "D"),
)


def schedule_lines() -> dict[str, LineStyle]:
    """The line of every schedule there is, and of PEARL with its best head start."""
    lines = itertools.chain(SCHEDULE_LINES, itertools.cycle(FURTHER_LINES[1:]))
    return dict(zip(SCHEDULES, lines, strict=False)) | {HEAD_START: HEAD_START_LINE}


def in_words(name: str) -> str:
    """A schedule as figures write it; any other name as it is."""
    return SCHEDULES[name].title if name in SCHEDULES else name


@dataclass(frozen=True, slots=True)
class Bar:
    """A horizontal bar, in the units of its axes."""

    row: int
    left: float
    width: float


def draw_bars(
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


def write(axes: Axes, x: float, y: float, words: str, **look: Any) -> None:
    """Small words around a place."""
    usual: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL}
    axes.text(x, y, words, **(usual | look))


def draw_marks(axes: Axes, values: Sequence[float | None], words: str, **look: Any) -> None:
    """One mark a line, where there is a value; what is drawn later lies above."""
    known = [(value, line) for line, value in enumerate(values) if value is not None]
    if known:
        axes.plot(*zip(*known, strict=True), linestyle="none", label=words, **look)


def name_lines(axes: Axes, names: Sequence[str], *, across: str, title: str) -> None:
    """A line for each of these, from above, and what lies across them."""
    axes.set_title(title, loc="left", color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(across, loc="left", color=SOFT)
    plain(axes)


def frame(axes: Axes, *, across: str, up: str) -> None:
    """Two axes with their words, and a grid behind the data."""
    axes.set_xlabel(across, color=SOFT)
    axes.set_ylabel(up, color=SOFT)
    axes.grid(color=WAITING.face, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain(axes: Axes) -> None:
    """Rows need no frame: time alone has an axis."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def legend_below(axes: Axes, *, entry: float = 115) -> None:
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
        ncols=max(1, int(width_in_points(axes) / entry)),
        fontsize=SMALL,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
    )


def width_in_points(axes: Axes) -> float:
    """How wide the axes are, in points."""
    assert axes.figure is not None
    return axes.get_window_extent().width * POINTS / axes.figure.dpi
