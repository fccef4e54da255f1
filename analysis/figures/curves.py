"""Measurements over the laws that they are held against."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from pearl.analysis.figures import style
from pearl.decoding.estimates import Estimate

BEYOND: Final = 1.4  # times the widest window measured: so far theory is drawn
FEWEST_WINDOWS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSpeed:
    """One measured system; `name` says to which law it belongs."""

    name: str
    gamma: int
    speedup: Estimate


def speedup_against_gamma(
    axes: Axes,
    points: Sequence[MeasuredSpeed],
    *,
    theory: Mapping[str, Callable[[int], float]],
    title: str = "",
) -> None:
    """Measured speeds over AR with their intervals, and under them what theory says of gamma.

    Args:
        axes: where to draw.
        points: what was measured; may be empty.
        theory: by name, speed over AR as a function of gamma.
        title: which run this is.
    """
    names = list(dict.fromkeys([*theory, *(point.name for point in points)]))
    widest = max((round(BEYOND * point.gamma) for point in points), default=0)
    gammas = np.arange(1, max(widest, FEWEST_WINDOWS) + 1)
    for name, look in zip(names, _lines(names), strict=True):
        own = [point for point in points if point.name == name]
        label = None if own else f"{name}, theory"
        if name in theory:
            law = [theory[name](int(gamma)) for gamma in gammas]
            axes.plot(gammas, law, color=look.color, linewidth=1, label=label, zorder=1)
        if own:
            _draw_points(axes, own, look)
    if points and theory:
        axes.plot([], [], color=style.SOFT, linewidth=1, label="lines: theory")
    axes.axhline(1, color=style.SOFT, linewidth=1, linestyle=":", label="AR")
    axes.set_title(title, loc="left", color=style.INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, gammas[-1] + 0.5)
    axes.set_ylim(bottom=0)
    style.frame(axes, across="gamma, tokens in a window", up="speed over AR")
    style.legend_below(axes, entry=130)


def _lines(names: Sequence[str]) -> Iterator[style.LineStyle]:
    """One for each name: the schedules have theirs."""
    known = {style.in_words(schedule): line for schedule, line in style.schedule_lines().items()}
    further = itertools.cycle(style.FURTHER_LINES)
    for name in names:
        yield known[style.in_words(name)] if style.in_words(name) in known else next(further)


def _draw_points(axes: Axes, points: Sequence[MeasuredSpeed], look: style.LineStyle) -> None:
    speeds = np.array([float(point.speedup) for point in points])
    axes.errorbar(
        [point.gamma for point in points],
        speeds,
        yerr=_reach([point.speedup for point in points]),
        color=look.color,
        marker=look.marker,
        markersize=5,
        linestyle="none",
        linewidth=1.4,
        capsize=2.5,
        label=points[0].name,
        zorder=2,
    )


def _reach(estimates: Sequence[Estimate]) -> Any:
    """How far each interval goes down and up, shape (2, estimates); nowhere where there is none."""
    ends = [e.interval or (float(e), float(e)) for e in estimates]
    return np.array(
        [(float(e) - low, high - float(e)) for e, (low, high) in zip(estimates, ends, strict=True)]
    ).T


def run_lengths(axes: Axes, shares: Sequence[Estimate], *, alpha: float, title: str = "") -> None:
    """The share of runs that keep at least n draft tokens, over the geometric law.

    Args:
        axes: where to draw.
        shares: for n from 0 on.
        alpha: the acceptance rate of the law, alpha^n.
        title: which run this is.
    """
    n = np.arange(len(shares))
    known = np.array([float(share) for share in shares])
    law = alpha ** n.astype(float)
    ends = np.array([share.interval or (float(share), float(share)) for share in shares])
    axes.plot(
        n, law, color=style.SOFT, linestyle="--", linewidth=1.2, label=f"geometric, α = {alpha:.3f}"
    )
    axes.fill_between(
        n,
        ends[:, 0],
        ends[:, 1],
        step="mid",
        color=style.TARGET.face,
        alpha=0.18,
        linewidth=0,
        label="95 % interval",
    )
    axes.step(n, known, where="mid", color=style.TARGET.face, linewidth=1.6, label="measured")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.set_ylim(known.min() / 2, 1.3)
    axes.set_xlim(-0.5, max(len(shares) - 0.5, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title(title, loc="left", color=style.INK)
    style.frame(axes, across="n draft tokens", up="share of runs with n or more")
    style.legend_below(axes, entry=150)
