"""A figure says what its table says: claims about the bars and lines, not about pixels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pearl.analysis.figures import (
    PARTS,
    ROWS,
    check_figure_path,
    save,
    speedup_map,
    timeline,
    waiting_bars,
)
from pearl.decoding.errors import SettingError
from pearl.decoding.messages import Drafted, Judged, Propose, Proposed, Role
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received, Record, Sent
from pearl.simulator.answers import run
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Scenario

Bars: TypeAlias = list[tuple[float, float, float]]  # row, left, width
TARGET, DRAFT = ROWS[Role.TARGET], ROWS[Role.DRAFT]


@pytest.fixture
def axes() -> Axes:
    return Figure(figsize=(9, 3)).add_subplot()


def bars(axes: Axes, words: str) -> Bars:
    """The bars with this name in the legend."""
    found = [cast("BarContainer", c) for c in axes.containers if c.get_label() == words]
    return [
        (round(bar.get_y() + bar.get_height() / 2, 6), bar.get_x(), bar.get_width())
        for container in found
        for bar in container.patches
    ]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def entries(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


# -- the timeline ------------------------------------------------------------------------------


def asked(
    *, epoch: int = 0, base: int = 0, pending: tuple[int, ...] = (), count: int = 4
) -> Record:
    command = Propose(job=1, epoch=epoch, base=base, pending=pending, count=count)
    return Sent(at=0.0, request=0, command=command)


def received(
    event: Proposed | Judged, *, tokens: tuple[int, ...] = (), wanted: bool = True
) -> Record:
    return Received(
        at=event.ended,
        request=0,
        event=event,
        wanted=wanted,
        tokens=tokens,
        epoch=event.epoch,
        kept=0,
        rejections=0,
    )


def wrote(
    began: float, ended: float, tokens: tuple[int, ...], *, start: int = 0, epoch: int = 0
) -> Proposed:
    drafted = Drafted(tokens=tokens)
    return Proposed(job=1, epoch=epoch, start=start, drafted=drafted, began=began, ended=ended)


def judged(began: float, ended: float, *, passes: int = 1) -> Judged:
    return Judged(
        job=1, epoch=0, base=0, judged=0, kept=0, token=7, passes=passes, began=began, ended=ended
    )


def plain_passes(count: int) -> list[Record]:
    """Passes of 10 ms one after the other, from 1 s on, a token each."""
    return [received(judged(1 + n / 100, 1 + (n + 1) / 100), tokens=(n,)) for n in range(count)]


def test_a_bar_lies_where_its_job_ran(axes: Axes) -> None:
    records = [
        asked(),
        received(wrote(1.00, 1.04, (5, 6, 7, 8))),
        received(judged(1.05, 1.07), tokens=(5, 6, 7, 8, 9)),
    ]

    timeline(axes, records)

    np.testing.assert_allclose(bars(axes, "target pass"), [(TARGET, 50, 20)])
    np.testing.assert_allclose(bars(axes, "draft window, kept"), [(DRAFT, 0, 40)])
    assert "wasted" not in entries(axes)


def test_a_window_is_divided_at_its_first_wrong_token(axes: Axes) -> None:
    """What agrees behind a disagreement is as lost as the disagreement."""
    records = [
        asked(),
        received(wrote(0.00, 0.04, (5, 6, 0, 8))),
        received(judged(0.04, 0.06), tokens=(5, 6, 7)),
        received(judged(0.06, 0.08), tokens=(8,)),
    ]

    timeline(axes, records)

    np.testing.assert_allclose(bars(axes, "draft window, kept"), [(DRAFT, 0, 20)])
    np.testing.assert_allclose(bars(axes, "wasted"), [(DRAFT, 20, 20)])


def test_a_window_that_stands_on_a_wrong_token_is_wasted_whole(axes: Axes) -> None:
    """Even if the text should have the same tokens there: they were written for another text."""
    records = [
        asked(base=0, pending=(0,), count=2),
        received(wrote(0.00, 0.02, (6, 7), start=1)),
        received(judged(0.00, 0.03), tokens=(5, 6, 7)),
    ]

    timeline(axes, records)

    assert bars(axes, "draft window, kept") == []
    np.testing.assert_allclose(bars(axes, "wasted"), [(DRAFT, 0, 20)])


def test_a_window_that_nobody_waited_for_is_wasted_whole(axes: Axes) -> None:
    records = [
        asked(),
        received(wrote(0.00, 0.02, (5, 6)), wanted=False),
        received(judged(0.00, 0.03), tokens=(5, 6)),
    ]

    timeline(axes, records)

    np.testing.assert_allclose(bars(axes, "wasted"), [(DRAFT, 0, 20)])


def test_a_window_cancelled_before_its_first_token_is_wasted_whole(axes: Axes) -> None:
    records = [
        asked(),
        received(wrote(0.00, 0.01, ()), wanted=False),
        received(judged(0.00, 0.03), tokens=(5,)),
    ]

    timeline(axes, records)

    np.testing.assert_allclose(bars(axes, "wasted"), [(DRAFT, 0, 10)])


def test_waiting_is_what_no_job_fills_and_each_row_says_its_share(axes: Axes) -> None:
    records = [
        asked(),
        received(wrote(0.00, 0.03, (5,))),
        received(judged(0.04, 0.10), tokens=(5,)),
    ]

    timeline(axes, records)

    np.testing.assert_allclose(bars(axes, "waiting"), [(TARGET, 0, 40), (DRAFT, 30, 70)])
    assert texts(axes)[:2] == ["waits 40 %", "waits 70 %"]


def test_tokens_that_came_with_the_window_are_the_last_pass_s(axes: Axes) -> None:
    """With a barrier a verdict is acted on when the window beside it is in."""
    records = [
        asked(count=2),
        received(judged(0.00, 0.02)),
        received(wrote(0.00, 0.03, (5, 6)), tokens=(5, 6)),
        received(judged(0.03, 0.05), tokens=(7,)),
        received(judged(0.05, 0.05, passes=0), tokens=(8, 9)),
    ]

    timeline(axes, records)

    assert texts(axes)[2:] == ["+2", "+3"]
    assert len(bars(axes, "target pass")) == 2


def test_the_first_two_passes_are_left_out_where_enough_follow(axes: Axes) -> None:
    """They may have read the prompt; what is shown begins where the second one ends."""
    timeline(axes, plain_passes(5), rounds=3)

    lefts = [left for _, left, _ in bars(axes, "target pass")]
    np.testing.assert_allclose(lefts, [0, 10, 20], atol=1e-9)
    np.testing.assert_allclose(axes.get_xlim(), (0, 30))
    assert axes.get_xlabel() == "ms from the start of round 3"


def test_a_short_request_is_shown_from_its_first_pass_on(axes: Axes) -> None:
    timeline(axes, plain_passes(4), rounds=3)

    assert len(bars(axes, "target pass")) == 3
    assert axes.get_xlabel() == "ms from the start of round 1"


def test_a_draft_without_jobs_does_not_wait(axes: Axes) -> None:
    timeline(axes, plain_passes(3))

    assert "not used" in texts(axes)
    assert bars(axes, "waiting") == []


def test_a_trace_without_passes_says_so(axes: Axes) -> None:
    timeline(axes, [])

    assert texts(axes) == ["no timed pass of the target in this trace"]


@pytest.mark.parametrize("schedule", ["sd", "pearl"])
def test_the_bars_of_a_simulated_run_are_as_long_as_its_metrics_say(
    axes: Axes, schedule: str
) -> None:
    """A draft step takes 5 ms, so the metrics' tokens are so many milliseconds of bars."""
    result = run(
        Scenario(
            settings=Settings(schedule=schedule, gamma=4),
            pair=Pair.of(5, target_s=0.025),
            workload=Workload(output=Fixed(200)),
        ),
        seed=1,
        trace=True,
    )

    timeline(axes, result.records, rounds=1000)

    metrics = result.served[0].metrics
    kept, wasted = (
        sum(width for _, _, width in bars(axes, words)) / 5
        for words in ("draft window, kept", "wasted")
    )
    assert kept == pytest.approx(metrics.kept)
    assert kept + wasted == pytest.approx(metrics.draft_steps)


# -- the map -----------------------------------------------------------------------------------

ALPHAS = [0.1, 0.3, 0.5, 0.7, 0.9]
RATIOS = [2.0, 3.0, 4.0, 5.0]
A, C = np.meshgrid(ALPHAS, RATIOS)
ONE = np.ones_like(A)


def lines(axes: Axes) -> list[NDArray[np.float64]]:
    """The points of each line where a schedule overtakes another."""
    found = [c for c in axes.collections if isinstance(c, QuadContourSet)]
    return [np.concatenate(line.allsegs[0]) for line in found]


def test_a_line_lies_where_two_speeds_cross(axes: Axes) -> None:
    speedup_map(axes, ALPHAS, RATIOS, {"ar": ONE, "sd": 0.4 + A})

    (line,) = lines(axes)
    np.testing.assert_allclose(line[:, 0], 0.6)
    np.testing.assert_allclose([line[:, 1].min(), line[:, 1].max()], [2, 5])


@pytest.mark.parametrize(
    ("sd", "words", "angle"),
    [
        (0.5 + A, "AR | SD", 0),
        (1.5 - A, "SD | AR", 0),
        (C / 3.5, "AR | SD", 90),
        (3.5 / C, "SD | AR", 90),
    ],
    ids=["from the left", "from the right", "from below", "from above"],
)
def test_each_name_stands_on_the_side_where_it_is_faster(
    axes: Axes, sd: NDArray[np.float64], words: str, angle: float
) -> None:
    """Words turned by 90 degrees read upwards: what is named last is faster above the line."""
    speedup_map(axes, ALPHAS, RATIOS, {"ar": ONE, "sd": sd})

    assert texts(axes) == [words]
    assert (axes.texts[0].get_rotation() + 45) % 360 - 45 == pytest.approx(angle, abs=1e-6)


def test_two_schedules_have_no_line_where_a_third_is_ahead(axes: Axes) -> None:
    """AR and SD cross at 0.5 for every ratio, but above 3 PEARL has left both behind."""
    speedup_map(axes, ALPHAS, RATIOS, {"ar": ONE, "sd": 0.5 + A, "pearl": C - 2.0})

    upper_ends = dict(zip(texts(axes), [line[:, 1].max() for line in lines(axes)], strict=True))
    assert upper_ends.keys() == {"AR | SD", "AR | PEARL", "PEARL | SD"}
    assert upper_ends["AR | SD"] == pytest.approx(3.0, abs=1 / 8)


def test_schedules_that_are_equally_fast_do_not_overtake_each_other(axes: Axes) -> None:
    """PEARL is no faster than AR where nothing is accepted, and that is no border."""
    speedup_map(axes, ALPHAS, RATIOS, {"ar": ONE, "pearl": np.fmax(1.0, 0.5 + A)})

    assert lines(axes) == []


def test_the_colour_is_the_speed_of_the_fastest(axes: Axes) -> None:
    speeds = {"ar": ONE, "sd": 0.5 + A, "pearl": C / 3}

    speedup_map(axes, ALPHAS, RATIOS, speeds)

    (mesh,) = (c for c in axes.collections if isinstance(c, QuadMesh))
    shown = np.asarray(mesh.get_array())[::8, ::8]
    np.testing.assert_allclose(shown, np.maximum.reduce(list(speeds.values())))


@pytest.mark.parametrize(
    ("speeds", "words"),
    [
        ({"ar": ONE, "pearl": ONE + A}, "speed of PEARL over AR"),
        ({"ar": ONE, "sd": 0.5 + A}, "speed of the fastest over AR"),
        ({"sd": 0.5 + A}, "speed of SD over AR"),
    ],
    ids=["one is never behind", "they change places", "alone"],
)
def test_the_colour_bar_says_whose_speed_it_is(
    axes: Axes, speeds: Mapping[str, NDArray[np.float64]], words: str
) -> None:
    speedup_map(axes, ALPHAS, RATIOS, speeds)

    figure = axes.figure
    assert figure is not None
    assert figure.axes[1].get_ylabel() == words


@pytest.mark.parametrize(
    ("alphas", "ratios", "across"),
    [(ALPHAS, [5.0], ALPHAS), ([0.8], RATIOS, RATIOS), ([0.8], [5.0], [0.8])],
    ids=["one ratio", "one rate", "one point"],
)
def test_a_single_rate_or_ratio_gives_a_line_for_each_schedule(
    axes: Axes, alphas: Sequence[float], ratios: Sequence[float], across: Sequence[float]
) -> None:
    grid = np.add.outer(ratios, alphas)

    speedup_map(axes, alphas, ratios, {"pearl": 2 * grid, "sd": grid})

    drawn = {line.get_label(): line for line in axes.lines}
    assert list(drawn) == ["SD", "PEARL"]
    points = np.asarray(drawn["PEARL"].get_xydata(), dtype=float)
    np.testing.assert_allclose(points, np.c_[across, 2 * grid.ravel()])


def test_ratios_that_double_stand_at_equal_distances(axes: Axes) -> None:
    speedup_map(axes, ALPHAS, [1.0, 2.0, 4.0, 8.0], {"sd": 0.5 + A})

    assert axes.get_yscale() == "log"
    assert axes.get_ylim() == (1.0, 8.0)


def test_a_map_of_no_schedule_is_refused_in_one_line(axes: Axes) -> None:
    with pytest.raises(SettingError, match=r"^no schedule to draw; .*ar, sd, pearl, head start$"):
        speedup_map(axes, ALPHAS, RATIOS, {})


# -- shares of time ----------------------------------------------------------------------------

SHARES = {
    "sd": {
        "draft": {"useful": 0.2, "wasted": 0.1, "waiting_for_other": 0.7},
        "target": {"useful": 0.7, "wasted": 0.0, "waiting_for_other": 0.3},
    },
    "pearl": {
        "draft": {"useful": 0.5, "wasted": 0.4, "waiting_for_other": 0.1},
        "target": {"useful": 1.0, "waiting_for_other": 8e-15},
    },
}


def test_the_parts_of_a_device_s_time_lie_end_to_end(axes: Axes) -> None:
    waiting_bars(axes, SHARES)

    np.testing.assert_allclose(bars(axes, "draft, useful"), [(1, 0, 0.2), (4, 0, 0.5)])
    np.testing.assert_allclose(bars(axes, "wasted"), [(1, 0.2, 0.1), (4, 0.5, 0.4)])
    np.testing.assert_allclose(
        bars(axes, "waiting for the other"), [(1, 0.3, 0.7), (2, 0.7, 0.3), (4, 0.9, 0.1)]
    )


def test_only_what_occurs_is_in_the_legend(axes: Axes) -> None:
    waiting_bars(axes, SHARES)

    expected = ["draft, useful", "target, useful", "wasted", "waiting for the other"]
    assert entries(axes) == expected


def test_every_row_has_its_device_and_every_schedule_its_name(axes: Axes) -> None:
    waiting_bars(axes, SHARES)

    assert [t.get_text() for t in axes.get_yticklabels()] == ["draft", "target"] * 2
    assert {"SD", "PEARL"} < set(texts(axes))


def test_a_part_that_nobody_knows_is_refused(axes: Axes) -> None:
    """Left out in silence it would be missing from the sum."""
    with pytest.raises(SettingError, match=r"^a share is of 'sleeping'; .*useful, wasted"):
        waiting_bars(axes, {"sd": {"draft": {"sleeping": 1.0}}})


def test_every_part_of_a_simulated_account_can_be_drawn() -> None:
    account = run(Scenario(workload=Workload(output=Fixed(10)))).draft

    assert tuple(PARTS) == account.__struct_fields__


def test_the_same_colour_means_the_same_in_every_figure() -> None:
    one, other = (Figure().add_subplot() for _ in range(2))
    records = [
        asked(),
        received(wrote(0.0, 0.02, (5, 0))),
        received(judged(0.03, 0.05), tokens=(5, 6)),
    ]

    timeline(one, records)
    waiting_bars(other, SHARES)

    assert colours(one) == colours(other)
    assert len(set(colours(one))) == 4


def colours(axes: Axes) -> list[str]:
    """Of target, draft, waste and waiting, by the names of either figure."""
    found = {c.get_label(): cast("BarContainer", c).patches[0] for c in axes.containers}
    names = {str(name).split(maxsplit=1)[0].strip(","): found[name] for name in found}
    return [to_hex(names[n].get_facecolor()) for n in ("target", "draft", "wasted", "waiting")]


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["speeds.pdf", "speeds", "speeds.svg.gz"])
def test_a_file_of_another_kind_is_refused_in_one_line_before_anything_is_drawn(
    tmp_path: Path, name: str
) -> None:
    def draw(_: Axes) -> None:
        pytest.fail("drawn")

    with pytest.raises(SettingError) as refusal:
        save(tmp_path / name, draw)

    allowed = "its name must end in .png or .svg"
    assert str(refusal.value) == f"{tmp_path / name} cannot hold a figure; {allowed}"


def test_capitals_in_a_suffix_are_as_good() -> None:
    assert check_figure_path("Run.SVG") == Path("Run.SVG")


def draw_rounds(axes: Axes) -> None:
    timeline(axes, [asked(), received(wrote(0.0, 0.02, (5, 0))), *plain_passes(2)])


def draw_speeds(axes: Axes) -> None:
    speedup_map(axes, ALPHAS, RATIOS, {"ar": ONE, "sd": 0.5 + A})


def draw_shares(axes: Axes) -> None:
    waiting_bars(axes, SHARES)


@pytest.mark.parametrize("draw", [draw_rounds, draw_speeds, draw_shares])
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_figure_gives_the_same_bytes(
    tmp_path: Path, draw: Callable[[Axes], None], suffix: str
) -> None:
    once, again = tmp_path / f"once{suffix}", tmp_path / f"again{suffix}"

    save(once, draw, size=(4, 3))
    save(again, draw, size=(4, 3))

    assert once.read_bytes() == again.read_bytes()
    assert once.read_bytes().startswith((b"\x89PNG", b"<?xml"))


def test_figures_need_neither_a_display_nor_global_state() -> None:
    """The module pyplot keeps a list of figures and may open windows; here it is never loaded."""
    script = "import sys, pearl.analysis.figures; print('matplotlib.pyplot' in sys.modules)"

    finished = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert finished.stdout == "False\n"
