"""Measurements over laws, three answers side by side, the gap; and pictures for a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pearl.analysis import figures
from pearl.analysis.figures import HEAD_START, MeasuredSpeed, ThreeAnswers
from pearl.analysis.figures.style import schedule_lines
from pearl.decoding.estimates import Estimate
from pearl.decoding.kinds import SCHEDULES
from tests.analysis.forms import EAGER

SPEEDS = {
    "SD": lambda gamma: 1 + gamma / 10,
    "PEARL": lambda gamma: 1.5 + gamma / 10,
}


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(9, 3)).add_subplot()


def labels(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def line(axes: Axes, label: str) -> Line2D:
    return next(line for line in axes.lines if line.get_label() == label)


# -- speed against gamma ---------------------------------------------------------------------------


def test_a_schedule_that_is_added_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    before = schedule_lines()
    monkeypatch.setitem(SCHEDULES, "eager", EAGER)

    lines = schedule_lines()

    assert {name: lines[name] for name in before} == before
    assert lines["eager"] not in before.values()


def test_a_measured_speed_stands_at_its_window_with_its_interval(axes: Axes) -> None:
    point = MeasuredSpeed(name="PEARL", gamma=4, speedup=Estimate(2.0, 1.7, 2.1))
    figures.speedup_against_gamma(axes, [point], theory=SPEEDS)

    (drawn,) = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    marks, _, (bars,) = drawn.lines
    assert marks is not None
    assert np.column_stack([marks.get_xdata(), marks.get_ydata()]).tolist() == [[4, 2.0]]
    assert bars.get_segments()[0][:, 1] == pytest.approx([1.7, 2.1])


def test_theory_is_drawn_under_the_data_over_whole_windows(axes: Axes) -> None:
    points = [MeasuredSpeed(name="SD", gamma=10, speedup=Estimate(1.9))]
    figures.speedup_against_gamma(axes, points, theory=SPEEDS)
    law = line(axes, "PEARL, theory")

    assert np.asarray(law.get_xdata()).tolist() == list(range(1, 15))
    assert np.asarray(law.get_ydata())[:2] == pytest.approx([1.6, 1.7])
    (drawn,) = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    assert law.get_zorder() < drawn.lines[0].get_zorder()


def test_theory_and_data_of_one_schedule_have_one_colour(axes: Axes) -> None:
    points = [MeasuredSpeed(name="SD", gamma=4, speedup=Estimate(1.4))]
    figures.speedup_against_gamma(axes, points, theory=SPEEDS)

    (drawn,) = [c for c in axes.containers if isinstance(c, ErrorbarContainer)]
    law = next(line for line in axes.lines if np.asarray(line.get_ydata())[0] == pytest.approx(1.1))
    assert law.get_color() == drawn.lines[0].get_color()


def test_without_data_theory_speaks_for_itself(axes: Axes) -> None:
    figures.speedup_against_gamma(axes, [], theory=SPEEDS)

    assert labels(axes) == ["SD, theory", "PEARL, theory", "AR"]


# -- run lengths -----------------------------------------------------------------------------------


def test_runs_are_drawn_over_the_geometric_law(axes: Axes) -> None:
    shares = [Estimate(1.0, 1.0, 1.0), Estimate(0.7, 0.6, 0.8), Estimate(0.5, 0.4, 0.6)]
    figures.run_lengths(axes, shares, alpha=0.8)

    assert np.asarray(line(axes, "measured").get_ydata()).tolist() == [1.0, 0.7, 0.5]
    assert np.asarray(line(axes, "geometric, α = 0.800").get_ydata()) == pytest.approx(
        [1, 0.8, 0.64]
    )
    assert axes.get_yscale() == "log"


# -- three answers ---------------------------------------------------------------------------------


def test_each_system_has_a_line_with_three_marks(axes: Axes) -> None:
    rows = [
        ThreeAnswers(name="AR", theory=30.0, simulation=29.0, measured=Estimate(28.0, 27.0, 29.0)),
        ThreeAnswers(name="PEARL", theory=70.0, simulation=None, measured=Estimate(60.0)),
    ]
    figures.side_by_side(axes, rows)

    def marks(label: str) -> list[list[float]]:
        drawn = line(axes, label)
        pairs = np.column_stack([drawn.get_xdata(), drawn.get_ydata()])
        return cast("list[list[float]]", pairs.tolist())

    assert marks("theory") == [[30, 0], [70, 1]]
    assert marks("simulation") == [[29, 0]]
    assert marks("measured, 95 % interval") == [[28, 0], [60, 1]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["AR", "PEARL"]


def test_what_slows_stands_left_and_what_speeds_up_right_of_theory(axes: Axes) -> None:
    """Each factor begins where the one before ended; the diamond stands at the product."""
    factors = {"AR": {"ends": 0.9, "control": 0.5}, "PEARL": {"ends": 0.8, "control": 1.5}}
    figures.factor_bars(axes, factors)

    spans = {
        str(container.get_label()): [
            sorted((bar.get_x(), bar.get_x() + bar.get_width())) for bar in container.patches
        ]
        for container in axes.containers
        if isinstance(container, BarContainer)
    }
    assert spans["ends"] == [pytest.approx([0.9, 1]), pytest.approx([0.8, 1])]
    assert spans["control"] == [pytest.approx([0.45, 0.9]), pytest.approx([1, 1.5])]
    assert np.asarray(line(axes, "all").get_xdata()) == pytest.approx([0.45, 1.2])


# -- the map with a head start ---------------------------------------------------------------------


def test_the_map_shows_where_a_head_start_begins_to_pay() -> None:
    """Equal to PEARL on the left, faster on the right: the border is between."""
    alphas, ratios = [0.2, 0.4, 0.6, 0.8], [2.0, 4.0, 6.0]
    pearl = np.ones((3, 4))
    ahead = pearl + np.array([0, 0, 0.2, 0.4])
    axes = Figure(figsize=(8, 5), layout="constrained").add_subplot()
    figures.speedup_map(axes, alphas, ratios, {"pearl": pearl, HEAD_START: ahead})

    (words,) = [text.get_text() for text in axes.texts]
    assert sorted(words.split(" | ")) == ["PEARL", "head start"]


def test_borders_of_the_others_stay_where_a_head_start_is_ahead_of_both() -> None:
    alphas, ratios = [0.2, 0.4, 0.6, 0.8], [2.0, 4.0, 6.0]
    sd = np.tile([1.4, 1.2, 1.0, 0.8], (3, 1))
    speeds = {"sd": sd, "pearl": np.ones((3, 4)) + 0.05, HEAD_START: np.full((3, 4), 2.0)}
    axes = Figure(figsize=(8, 5), layout="constrained").add_subplot()
    figures.speedup_map(axes, alphas, ratios, speeds)

    assert "SD | PEARL" in [text.get_text() for text in axes.texts]


# -- pictures --------------------------------------------------------------------------------------


def drawn(words: str) -> str:
    return figures.picture(lambda axes: axes.set_title(words)).svg


def test_a_picture_is_one_element_that_a_page_can_hold() -> None:
    svg = drawn("<one> & another")

    assert svg.startswith("<svg")
    assert ET.fromstring(svg).tag.endswith("svg")  # noqa: S314 - our own drawing
    assert "&lt;one&gt; &amp; another" in svg


def test_the_same_figure_is_the_same_picture() -> None:
    assert drawn("x") == drawn("x")


def test_two_pictures_on_a_page_share_no_names() -> None:
    def names(svg: str) -> set[str]:
        return set(re.findall(r'\bid="([^"]+)"', svg))

    one, other = drawn("one"), drawn("another")
    assert names(one)
    assert names(one).isdisjoint(names(other))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', one)) <= names(one)


def test_a_notebook_shows_a_picture() -> None:
    picture = figures.picture(lambda axes: axes.set_title("x"))

    assert picture._repr_svg_() == picture.svg
