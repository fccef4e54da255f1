"""Figures: a table in, axes out, and nothing of matplotlib's global state.

    timeline                 the rounds of one request: who worked when, and who waited
    waiting_bars             what draft and target spend their time on, schedule by schedule
    speedup_map              how much faster than the target alone, and where one schedule
                             overtakes another
    speedup_against_gamma    measured speeds over the closed forms
    run_lengths              how long draft and target agree, over the geometric law
    side_by_side             theory, simulation and measurement of some systems
    factor_bars              what lies between theory and a run
    speeds                   systems of a benchmark, side by side
    save, picture            one of them as a file, or in memory for a page or a notebook

A figure is drawn on axes that the caller owns, so that a page of several is the caller's to lay
out.

    save("run.svg", lambda axes: timeline(axes, records, title="PEARL, gamma 5"))

This is the home of matplotlib: the rest of the project imports it late, or not at all.
"""

from __future__ import annotations

from pearl.analysis.figures.comparisons import (
    Speed,
    ThreeAnswers,
    factor_bars,
    side_by_side,
    speeds,
)
from pearl.analysis.figures.curves import MeasuredSpeed, run_lengths, speedup_against_gamma
from pearl.analysis.figures.files import Picture, check_figure_path, picture, save
from pearl.analysis.figures.maps import speedup_map
from pearl.analysis.figures.style import HEAD_START
from pearl.analysis.figures.timeline import ROWS, timeline
from pearl.analysis.figures.waiting import PARTS, waiting_bars

__all__ = [
    "HEAD_START",
    "PARTS",
    "ROWS",
    "MeasuredSpeed",
    "Picture",
    "Speed",
    "ThreeAnswers",
    "check_figure_path",
    "factor_bars",
    "picture",
    "run_lengths",
    "save",
    "side_by_side",
    "speeds",
    "speedup_against_gamma",
    "speedup_map",
    "timeline",
    "waiting_bars",
]
