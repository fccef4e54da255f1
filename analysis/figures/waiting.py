"""What draft and target spend their time on, schedule by schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pearl.analysis.figures import style
from pearl.decoding.errors import SettingError
from pearl.decoding.messages import Role

WORD: Final = 24  # points that a share needs, in width
# The parts of a device's time, by the names that `pearl.simulator.answers.Waiting` gives them.
PARTS: Final[Mapping[str, str]] = {
    "useful": "{device}, useful",
    "wasted": "wasted",
    "waiting_for_other": "waiting for the other",
    "waiting_for_messages": "waiting for messages",
    "down": "down",
    "without_work": "without work",
}
SHARES: Final[Mapping[str, style.Paint]] = {
    "draft, useful": style.DRAFT,
    "target, useful": style.TARGET,
    "wasted": style.WASTED,
    "waiting for the other": style.WAITING,
    "waiting for messages": style.MESSAGES,
    "down": style.DOWN,
    "without work": style.NO_WORK,
}


def waiting_bars(
    axes: Axes, shares: Mapping[str, Mapping[str, Mapping[str, float]]], *, title: str = ""
) -> None:
    """For each schedule how draft and target spent the run, as shares that sum to 1.

    Args:
        axes: where to draw.
        shares: schedule -> device -> part -> share. Devices are `draft` and `target`, parts
            those of `PARTS`; what is missing is 0.
        title: which run this is.

    Raises:
        SettingError: a part has another name.
    """
    bars: dict[str, list[style.Bar]] = {words: [] for words in SHARES}
    ticks: dict[int, str] = {}
    for number, (schedule, devices) in enumerate(shares.items()):
        # Three lines a schedule: its name, then its two devices.
        name = style.in_words(schedule)
        axes.text(0, 3 * number + 0.3, name, weight="bold", color=style.INK, va="center")
        for line, device in enumerate(Role, start=3 * number + 1):
            ticks[line] = device
            for words, bar in _parts(line, device, devices.get(device, {})):
                bars[words].append(bar)
    axes.set_title(title, loc="left", color=style.INK)
    axes.set_xlim(0, 1)
    style.draw_bars(axes, bars, SHARES, height=0.8)
    _write_shares(axes, bars)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.set_ylim(3 * len(shares) - 0.4, -0.2)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
    axes.set_xlabel("share of the run", loc="left", color=style.SOFT)
    style.plain(axes)
    style.legend_below(axes)


def _parts(line: int, device: Role, shares: Mapping[str, float]) -> Iterator[tuple[str, style.Bar]]:
    """What a device did, in the order of `PARTS`, one behind the other."""
    unknown = shares.keys() - PARTS.keys()
    if unknown:
        allowed = ", ".join(PARTS)
        raise SettingError(f"a share is of {min(unknown)!r}; it must be of one of {allowed}")
    left = 0.0
    for part, words in PARTS.items():
        share = shares.get(part, 0.0)
        yield words.format(device=device), style.Bar(line, left, share)
        left += share


def _write_shares(axes: Axes, bars: Mapping[str, Sequence[style.Bar]]) -> None:
    """On each bar that has room for it, its share."""
    room = style.width_in_points(axes)
    for words, found in bars.items():
        for bar in found:
            if bar.width * room > WORD:
                middle, share = bar.left + bar.width / 2, f"{100 * bar.width:.0f} %"
                box = {"facecolor": SHARES[words].face, "pad": 1.0, "edgecolor": "none"}
                look: dict[str, Any] = {"color": SHARES[words].ink, "va": "center_baseline"}
                style.write(axes, middle, bar.row, share, bbox=box, **look)
