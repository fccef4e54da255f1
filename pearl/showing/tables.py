"""Figures as they are shown: tables and numbers for people, objects for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pearl.decoding.estimates import Estimate

NONE: Final = "–"
"""In place of a figure that there is none of."""


def table(*heads: str, title: str | None = None, words: int = 1) -> Table:
    """An empty table.

    Args:
        words: how many of the first columns hold words, to the left; the others hold numbers.
    """
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for place, head in enumerate(heads):
        text = place < words
        made.add_column(head, justify="left" if text else "right", no_wrap=text)
    return made


def digits(value: float | None, places: int = 2, *, scale: float = 1.0) -> str:
    """A number with so many places behind the point; one that is no number is none."""
    there = value is not None and value == value  # noqa: PLR0124 - nan is not itself
    return f"{value * scale:.{places}f}" if value is not None and there else NONE


def share(value: float | None, places: int = 0) -> str:
    """A part of a whole, in percent."""
    return NONE if value is None else f"{value:.{places}%}"


def with_ends(found: Estimate, places: int = 2) -> str:
    """A figure with the ends of its interval."""
    shown = digits(found.value, places)
    if found.interval is None:
        return shown
    low, high = (digits(end, places) for end in found.interval)
    return f"{shown} ({low}–{high})"


def as_object(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    """Values by name, and under `interval` the ends of each."""
    return {
        **{name: figure.value for name, figure in figures.items()},
        "interval": {name: figure.interval for name, figure in figures.items()},
    }
