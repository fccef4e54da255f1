"""Systems side by side: bars from nothing, intervals, and a tick where theory speaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pearl.analysis import figures
from pearl.analysis.figures import Speed
from pearl.decoding.estimates import Estimate

ROWS = [
    Speed(name="AR", measured=Estimate(1.0, 1.0, 1.0), theory=1.0),
    Speed(name="PEARL 5", measured=Estimate(2.4, 2.0, 2.8), theory=2.6),
    Speed(name="HF generate", measured=Estimate(0.5, 0.4, 0.6), ours=False),
]


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(9, 3)).add_subplot()


def labels(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def line(axes: Axes, label: str) -> Line2D:
    return next(line for line in axes.lines if line.get_label() == label)


def test_a_bar_is_as_long_as_a_system_is_fast(axes: Axes) -> None:
    figures.speeds(axes, ROWS, title="twelve prompts")

    ours, theirs = (c for c in axes.containers if isinstance(c, BarContainer))
    assert [bar.get_width() for bar in ours] == [1.0, 2.4]
    assert [bar.get_width() for bar in theirs] == [0.5]
    assert [text.get_text() for text in axes.get_yticklabels()] == [row.name for row in ROWS]
    assert axes.get_title(loc="left") == "twelve prompts"


def test_theory_is_a_tick_only_where_it_speaks(axes: Axes) -> None:
    figures.speeds(axes, ROWS)

    ticks = line(axes, "theory, at its own values")
    assert np.asarray(ticks.get_xdata()).tolist() == [1.0, 2.6]
    assert np.asarray(ticks.get_ydata()).tolist() == [0, 1]


def test_intervals_have_one_word_in_the_legend(axes: Axes) -> None:
    figures.speeds(axes, ROWS)

    words = "95 % interval over prompts"
    assert labels(axes).count(words) == 1
    assert np.asarray(line(axes, words).get_xdata()).tolist() == [1.0, 1.0]


def test_without_theory_intervals_and_others_there_are_only_bars(axes: Axes) -> None:
    figures.speeds(axes, [Speed(name="AR", measured=Estimate(1.0))])

    assert labels(axes) == ["this project"]


def test_a_system_without_a_speed_keeps_its_line(axes: Axes) -> None:
    figures.speeds(axes, [*ROWS, Speed(name="SD 3", measured=Estimate(None))])

    assert len(axes.get_yticks()) == 4


def test_the_same_speeds_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        figures.save(tmp_path / name, lambda axes: figures.speeds(axes, ROWS))

    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
