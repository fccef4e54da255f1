"""What `pearl optimise` shows: the choices, what each takes, and how much another one loses."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console

from pearl.decoding.kinds import SCHEDULES
from pearl.harness.systems import title
from pearl.showing.tables import table

if TYPE_CHECKING:
    from rich.table import Table

    from pearl.simulator.optimise import Advice, Choice, Means, Placement, Tuning


class PairAdvice(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one pair, with each choice on its devices."""

    name: str | None
    best: Placement
    placements: tuple[Placement, ...]
    advice: Advice


def as_object(found: PairAdvice) -> dict[str, Any]:
    """For machines: what is advised of each schedule, under its name."""
    whole: dict[str, Any] = msgspec.to_builtins(found)
    for name, tuning in whole["advice"].pop("tunings").items():
        plain = tuning.pop("plain")
        if SCHEDULES[name].takes("head_start"):
            whole["advice"][f"{name}_plain"] = plain
        whole["advice"][name] = tuning if tuning["windows"] else tuning["choice"]
    return whole


def show(found: PairAdvice, means: Means) -> None:
    """The choices, what each takes, and the two curves."""
    console, advice = Console(highlight=False), found.advice
    console.print(f"alpha {advice.alpha:.4g}, speed ratio {advice.speed_ratio:.4g}")
    console.print(_choices(found))
    console.print(_takings({_name(p.choice): p for p in found.placements}, found.best, means))
    console.print(_verdict(found.best, means))
    for line in _others(found):
        console.print(line)
    tunings = [tuning for tuning in advice.tunings.values() if tuning.windows]
    console.print(_curves(tunings))


def _choices(found: PairAdvice) -> Table:
    """How fast each one is, and how far its gamma may be off."""
    shown = table("schedule, gamma", "speed over AR", "tokens/s", "gamma within 5 %")
    near = {tuning.choice: tuning.plateau for tuning in found.advice.tunings.values()}
    for placement in found.placements:
        choice = placement.choice
        plateau = near.get(choice)
        shown.add_row(
            _name(choice),
            f"{choice.speedup_over_ar:.3f}",
            f"{choice.tokens_per_s:.4g}",
            "" if plateau is None else f"{plateau.first} to {plateau.last}",
            style="bold" if placement == found.best else "",
        )
    return shown


def _takings(placements: Mapping[str, Placement], best: Placement, means: Means) -> Table:
    """Which devices each one takes, and what it gives for them."""
    names = ["devices", "speed per device"]
    names += ["copies", "tokens/s of all"] if means.devices is not None else []
    names += ["tokens per price"] if means.target_price is not None else []
    shown = table("", *names)
    for name, placement in placements.items():
        cells = [TAKINGS[column](placement) for column in names]
        shown.add_row(name, *cells, style="bold" if placement == best else "")
    return shown


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


def _others(found: PairAdvice) -> Iterator[str]:
    """The winners by other measures."""
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
    return title(choice.schedule, choice.gamma, choice.head_start)


def _curves(tunings: Sequence[Tuning]) -> Table:
    """Speed over AR against gamma, and what is lost to the best."""
    choices = [tuning.choice for tuning in tunings]
    heads = [(title(choice.schedule, 0, choice.head_start), "lost") for choice in choices]
    shown = table("gamma", *itertools.chain(*heads))
    for windows in zip(*(tuning.windows for tuning in tunings), strict=True):
        cells = [(f"{each.speedup_over_ar:.3f}", _loss(each.loss)) for each in windows]
        shown.add_row(str(windows[0].gamma), *itertools.chain(*cells))
    return shown


def _loss(loss: float) -> str:
    return f"{loss:.1%}" if loss else "best"


def show_candidates(found: Sequence[PairAdvice], means: Means) -> None:
    """A row a draft, the winner first."""
    shown = table("draft", "best schedule", "speed over AR", "alpha", "speed ratio", words=2)
    for place, one in enumerate(found):
        shown.add_row(
            one.name,
            _name(one.best.choice),
            f"{one.best.choice.speedup_over_ar:.3f}",
            f"{one.advice.alpha:.4g}",
            f"{one.advice.speed_ratio:.4g}",
            style="" if place else "bold",
        )
    console, winner = Console(highlight=False), found[0]
    console.print(shown)
    console.print(_takings({str(one.name): one.best for one in found}, winner.best, means))
    console.print(f"{winner.name} is the best draft; {_verdict(winner.best, means)}")
