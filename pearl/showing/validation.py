"""What `pearl validate` shows: tables for people, one object for machines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console

from pearl.analysis import disturbance
from pearl.showing.tables import NONE, as_object, digits, share, table, with_ends

if TYPE_CHECKING:
    from rich.table import Table

    from pearl.analysis.comparison import Comparison
    from pearl.analysis.validation import Validation

WIDTH: Final = 100


def as_builtins(found: Validation) -> dict[str, Any]:
    """The comparison as one object: values by name, and under `interval` the ends of each."""
    best = found.best_window
    return {
        "speed_ratio": _number(found.constants.speed_ratio),
        "draft_step_s": _number(found.constants.step_s),
        "target_pass_s": found.constants.pass_s,
        "systems": [_system(system) for system in found.systems],
        "theorem_1": None
        if best is None
        else {
            "speed_ratio": best.speed_ratio,
            "stated": best.stated,
            "best_by_theory": best.theory,
            "best_simulated": best.best,
            "holds": best.holds,
            "lost": _number(best.lost),
            "simulated": best.simulated,
        },
        "unexplained": found.unexplained,
        "others": found.others,
        "violated": [f"{name}: {claim.name}" for name, claim in found.violated],
        "notes": found.notes,
    }


def _system(system: Comparison) -> dict[str, Any]:
    from pearl.analysis.gap import grouped

    measured = as_object(system.measured_figures)
    lengths = as_object(msgspec.structs.asdict(system.run_length))
    interval = measured.pop("interval") | lengths.pop("interval")
    rate = system.acceptance
    return {
        "name": system.name,
        "schedule": system.settings.schedule,
        "gamma": system.gamma,
        "head_start": system.settings.head_start,
        "strict": system.settings.strict,
        "verifier": system.settings.effective_verifier,
        "requests": system.requests,
        "tokens": system.tokens,
        "theory": {
            name: _number(value) if name != "run_length" else value
            for name, value in msgspec.structs.asdict(system.theory).items()
        },
        "simulation": system.simulated_figures,
        "measured": measured,
        "run_length": lengths,
        "acceptance": {
            "kept": rate.kept,
            "rejections": rate.rejections,
            "rate": rate.independent.value,
            "interval_if_independent": rate.independent.interval,
            "interval_over_requests": rate.over_requests.interval,
        },
        "interval": interval,
        "independence": {
            **msgspec.to_builtins(system.independence),
            "holds": system.independence.holds,
        },
        "factors": {
            **grouped(system.factors),
            "parts": system.factors,
            "total": math.prod(system.factors.values()),
        },
        "claims": [
            {
                **msgspec.to_builtins(claim),
                "measured": claim.measured.value,
                "interval": claim.measured.interval,
                "holds": claim.holds,
                "is_bound": claim.is_bound,
            }
            for claim in system.claims
        ],
    }


def _number(value: float) -> float | None:
    """Null where there is none."""
    return value if value == value else None  # noqa: PLR0124 - nan is not itself


def show(found: Validation) -> None:
    console = Console(width=WIDTH, highlight=False)
    constants = found.constants
    console.print(
        f"A draft step takes {1e3 * constants.step_s:.3g} ms, a target pass "
        f"{1e3 * constants.pass_s:.3g} ms: speed ratio {constants.speed_ratio:.3g}."
    )
    console.print(_speeds(found))
    console.print(_factors(found))
    console.print(_claims(found))
    for system in found.systems:
        for claim in system.claims:
            if claim.holds is False:
                needs = f" It needs {claim.needs}:" if claim.needs else ""
                console.print(f"{system.name}: {claim.name}: not so.{needs} {claim.why}.")
    if found.best_window is not None:
        console.print(found.best_window.sentence)
    for note in found.notes:
        console.print(note)
    if found.others is not None:
        style = "yellow" if disturbance.warning(found.others) else None
        console.print(disturbance.sentence(found.others), style=style)


def _speeds(found: Validation) -> Table:
    """Theory, simulation and measurement, side by side."""
    shown = table(
        "", "tokens/s", "speed over AR", "tokens per pass", "accepted",
        title="theory · simulation · measurement",
    )  # fmt: skip
    for system in found.systems:
        shown.add_row(
            system.name,
            _three(system, "tokens_per_s", 0),
            _three(system, "speedup_over_ar", 2),
            _three(system, "tokens_per_target_pass", 2),
            share(system.acceptance.independent.value, 1),
        )
    return shown


def _three(system: Comparison, name: str, places: int) -> str:
    """What theory, simulation and measurement say of a figure, the last with its interval."""
    theory, made = getattr(system.theory, name), system.simulated_figures.get(name)
    measured = with_ends(system.measured_figures[name], places)
    return f"{digits(theory, places)} · {digits(made, places)} · {measured}"


def _factors(found: Validation) -> Table:
    """From theory to the run: what the speed is multiplied by."""
    from pearl.analysis.gap import PARTS_OF, grouped

    heads = [name.replace("_", " ") for name in PARTS_OF]
    title = "from theory to the run: factors, which multiply to measured / theory"
    shown = table("", *heads, "measured / theory", title=title)
    for system in found.systems:
        if system.factors:
            factors = [*grouped(system.factors).values(), math.prod(system.factors.values())]
            shown.add_row(system.name, *(digits(factor, 3) for factor in factors))
    return shown


def _claims(found: Validation) -> Table:
    """What theory states, and whether it is so."""
    heads = ("", "statement", "stated", "measured", "holds")
    shown = table(*heads, title="what theory states", words=2)
    for system in found.systems:
        for claim in system.claims:
            sign = {"equal to": "", "at least": "≥ ", "at most": "≤ "}[claim.relation]
            shown.add_row(
                system.name,
                claim.name,
                f"{sign}{claim.stated:.4g}",
                str(claim.measured),
                {True: "yes", None: NONE, False: "no" if claim.needs else "VIOLATED"}[claim.holds],
            )
    return shown
