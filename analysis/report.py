"""A validation as one page: self-contained HTML, for a phone, a screen or paper.

    path.write_text(report.html(validation, requests), encoding="utf-8")

It needs no network: style and figures are in it.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import jinja2
import msgspec
from markupsafe import Markup

from pearl.analysis import disturbance, figures, statistics, traces
from pearl.analysis.comparison import Claim, Comparison, Relation
from pearl.analysis.gap import Part
from pearl.analysis.parameters import Constants, assumptions
from pearl.analysis.theory import expected
from pearl.analysis.traces import Request
from pearl.analysis.validation import Validation
from pearl.decoding.kinds import SCHEDULES

TITLE: Final = "PEARL: theory, simulation and measurement"
SIGNS: Final = {Relation.EQUAL: "", Relation.AT_LEAST: "≥ ", Relation.AT_MOST: "≤ "}


def html(found: Validation, requests: Mapping[str, Sequence[Request]]) -> str:
    """The page.

    Args:
        found: what was compared.
        requests: the same, by system, for the rounds and the runs.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "signed": lambda value: f"{value:+.2f}".replace("-", "−"),
        "milliseconds": lambda seconds: f"{_number(1e3 * seconds)} ms",
    }
    text = importlib.resources.files("pearl.analysis").joinpath("report.html.j2").read_text("utf-8")
    shown_parts = [part for part in Part if any(part in s.factors for s in found.systems)]
    return environment.from_string(text).render(
        title=TITLE,
        made=_made(found),
        verdict=_verdict(found),
        others="" if found.others is None else disturbance.sentence(found.others),
        disturbed=found.others is not None and bool(disturbance.warning(found.others)),
        found=found,
        systems=[_row(system) for system in found.systems],
        parts=shown_parts,
        factors=[(s.name, _factors(s, shown_parts)) for s in found.systems if s.factors],
        claims=[(s.name, _claim(claim)) for s in found.systems for claim in s.claims],
        window=None if found.best_window is None else found.best_window.sentence,
        luck=[_luck(system) for system in found.systems if system.settings.kind.drafts],
        figures={
            "speeds": [*_speeds(found)],
            "factors": [*_factor_bars(found)],
            "windows": [*_windows(found)],
            "runs": [*_runs(found, requests)],
            "rounds": [*_rounds(found, requests)],
        },
    )


def _made(found: Validation) -> str:
    """What was run, in a line."""
    first = found.systems[0]
    sampling = first.settings.sampling
    drawn = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}"
    tokens = sum(system.tokens for system in found.systems)
    clock = "simulated" if all(s.simulated_clock for s in found.systems) else "real"
    sampled = (s.settings for s in found.systems if s.settings.verifier_kind.samples)
    verifier = {settings.effective_verifier for settings in sampled}
    judged = f", {' and '.join(sorted(verifier))} verifier" if verifier else ""
    names = ", ".join(system.name for system in found.systems)
    return f"{names}; {tokens} tokens of {clock} runs, {drawn}{judged}"


def _verdict(found: Validation) -> str:
    """Whether all bounds hold."""
    number = len(found.violated)
    if number == 0:
        return "No bound of theory is violated."
    one = "One bound of theory is" if number == 1 else f"{number} bounds of theory are"
    return f"{one} violated by more than the interval; see below."


# -- tables ------------------------------------------------------------------------------------


def _row(system: Comparison) -> dict[str, Any]:
    """Theory, simulation and measurement of every figure."""
    made, real = system.simulated_figures, system.measured_figures

    def cell(name: str, form: Any) -> dict[str, str | None]:
        interval = real[name].interval
        return {
            "measured": form(real[name].value),
            "interval": None if interval is None else " to ".join(map(form, interval)),
            "simulation": form(made.get(name)),
            "theory": form(getattr(system.theory, name)),
        }

    names = ("tokens_per_s", "speedup_over_ar", "tokens_per_target_pass")
    shares = ("draft_idle", "target_idle", "wasted")
    cells = [cell(name, _number) for name in names] + [cell(name, _percent) for name in shares]
    return {"name": system.name, "requests": system.requests, "cells": cells}


def _factors(system: Comparison, parts: Sequence[Part]) -> list[str]:
    """Of each part, and their product."""
    factors = [system.factors.get(part) for part in parts]
    shown = [*factors, math.prod(system.factors.values())]
    return ["" if factor is None else f"{factor:.3f}" for factor in shown]


def _claim(claim: Claim) -> dict[str, Any]:
    """A statement with its verdict in words."""
    held = {True: "yes", False: "no" if claim.needs else "violated", None: "–"}[claim.holds]
    needs = f"It needs {claim.needs}: " if claim.needs else ""
    return {
        **msgspec.structs.asdict(claim),
        "sign": SIGNS[claim.relation],
        "verdict": held,
        "mark": "no" if claim.holds is False else "yes" if claim.holds else "",
        "reason": f"{needs}{claim.why}." if claim.holds is False else "",
    }


def _luck(system: Comparison) -> dict[str, Any]:
    found, rate = system.independence, system.acceptance
    several = rate.over_requests.interval is not None
    return {
        "name": system.name,
        "rate": rate.over_requests if several else rate.independent,
        "first": system.run_length.first_kept.value,
        "correlation": found.correlation,
        "within": found.correlation_within,
        **{name: _chance(getattr(found, name).p) for name in ("bursts", "lengths", "requests")},
        "holds": found.holds,
    }


# -- figures -----------------------------------------------------------------------------------


def _speeds(found: Validation) -> Iterator[Markup]:
    rows = [
        figures.ThreeAnswers(
            name=s.name,
            theory=s.theory.tokens_per_s,
            simulation=None if s.simulation is None else s.simulation.tokens_per_s.value,
            measured=s.measured.tokens_per_s,
        )
        for s in found.systems
    ]
    yield _drawn(
        lambda axes: figures.side_by_side(axes, rows, title="Tokens per second"),
        height=1.1 + 0.35 * len(rows),
    )


def _factor_bars(found: Validation) -> Iterator[Markup]:
    factors = {s.name: s.factors for s in found.systems if s.factors}
    if factors:
        yield _drawn(
            lambda axes: figures.factor_bars(axes, factors, title="From theory to the run"),
            height=1.6 + 0.35 * len(factors),
        )


def _windows(found: Validation) -> Iterator[Markup]:
    """Speed against gamma: theory, and what was measured."""
    systems = [s for s in found.systems if s.gamma and s.speedup_over_ar.value is not None]
    points = [
        figures.MeasuredSpeed(name=_kind(s), gamma=s.gamma, speedup=s.speedup_over_ar)
        for s in systems
    ]
    laws = {_kind(s): _law(s, found.constants) for s in systems}
    if points:
        yield _drawn(
            lambda axes: figures.speedup_against_gamma(
                axes, points, theory=laws, title="Measured, over the closed forms"
            ),
            height=3.6,
        )


def _kind(system: Comparison) -> str:
    k = system.settings.head_start
    return system.settings.kind.title + (f", head start {k}" if k else "")


def _law(system: Comparison, constants: Constants) -> Callable[[int], float]:
    """Speed over AR as a function of gamma, at the acceptance of one system."""
    rate = float(system.acceptance.independent)
    return lambda gamma: float(
        expected(assumptions(system.settings, gamma, rate, constants)).speedup
    )


def _runs(found: Validation, requests: Mapping[str, Sequence[Request]]) -> Iterator[Markup]:
    """Run lengths of one system: they are the pair's, not a schedule's.

    Of the first that writes windows beside its passes, if there is one: it has no bonus tokens,
    with which nothing is compared.
    """
    systems = [s for s in found.systems if s.acceptance.independent.value is not None]
    if not systems:
        return
    system = min(systems, key=lambda s: not s.settings.kind.parallel)
    shares = statistics.survival([request.luck for request in requests[system.name]])
    alpha, title = float(system.acceptance.independent), f"Runs of {system.name}"
    yield _drawn(lambda axes: figures.run_lengths(axes, shares, alpha=alpha, title=title))


def _rounds(found: Validation, requests: Mapping[str, Sequence[Request]]) -> Iterator[Markup]:
    """The first rounds of one system of each schedule, and how the devices spent the time."""
    first = {system.settings.schedule: system for system in reversed(found.systems)}
    chosen = [first[name] for name in SCHEDULES if name in first]
    for system in chosen:
        records = requests[system.name][0].records
        yield _drawn(functools.partial(figures.timeline, records=records, title=system.name))
    alone = {s.name: s for s in chosen if not traces.overlap(requests[s.name])}
    shares = {name: traces.shares(requests[name]) for name in alone}
    if shares:
        yield _drawn(
            lambda axes: figures.waiting_bars(axes, shares, title="Where the time went"),
            height=1.4 + 0.75 * len(shares),
        )


def _drawn(draw: Any, *, height: float = 3.2) -> Markup:
    """A figure as part of the page; what draws it escapes its words itself."""
    return Markup(figures.picture(draw, size=(9.0, height)).svg)  # noqa: S704 - our own drawing


# -- words -------------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def _chance(p: float | None) -> str:
    if p is None:
        return "–"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"  # noqa: PLR2004 - digits
