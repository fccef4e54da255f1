"""The kinds of schedules, as a table: everything that depends on which one it is.

Every schedule is the same rule (`pearl.decoding.schedules`) with two numbers: the tokens that the
draft writes *before* a pass of the target that would otherwise judge nothing, and those it writes
*beside* every pass.

                       before        beside
    ar                 0             0
    sd                 gamma         0          Leviathan et al. 2023, arXiv:2211.17192
    pearl              head start    gamma      Liu et al. 2025, arXiv:2408.11850 (head start 0)

A further kind is an entry of `SCHEDULES`: command line, simulator, twin, sweep and validation
read the table when they run.

Rule: a schedule's name is compared with another in this file only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeAlias, final

Numbers: TypeAlias = Any  # a whole number, or an array of them


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # an entry is itself alone
class ScheduleKind:
    """What is true of all schedules of one name.

    Args:
        title: its name in tables and figures.
        summary: the same in a line.
        numbers: `before` and `beside`, by gamma and head start; of arrays, arrays. A function with
            a place of its own, since schedules are pickled.
        settings: which of `head_start` and `strict` mean something with it.
    """

    title: str
    summary: str
    numbers: Callable[[Numbers, Numbers], tuple[Numbers, Numbers]]
    settings: frozenset[str] = frozenset()

    @property
    def drafts(self) -> bool:
        """Whether it needs a draft."""
        return any(self.numbers(1, 0))

    @property
    def parallel(self) -> bool:
        """Whether windows are written beside the passes: draft and target work at once."""
        return bool(self.numbers(1, 0)[1])

    @property
    def waits(self) -> bool:
        """Whether the target waits for windows of gamma: then a slow draft is worse than none."""
        return bool(self.numbers(1, 0)[0])

    def takes(self, setting: str) -> bool:
        """Whether a setting means something with it."""
        return setting in self.settings


def _alone(gamma: Numbers, head_start: Numbers) -> tuple[Numbers, Numbers]:  # noqa: ARG001 - neither
    return 0, 0


def _in_turns(gamma: Numbers, head_start: Numbers) -> tuple[Numbers, Numbers]:  # noqa: ARG001 - none
    return gamma, 0


def _at_once(gamma: Numbers, head_start: Numbers) -> tuple[Numbers, Numbers]:
    return head_start, gamma


SCHEDULES: Final[dict[str, ScheduleKind]] = {
    "ar": ScheduleKind(title="AR", summary="the target alone", numbers=_alone),
    "sd": ScheduleKind(
        title="SD", summary="the draft writes, then the target judges", numbers=_in_turns
    ),
    "pearl": ScheduleKind(
        title="PEARL",
        summary="both at once",
        numbers=_at_once,
        settings=frozenset({"head_start", "strict"}),
    ),
}


def who_take(setting: str) -> str:
    """The titles of those kinds with which a setting means something."""
    return ", ".join(kind.title for kind in SCHEDULES.values() if kind.takes(setting))
