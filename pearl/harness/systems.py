"""What a system is called wherever systems are compared, and which of them there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.policies import Gamma
from pearl.decoding.settings import Settings


def name_of(settings: Settings) -> str:
    """A system in a few words, such as `PEARL 5, head start 2, strict`."""
    gamma = settings.gamma if settings.widest else 0
    return title(settings.schedule, gamma, settings.head_start, strict=settings.strict)


def title(schedule: str, gamma: Gamma, head_start: int = 0, *, strict: bool = False) -> str:
    """The same of its parts; a gamma of 0 is that of AR, which has none."""
    name = SCHEDULES[schedule].title
    parts = [f"{name} {gamma}" if gamma else name]
    parts += [f"head start {head_start}"] if head_start else []
    return ", ".join([*parts, *(["strict"] if strict else [])])


def combinations(
    settings: Settings,
    schedules: Sequence[str],
    gammas: Sequence[Gamma],
    head_starts: Sequence[int] = (0,),
) -> list[Settings]:
    """Every combination that means something, once: AR has no window, and only PEARL a head start.

    Args:
        settings: what is common to them; `strict` is for those that can be.
    """
    return [each for name in schedules for each in _of(settings, name, gammas, head_starts)]


def _of(
    settings: Settings, name: str, gammas: Sequence[Gamma], head_starts: Sequence[int]
) -> Iterator[Settings]:
    kind = SCHEDULES[name]
    windows = gammas if kind.drafts else (settings.gamma,)
    ahead = head_starts if kind.takes("head_start") else (0,)
    strict = settings.strict and kind.takes("strict")
    for gamma, k in itertools.product(windows, ahead):
        yield replace(settings, schedule=name, gamma=gamma, head_start=k, strict=strict)
