"""What `pearl optimise` shows: the choices, what each takes, and how much another one loses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from simulator.optimise import Advice, Choice, Means, Placement, Tuning


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one pair, with each choice on its devices."""

    name: str | None
    best: Placement
    placements: tuple[Placement, ...]
    advice: Advice


def show(found: Found, means: Means) -> None:
    """The choices, what each takes, and the two curves."""
    console, advice = Console(highlight=False), found.advice
    console.print(f"alpha {advice.alpha:.4g}, speed ratio {advice.speed_ratio:.4g}")
    console.print(_choices(found))
    console.print(_takings({_name(p.choice): p for p in found.placements}, found.best, means))
    console.print(_verdict(found.best, means))
    for line in _others(found):
        console.print(line)
    console.print(_curves(found.advice.sd, found.advice.pearl))


def _choices(found: Found) -> Table:
    """How fast each one is, and how far its gamma may be off."""
    table = _table("", "speed over AR", "tokens/s", "gamma within 5 %")
    near = {tuning.choice: tuning.plateau for tuning in (found.advice.sd, found.advice.pearl)}
    for placement in found.placements:
        choice = placement.choice
        plateau = near.get(choice)
        table.add_row(
            _name(choice),
            f"{choice.speedup_over_ar:.3f}",
            f"{choice.tokens_per_s:.4g}",
            "" if plateau is None else f"{plateau.first} to {plateau.last}",
            style="bold" if placement == found.best else "",
        )
    return table


def _takings(placements: Mapping[str, Placement], best: Placement, means: Means) -> Table:
    """Which devices each one takes, and what it gives for them."""
    names = ["devices", "speed per device"]
    names += ["copies", "tokens/s of all"] if means.devices is not None else []
    names += ["tokens per price"] if means.target_price is not None else []
    table = _table("", *names)
    for name, placement in placements.items():
        cells = [TAKINGS[column](placement) for column in names]
        table.add_row(name, *cells, style="bold" if placement == best else "")
    return table


TAKINGS: Final[Mapping[str, Callable[[Placement], str]]] = {
    "devices": lambda p: f"{p.devices}{'' if p.fits else ', too many'}",
    "speed per device": lambda p: f"{p.speedup_per_device:.3f}",
    "copies": lambda p: f"{p.copies}",
    "tokens/s of all": lambda p: f"{p.total_tokens_per_s:.4g}",
    "tokens per price": lambda p: f"{p.tokens_per_price:,.0f}",
}
"""By the head of the column."""


def _verdict(best: Placement, means: Means) -> str:
    within = "" if means.devices is None else f" on {means.devices} devices"
    speed = best.choice.speedup_over_ar
    return f"fastest{within}: {_name(best.choice)}, {speed:.3g} times AR"


def _others(found: Found) -> Iterator[str]:
    """Whoever is ahead by another measure."""
    measures: dict[str, Callable[[Placement], float]] = {
        "fastest per device": lambda p: p.speedup_per_device,
        "most tokens from all devices": lambda p: p.total_tokens_per_s or 0.0,
        "most tokens for the price": lambda p: p.tokens_per_price or 0.0,
    }
    for words, measure in measures.items():
        first = max((p for p in found.placements if p.fits), key=measure)
        if measure(first) > measure(found.best):
            yield f"{words}: {_name(first.choice)}"


def _name(choice: Choice) -> str:
    gamma = f", gamma {choice.gamma}" if choice.gamma else ""
    ahead = f", head start {choice.head_start}" if choice.head_start else ""
    return f"{choice.schedule.upper()}{gamma}{ahead}"


def _curves(sd: Tuning, pearl: Tuning) -> Table:
    """Speed over AR against gamma, and what is lost to the best."""
    ahead = pearl.choice.head_start
    pearl_head = f"PEARL, head start {ahead}" if ahead else "PEARL"
    table = _table("gamma", "SD", "lost", pearl_head, "lost")
    for one, other in zip(sd.windows, pearl.windows, strict=True):
        cells = [f"{one.speedup_over_ar:.3f}", _loss(one.loss)]
        cells += [f"{other.speedup_over_ar:.3f}", _loss(other.loss)]
        table.add_row(str(one.gamma), *cells)
    return table


def _loss(loss: float) -> str:
    return f"{loss:.1%}" if loss else "best"


def show_candidates(found: Sequence[Found], means: Means) -> None:
    """A row a draft, the winner first."""
    table = _table("draft", "best schedule", "speed over AR", "alpha", "speed ratio")
    for place, one in enumerate(found):
        table.add_row(
            one.name,
            _name(one.best.choice),
            f"{one.best.choice.speedup_over_ar:.3f}",
            f"{one.advice.alpha:.4g}",
            f"{one.advice.speed_ratio:.4g}",
            style="" if place else "bold",
        )
    console, winner = Console(highlight=False), found[0]
    console.print(table)
    console.print(_takings({str(one.name): one.best for one in found}, winner.best, means))
    console.print(f"{winner.name} is the best draft; {_verdict(winner.best, means)}")


def _table(*heads: str) -> Table:
    """Words to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for head in heads:
        words = head in {"", "draft", "best schedule"}
        table.add_column(head, justify="left" if words else "right", no_wrap=words)
    return table
