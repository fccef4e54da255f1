"""What `pearl validate` shows: tables for people, one object for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from analysis.comparison import Comparison
    from analysis.validation import Validation
    from decoding.estimates import Estimate

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
        "violated": [f"{name}: {claim.name}" for name, claim in found.violated],
        "notes": found.notes,
    }


def _system(system: Comparison) -> dict[str, Any]:
    from analysis.gap import parts

    measured = {**_estimates(system.measured), "speedup_over_ar": system.speedup_over_ar}
    lengths = _estimates(system.run_length)
    simulated = {} if system.simulation is None else _estimates(system.simulation)
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
        "simulation": {
            **{name: estimate.value for name, estimate in simulated.items()},
            "speedup_over_ar": system.simulated_over_ar,
        },
        "measured": {name: estimate.value for name, estimate in measured.items()},
        "run_length": {name: estimate.value for name, estimate in lengths.items()},
        "acceptance": {
            "kept": rate.kept,
            "rejections": rate.rejections,
            "rate": rate.independent.value,
            "interval_if_independent": rate.independent.interval,
            "interval_over_requests": rate.over_requests.interval,
        },
        "interval": {name: estimate.interval for name, estimate in {**measured, **lengths}.items()},
        "independence": {
            **msgspec.to_builtins(system.independence),
            "holds": system.independence.holds,
        },
        "gap": {**parts(system.gap), "parts": system.gap, "total": sum(system.gap.values())},
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


def _estimates(figures: msgspec.Struct) -> dict[str, Estimate]:
    return {name: getattr(figures, name) for name in figures.__struct_fields__}


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
    console.print(_gaps(found))
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


def _speeds(found: Validation) -> Table:
    """Theory, simulation and measurement, side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="theory · simulation · measurement")
    table.add_column("")
    for name in ("tokens/s", "speed over AR", "tokens per pass"):
        table.add_column(name, justify="right")
    table.add_column("accepted", justify="right")
    for system in found.systems:
        said, real = system.theory, system.measured
        made = {} if system.simulation is None else _estimates(system.simulation)
        simulated = {name: estimate.value for name, estimate in made.items()}
        rate = system.acceptance.independent.value
        table.add_row(
            system.name,
            _three(said.tokens_per_s, simulated.get("tokens_per_s"), real.tokens_per_s, 0),
            _three(said.speedup_over_ar, system.simulated_over_ar, system.speedup_over_ar, 2),
            _three(
                said.tokens_per_target_pass,
                simulated.get("tokens_per_target_pass"),
                real.tokens_per_target_pass,
                2,
            ),
            "–" if rate is None else f"{rate:.1%}",
        )
    return table


def _three(theory: float, simulation: float | None, measured: Estimate, digits: int) -> str:
    """Three numbers, the last with its interval."""
    shown = [_digits(value, digits) for value in (theory, simulation, measured.value)]
    if measured.interval is not None:
        low, high = (_digits(end, digits) for end in measured.interval)
        shown[-1] += f" ({low}–{high})"
    return " · ".join(shown)


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None or value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - nan


def _gaps(found: Validation) -> Table:
    """From theory to the run."""
    from analysis.gap import PARTS_OF, parts

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="from theory to the run")
    table.add_column("")
    for name in PARTS_OF:
        table.add_column(name.replace("_", " "), justify="right")
    table.add_column("speed", justify="right")
    for system in found.systems:
        if system.gap:
            shares = [*parts(system.gap).values(), sum(system.gap.values())]
            table.add_row(system.name, *(f"{100 * share:+.1f} %" for share in shares))
    return table


def _claims(found: Validation) -> Table:
    """What theory states, and whether it is so."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="what theory states")
    for name in ("", "statement", "stated", "measured", "holds"):
        table.add_column(name, justify="right" if name in {"stated", "measured"} else "left")
    for system in found.systems:
        for claim in system.claims:
            sign = {"equal to": "", "at least": "≥ ", "at most": "≤ "}[claim.relation]
            table.add_row(
                system.name,
                claim.name,
                f"{sign}{claim.stated:.4g}",
                str(claim.measured),
                {True: "yes", None: "–", False: "no" if claim.needs else "VIOLATED"}[claim.holds],
            )
    return table
