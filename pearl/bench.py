"""`pearl bench`: AR, SD, PEARL and Hugging Face side by side, interleaved in one run."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from actors.stand_ins import STAND_INS, parse_stand_ins
from decoding import files
from decoding.errors import SettingError
from decoding.estimates import Estimate
from decoding.settings import ScheduleName
from pearl import signals
from pearl.contest import Plan, StandIns, candidates, compete
from pearl.crowd import gather
from pearl.doctor import machine, packages
from pearl.options import (
    ENGINE,
    PROMPTS,
    SAMPLING,
    check_writable,
    decoding_settings,
    engine_settings,
    options,
)
from pearl.prompts import read_prompts
from pearl.terminal import said

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from actors.engine_settings import EngineSettings
    from analysis.benchmark import Difference, Quantiles, Report, Row, Run
    from analysis.crowds import Level
    from pearl.contest import Family, Outcome, Tuned
    from pearl.crowd import Crowds

WIDTH: Final = 110
MOST: Final = 4096  # requests at once; tokens of a window have a limit of their own
MOST_TIMED_TOKENS: Final = 100_000
QUIET: Final = 0.05  # share of the cores that others may take

CANDIDATES = [
    click.option("--gammas", default="2,3,4,5,6,8,10", show_default=True, metavar="N,…",
                 help="Windows that SD and PEARL are tuned over."),
    click.option("--head-starts", default="0,1,2,3", show_default=True, metavar="K,…",
                 help="Head starts that PEARL is tuned over."),
    click.option("--assistant-tokens", default="2,3,4,5,6,8,10", show_default=True, metavar="N,…",
                 help="Windows that assisted generation is tuned over, each with a confidence "
                 "threshold of 0 and of 0.4, beside its own defaults."),
    click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True,
                 help="How often every prompt is decoded by every system that is measured."),
    click.option("--tuning-prompts", type=click.IntRange(min=1), default=4, show_default=True,
                 help="On how many of the prompts all candidates are tried; then the best three "
                 "of each family on the others."),
    click.option("--no-reference", is_flag=True, help="Leave Hugging Face out."),
    click.option("--stand-in", metavar="KIND:DRAFT,TARGET",
                 help="No models, and without Hugging Face: devices that do some work and say a "
                 "text that is known; shows what the machinery costs. One of "
                 + ", ".join(f"{k}:DRAFT,TARGET ({it.takes})" for k, it in STAND_INS.items())),
    click.option("--timed", metavar="DRAFT,TARGET",
                 help="The same as --stand-in timed:DRAFT,TARGET: ms of a pass."),
    click.option("--acceptance", type=float, metavar="A",
                 help="Of stand-ins: how often the draft guesses a token; default: 0.8."),
]  # fmt: skip


@click.command(name="bench")
@options(CANDIDATES, SAMPLING, PROMPTS, ENGINE)
@click.option(
    "--in-flight",
    metavar="N,…",
    help="Compare so many requests at once instead: AR, SD and PEARL at their best, and "
    "with automatic windows.",
)
@click.option("--figure", "figure_file", metavar="FILE", help="Draw the speeds, .png or .svg.")
@click.option("--output", metavar="FILE.json", help="Write the object, with every single run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    in_flight: str | None,
    figure_file: str | None,
    output: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Compare AR, SD, PEARL and Hugging Face on one pair, tuned alike, in one run.

    Speeds are medians over prompts of ratios to AR on the same prompt. Exit code 1 where a text
    that must be AR's is not.
    """
    plan = _plan(given)
    sizes = None if in_flight is None else _numbers("in-flight", in_flight, least=1)
    figure = None if figure_file is None else _figure_path(figure_file, sizes)
    file = None if output is None else check_writable(output)
    prompts, engine = read_prompts(given), engine_settings(given)
    if sizes is not None:
        return _together(plan, engine, prompts, sorted(sizes), file, as_json=as_json)
    outcome = signals.run(compete(plan, engine, prompts))
    from analysis import benchmark

    found = benchmark.report(outcome.systems, outcome.runs, outcome.traced)
    answer = about(plan, prompts, engine, outcome, found.differences) | as_builtins(found, outcome)
    with said(answer if as_json else None, lambda: _show(found, outcome, answer)):
        _write(file, answer | {"runs": [_run(run) for run in outcome.runs]})
        if figure is not None:
            _draw(figure, found)
    return _complain(found.differences, "round")


def _together(
    plan: Plan,
    engine: EngineSettings,
    prompts: Sequence[str],
    sizes: Sequence[int],
    file: pathlib.Path | None,
    *,
    as_json: bool,
) -> int:
    """Several requests at once."""
    found = signals.run(gather(plan, engine, prompts, sizes))
    answer = about(plan, prompts, engine, found, found.differences)
    answer["in_flight"] = [_level(level) for level in found.levels]
    with said(answer if as_json else None, lambda: _show_crowds(found, answer)):
        _write(file, answer)
    return _complain(found.differences, "requests at once:")


def _plan(given: dict[str, Any]) -> Plan:
    """What the options describe.

    Raises:
        SettingError: one of them is outside its range.
    """
    rest = {"schedule": "ar", "gamma": "auto", "head_start": 0, "strict": False, "stop": ()}
    stand_ins = _stand_ins(given["stand_in"], given["timed"], given["acceptance"])
    plan = Plan(
        reference=False,
        settings=decoding_settings(given | rest),
        gammas=_numbers("gammas", given["gammas"], least=1),
        head_starts=_numbers("head-starts", given["head_starts"], least=0),
        assistant_tokens=_numbers("assistant-tokens", given["assistant_tokens"], least=1),
        rounds=given["rounds"],
        tuning_prompts=given["tuning_prompts"],
        stand_ins=stand_ins,
    )
    if stand_ins is not None and plan.settings.max_new_tokens > MOST_TIMED_TOKENS:
        allowed = f"at most {MOST_TIMED_TOKENS} with stand-ins, which have no models to end it"
        message = f"max-new-tokens is {plan.settings.max_new_tokens}; it must be {allowed}"
        raise SettingError(message)
    candidates(plan)  # ours refuse windows that are out of range
    return dataclasses.replace(plan, reference=stand_ins is None and not given["no_reference"])


def _stand_ins(text: str | None, timed: str | None, acceptance: float | None) -> StandIns | None:
    """Devices without models, as the three options describe them."""
    if text is not None and timed is not None:
        message = f"stand-in {text!r} and timed {timed!r} are both given; give one"
        raise SettingError(message)
    if text is None and timed is None:
        if acceptance is not None:
            message = f"acceptance is {acceptance:g}; it is for stand-ins, models have their own"
            raise SettingError(message)
        return None
    kind, _, rest = text.partition(":") if text is not None else ("timed", ":", timed or "")
    return StandIns(
        kind=kind,
        devices=parse_stand_ins(kind, rest),
        acceptance=0.8 if acceptance is None else acceptance,
    )


def _numbers(name: str, text: str, *, least: int) -> tuple[int, ...]:
    """Whole numbers between commas, each once."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < least or max(found) > MOST:
        allowed = f"whole numbers from {least} on between commas, at most {MOST}"
        message = f"{name} is {text!r}; it must be {allowed}"
        raise SettingError(message)
    return found


def _figure_path(file: str, sizes: tuple[int, ...] | None) -> pathlib.Path:
    from analysis.figures import check_figure_path

    if sizes is not None:
        message = "figure and in-flight are both given; the figure is of single requests"
        raise SettingError(message)
    check_figure_path(file)
    return check_writable(file)


def _write(file: pathlib.Path | None, answer: dict[str, Any]) -> None:
    if file is not None:
        files.write(file, msgspec.json.format(msgspec.json.encode(answer), indent=1))


def _complain(differences: Sequence[Difference], turn: str) -> int:
    """One line if a text is not what it must be, and the exit code."""
    if not differences:
        return 0
    first, *more = differences
    click.echo(
        f"pearl: {first.system} differs from AR on prompt {first.prompt + 1}, {turn} "
        f"{first.round}, at token {first.token + 1}"
        + (f", and {len(more)} more texts differ" if more else "")
        + "; in lower precision than float32 rounding can do that",
        err=True,
    )
    return 1


# -- for machines ------------------------------------------------------------------------------


def about(
    plan: Plan,
    prompts: Sequence[str],
    engine: EngineSettings,
    found: Outcome | Crowds,
    differences: Sequence[Difference],
) -> dict[str, Any]:
    """How it was run, what was tuned, whether the texts are right."""
    own = "the embedded pair"
    return {
        "prompts": len(prompts),
        "tuning_prompts": min(plan.tuning_prompts, len(prompts)),
        "settings": {
            **msgspec.to_builtins(plan.settings.sampling),
            "verifier": plan.settings.effective_verifier,
            "seed": plan.settings.seed,
            "max_new_tokens": plan.settings.max_new_tokens,
        },
        "models": {"draft": engine.draft or own, "target": engine.target or own}
        if plan.stand_ins is None
        else None,
        "stand_in": None if plan.stand_ins is None else plan.stand_ins.about(),
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


def as_builtins(found: Report, outcome: Outcome) -> dict[str, Any]:
    """The comparison as one object: values by name, and under `interval` the ends of each."""
    return {"rounds": found.rounds, "systems": [_row(row, outcome) for row in found.rows]}


def _level(found: Level) -> dict[str, Any]:
    speed = found.tokens_per_s
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return plain | {"tokens_per_s": speed.value, "interval": {"tokens_per_s": speed.interval}}


def _row(row: Row, outcome: Outcome) -> dict[str, Any]:
    estimates = {
        name: value
        for name in row.__struct_fields__
        if isinstance(value := getattr(row, name), Estimate)
    }
    family = next(f for f, t in outcome.tuned.items() if t.best.name == row.system.name)
    limits = row.allowed
    return {
        "name": row.system.name,
        "family": family,
        **_how(outcome.tuned[family].best.way),
        "devices": row.system.devices,
        **{name: estimate.value for name, estimate in estimates.items()},
        "interval": {name: estimate.interval for name, estimate in estimates.items()}
        | ({} if limits is None else {"overlap_efficiency": limits.efficiency.interval}),
        "time_per_token_s": msgspec.to_builtins(row.time_per_token_s),
        "overlap_efficiency": None if limits is None else limits.efficiency.value,
        "theory": None
        if limits is None
        else {"tokens_per_s": limits.tokens_per_s, "speed_over_ar": limits.speed_over_ar},
        "control_us": None if limits is None else msgspec.to_builtins(limits.control_us),
        "memory_bytes": row.memory_bytes,
        "joules_per_token": row.joules_per_token,
        "same_text": row.same_text,
    }


def _how(way: Any) -> dict[str, Any]:
    """What a system was run with."""
    from actors.runners.reference import Assistance
    from decoding.settings import Settings

    match way:
        case Settings(schedule=ScheduleName.AR):
            return {"schedule": "ar"}
        case Settings():
            names = ("schedule", "gamma", "head_start", "strict")
            return {name: getattr(way, name) for name in names}
        case Assistance():
            return {"assistant_tokens": way.tokens, "assistant_threshold": way.threshold}
        case _:
            return {}


def _run(run: Run) -> dict[str, Any]:
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


# -- for people --------------------------------------------------------------------------------


def _show(found: Report, outcome: Outcome, answer: dict[str, Any]) -> None:
    console = Console(width=WIDTH, highlight=False)
    for table in (_speeds(found), _times(found), _work(found)):
        console.print(table)
    console.print(
        f"Medians over {found.prompts} prompts with 95 % intervals; rounds: {found.rounds}."
    )
    _show_how(console, outcome.tuned, answer)


def _show_crowds(found: Crowds, answer: dict[str, Any]) -> None:
    console = Console(width=WIDTH, highlight=False)
    fewest = min(level.in_flight for level in found.levels)
    console.print(_crowds(found.levels, f"at once: speed over that of {fewest}", _grown))
    over_ar = _crowds(found.levels, "at once: speed over AR", lambda n: _digits(n.over_ar, 2))
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
        f"ray {versions['ray']}; other processes took {answer['others']:.0%} of the cores."
    )
    if answer["others"] > QUIET:
        console.print("[yellow]The machine was not quiet: these figures mean little.[/yellow]")


def _crowds(levels: Sequence[Level], title: str, cell: Callable[[Level], str]) -> Table:
    """A line a number of requests, a column a system."""
    table = _table(title, *dict.fromkeys(level.system for level in levels))
    for number in dict.fromkeys(level.in_flight for level in levels):
        row = [cell(level) for level in levels if level.in_flight == number]
        table.add_row(str(number), *row)
    return table


def _grown(level: Level) -> str:
    return f"{_digits(level.growth, 2)} ({_digits(level.growth_in_theory, 2)})"


def _table(title: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _speeds(found: Report) -> Table:
    table = _table(
        "speed", "tokens/s", "over AR", "of totals", "over SD", "per device", "text of AR"
    )
    for row in found.rows:
        same = {True: "yes", False: "NO", None: "other coins"}[row.same_text]
        table.add_row(
            row.system.name,
            _digits(row.tokens_per_s.value, 0),
            _with_ends(row.speed_over_ar),
            _digits(row.of_totals.value, 2),
            _with_ends(row.speed_over_sd),
            _digits(row.speed_per_device.value, 2),
            same,
        )
    return table


def _times(found: Report) -> Table:
    table = _table(
        "time", "first token ms", "per token ms: p50", "p95", "p99", "control µs: p50", "p99",
        "theory over AR", "of it achieved",
    )  # fmt: skip
    for row in found.rows:
        times, limits = row.time_per_token_s, row.allowed
        control = None if limits is None else limits.control_us
        table.add_row(
            row.system.name,
            _scaled(row.time_to_first_token_s.value, 1e3, 1),
            *(_scaled(value, 1e3, 2) for value in _three(times)),
            _digits(None if control is None else control.p50, 0),
            _digits(None if control is None else control.p99, 0),
            _digits(None if limits is None else limits.speed_over_ar, 2),
            "–" if limits is None else _share(limits.efficiency.value),
        )
    return table


def _work(found: Report) -> Table:
    energy = any(row.joules_per_token is not None for row in found.rows)
    table = _table(
        "work", "accepted", "tokens per pass", "draft idle", "target idle", "wasted", "memory MB",
        *(["J per token"] if energy else []),
    )  # fmt: skip
    for row in found.rows:
        shares = [_share(e.value) for e in (row.draft_idle, row.target_idle, row.wasted)]
        joules = [_digits(row.joules_per_token, 3)] if energy else []
        table.add_row(
            row.system.name,
            _share(row.acceptance_rate.value, 1),
            _digits(row.tokens_per_target_pass.value, 2),
            *shares,
            _scaled(row.memory_bytes, 1e-6, 0),
            *joules,
        )
    return table


def _three(found: Quantiles | None) -> Sequence[float | None]:
    return (None,) * 3 if found is None else (found.p50, found.p95, found.p99)


def _digits(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _scaled(value: float | None, by: float, digits: int) -> str:
    return _digits(None if value is None else value * by, digits)


def _share(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _with_ends(found: Estimate) -> str:
    if found.interval is None:
        return _digits(found.value, 2)
    low, high = found.interval
    return f"{_digits(found.value, 2)} ({low:.2f}–{high:.2f})"


# -- the figure --------------------------------------------------------------------------------


def _draw(path: pathlib.Path, found: Report) -> None:
    from analysis import figures
    from analysis.figures import Speed

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
