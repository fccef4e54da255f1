"""What `pearl bench` shows: tables and a figure for people, one object for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from rich.console import Console

from pearl.analysis import disturbance
from pearl.decoding.estimates import Estimate
from pearl.harness.machines import machine, models, packages
from pearl.showing.tables import as_object, digits, share, table, with_ends

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table

    from pearl.actors.engine_settings import EngineSettings
    from pearl.analysis.benchmark import BenchmarkRun, Difference, Quantiles, Report, Standing
    from pearl.analysis.crowds import Level
    from pearl.harness.competitors import Contest, Family
    from pearl.harness.contest import ContestResult, Tuned
    from pearl.harness.crowd import Crowds

WIDTH: Final = 110
WHAT: Final = (
    "Speeds are of whole requests, measured and in theory: theory waits for the first token as "
    "long as the run did, then goes on as the closed form says at the run's own acceptance, window "
    "and times. Achieved: speed over AR, over that in theory. Overlap: what the jobs of a run must "
    "take at least, over what it took."
)


def about(
    contest: Contest,
    prompts: Sequence[str],
    engine: EngineSettings,
    found: ContestResult | Crowds,
    differences: Sequence[Difference],
) -> dict[str, Any]:
    """How it was run, what was tuned, whether the texts are right."""
    return {
        "prompts": len(prompts),
        "tuning_prompts": min(contest.tuning_prompts, len(prompts)),
        "settings": {
            **msgspec.to_builtins(contest.settings.sampling),
            "verifier": contest.settings.effective_verifier,
            "seed": contest.settings.seed,
            "max_new_tokens": contest.settings.max_new_tokens,
        },
        "models": models(engine) if contest.stand_ins is None else None,
        "stand_in": msgspec.to_builtins(contest.stand_ins),
        "devices": engine.devices,
        "dtype": engine.dtype,
        "identical": not differences,
        "differences": msgspec.to_builtins(differences),
        "tuned": {
            family: {"best": tuned.best.name, "speed_over_ar": tuned.speeds}
            for family, tuned in found.tuned.items()
            if tuned.speeds
        },
        "others": found.others,
        "machine": machine(),
        "packages": packages(),
    }


def as_builtins(found: Report, outcome: ContestResult) -> dict[str, Any]:
    """The comparison as one object: values by name, and under `interval` the ends of each."""
    return {"rounds": found.rounds, "systems": [_row(row, outcome) for row in found.rows]}


def level_as_builtins(found: Level) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain | as_object({"tokens_per_s": found.tokens_per_s})


def _row(row: Standing, outcome: ContestResult) -> dict[str, Any]:
    figures = {
        name: value
        for name in row.__struct_fields__
        if isinstance(value := getattr(row, name), Estimate)
    }
    family = next(f for f, t in outcome.tuned.items() if t.best.name == row.system.name)
    limits = row.allowed
    efficiency = Estimate(None) if limits is None else limits.efficiency
    return {
        "name": row.system.name,
        "family": family,
        **_how(outcome.tuned[family].best.way),
        "devices": row.system.devices,
        **as_object(figures | {"overlap_efficiency": efficiency}),
        "time_per_token_s": msgspec.to_builtins(row.time_per_token_s),
        "theory": None
        if limits is None
        else {
            "tokens_per_s": limits.tokens_per_s,
            "speed_over_ar": limits.speed_over_ar,
            "achieved": row.achieved,
        },
        "control_us": None if limits is None else msgspec.to_builtins(limits.control_us),
        "memory_bytes": row.memory_bytes,
        "joules_per_token": row.joules_per_token,
        "same_text": row.same_text,
    }


def _how(way: Any) -> dict[str, Any]:
    """What a system was run with."""
    from pearl.actors.runners.reference import Assistance
    from pearl.decoding.settings import Settings

    match way:
        case Settings() if not way.kind.drafts:
            return {"schedule": way.schedule}
        case Settings():
            names = ("schedule", "gamma", "head_start", "strict")
            return {name: getattr(way, name) for name in names}
        case Assistance():
            return {"assistant_tokens": way.tokens, "assistant_threshold": way.threshold}
        case _:
            return {}


def run_as_builtins(run: BenchmarkRun) -> dict[str, Any]:
    """A single run, without its text."""
    first, last = run.arrivals[0][0], run.arrivals[-1][0]
    return {
        "system": run.system,
        "prompt": run.prompt,
        "round": run.round,
        "tokens": len(run.tokens),
        "seconds": last,
        "time_to_first_token_s": first,
        "memory_bytes": run.memory_bytes,
        "joules": run.joules,
    }


def show(found: Report, outcome: ContestResult, answer: dict[str, Any]) -> None:
    console = Console(width=WIDTH, highlight=False)
    for one in (_speeds(found), _times(found), _work(found)):
        console.print(one)
    console.print(
        f"Medians over {found.prompts} prompts with 95 % intervals; rounds: {found.rounds}. {WHAT}"
    )
    _show_how(console, outcome.tuned, answer)


def show_crowds(found: Crowds, answer: dict[str, Any]) -> None:
    console = Console(width=WIDTH, highlight=False)
    fewest = min(level.in_flight for level in found.levels)
    console.print(_crowds(found.levels, f"at once: speed over that of {fewest}", _grown))
    over_ar = _crowds(found.levels, "at once: speed over AR", lambda n: digits(n.over_ar, 2))
    console.print(over_ar)
    console.print(
        f"{answer['prompts']} prompts in a cycle, the next one when a text has ended; speed is "
        "what was written while as many were in flight. In brackets: what the measured times of "
        "passes with as many rows allow."
    )
    _show_how(console, found.tuned, answer)


def _show_how(console: Console, tuned: Mapping[Family, Tuned], answer: dict[str, Any]) -> None:
    """What was chosen, whether the texts are right, where it ran."""
    chosen = [f"{t.best.name} of {len(t.speeds)}" for t in tuned.values() if t.speeds]
    if chosen:
        first = answer["tuning_prompts"]
        console.print(f"Tuned on {first} of the prompts, finalists on all: {'; '.join(chosen)}.")
    if answer["identical"]:
        console.print("[green]Every text that must be AR's is AR's, token for token.[/green]")
    hardware, versions = answer["machine"], answer["packages"]
    console.print(
        f"{hardware['cores']} cores, {', '.join(hardware.get('gpus', [])) or 'no GPU'}; "
        f"torch {versions['torch']}, transformers {versions['transformers']}, "
        f"ray {versions['ray']}."
    )
    style = "yellow" if disturbance.warning(answer["others"]) else None
    console.print(disturbance.sentence(answer["others"]), style=style)


def _crowds(levels: Sequence[Level], title: str, cell: Callable[[Level], str]) -> Table:
    """A line a number of requests, a column a system."""
    shown = table("", *dict.fromkeys(level.system for level in levels), title=title)
    for number in dict.fromkeys(level.in_flight for level in levels):
        row = [cell(level) for level in levels if level.in_flight == number]
        shown.add_row(str(number), *row)
    return shown


def _grown(level: Level) -> str:
    return f"{digits(level.growth, 2)} ({digits(level.growth_in_theory, 2)})"


def _speeds(found: Report) -> Table:
    shown = table(
        "", "tokens/s", "over AR", "in theory", "achieved", "of totals", "over SD", "per device",
        "text of AR", title="speed",
    )  # fmt: skip
    for row in found.rows:
        same = {True: "yes", False: "NO", None: "other coins"}[row.same_text]
        shown.add_row(
            row.system.name,
            digits(row.tokens_per_s.value, 0),
            with_ends(row.speed_over_ar),
            digits(None if row.allowed is None else row.allowed.speed_over_ar, 2),
            share(row.achieved),
            digits(row.of_totals.value, 2),
            with_ends(row.speed_over_sd),
            digits(row.speed_per_device.value, 2),
            same,
        )
    return shown


def _times(found: Report) -> Table:
    shown = table(
        "", "first token ms", "per token ms: p50", "p95", "p99", "control µs: p50", "p99",
        "overlap", title="time",
    )  # fmt: skip
    for row in found.rows:
        times, limits = row.time_per_token_s, row.allowed
        control = None if limits is None else limits.control_us
        shown.add_row(
            row.system.name,
            digits(row.time_to_first_token_s.value, 1, scale=1e3),
            *(digits(value, 2, scale=1e3) for value in _three(times)),
            digits(None if control is None else control.p50, 0),
            digits(None if control is None else control.p99, 0),
            share(None if limits is None else limits.efficiency.value),
        )
    return shown


def _work(found: Report) -> Table:
    energy = any(row.joules_per_token is not None for row in found.rows)
    shown = table(
        "", "accepted", "tokens per pass", "draft idle", "target idle", "wasted", "memory MB",
        *(["J per token"] if energy else []), title="work",
    )  # fmt: skip
    for row in found.rows:
        shares = [share(e.value) for e in (row.draft_idle, row.target_idle, row.wasted)]
        joules = [digits(row.joules_per_token, 3)] if energy else []
        shown.add_row(
            row.system.name,
            share(row.acceptance_rate.value, 1),
            digits(row.tokens_per_target_pass.value, 2),
            *shares,
            digits(row.memory_bytes, 0, scale=1e-6),
            *joules,
        )
    return shown


def _three(found: Quantiles | None) -> Sequence[float | None]:
    return (None,) * 3 if found is None else (found.p50, found.p95, found.p99)


def draw(path: pathlib.Path, found: Report) -> None:
    from pearl.analysis import figures
    from pearl.analysis.figures import Speed

    rows = [
        Speed(
            name=row.system.name,
            measured=row.speed_over_ar,
            theory=None if row.allowed is None else row.allowed.speed_over_ar,
            ours=row.system.settings is not None,
        )
        for row in found.rows
    ]
    title = f"speed over AR, medians over {found.prompts} prompts"
    height = 1.6 + 0.36 * len(rows)
    figures.save(path, lambda axes: figures.speeds(axes, rows, title=title), size=(9.0, height))
