"""`pearl validate`: theory, simulation and real runs of the same requests, side by side."""

from __future__ import annotations

import asyncio
import pathlib
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from click.core import ParameterSource
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.table import Table

from decoding.errors import MalformedTraceError, PlacementError, SettingError, StorageError
from decoding.files import reason, write
from decoding.settings import ScheduleName, Settings, parse_gamma
from decoding.stopping import StopRules
from pearl import signals
from pearl.options import (
    ENGINE,
    PROMPTS,
    SAMPLING,
    bar,
    check_writable,
    decoding_settings,
    engine_settings,
    options,
    write_trace,
)
from pearl.prompts import read_prompts
from pearl.terminal import said

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actors.engine import Result
    from actors.engine_settings import EngineSettings
    from analysis.traces import Request
    from analysis.validation import BestWindow, Group, System, Validation
    from decoding.estimates import Estimate
    from decoding.messages import TokenId
    from simulator.profiling import Recording
    from simulator.world import Pair

WIDTH: Final = 100
WARMING_TOKENS: Final = 32
WIDEST_TRIED: Final = 32  # windows that theorem 1 is held against

RUNS = [
    click.option("--gamma", "gammas", default="5", show_default=True, metavar="N,…",
                 help="Windows to run SD and PEARL with."),
    click.option("--head-start", "head_starts", default="0", show_default=True, metavar="K,…",
                 help="PEARL: tokens written before the first pass after a rejection."),
    click.option("--strict", is_flag=True, help="PEARL exactly as in the paper: with a barrier."),
    click.option("--record", metavar="FOLDER", help="Keep the traces of the runs there."),
]  # fmt: skip


@click.command(name="validate")
@click.argument("files", nargs=-1, metavar="[TRACE.json]...")
@options(RUNS, SAMPLING, PROMPTS, ENGINE)
@click.option("--report", metavar="FILE.html", help="Write a page with tables and figures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *, files: tuple[str, ...], report: str | None, record: str | None, as_json: bool, **given: Any
) -> int:
    """Hold theory and simulation against real runs.

    Of the traces that are named (`pearl generate --trace`, `pearl simulate --trace`); without
    one the pair is run first: AR, SD and PEARL, in turns. Exit code 1 where a bound of theory is
    violated by more than its interval.
    """
    page = None if report is None else _page_path(report)
    if files:
        _refuse_what_runs(files)
    requests = _read(files) if files else _run(given, record)
    found = validate(requests)
    with said(as_builtins(found) if as_json else None, lambda: _show(found)):
        if page is not None:
            from analysis import report as reports

            write(page, reports.html(found, requests).encode())
    for name, claim in found.violated:
        click.echo(
            f"pearl: violated: {name}: {claim.name}: {claim.measured}, and should be "
            f"{claim.relation} {claim.stated:.4g}; {claim.why}",
            err=True,
        )
    return 1 if found.violated else 0


def _page_path(file: str) -> pathlib.Path:
    if pathlib.Path(file).suffix.lower() not in {".html", ".htm"}:
        message = f"report is {file}; it must end in .html"
        raise SettingError(message)
    return check_writable(file)


def _refuse_what_runs(files: Sequence[str]) -> None:
    """Options that say how to run mean nothing for what has been run."""
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
        if given and option.name not in {"files", "report", "as_json"}:
            name = option.opts[0].removeprefix("--")
            message = f"{name} and the trace {files[0]} are both given; it has been run already"
            raise SettingError(message)


# -- the requests ------------------------------------------------------------------------------


def _read(files: Sequence[str]) -> dict[str, list[Request]]:
    """The traces by system, in the order in which they are named."""
    from analysis import traces

    found: dict[str, list[Request]] = {}
    for file in files:
        for request in traces.read(pathlib.Path(file)):
            # Requests of one system may have had limits and seeds of their own.
            found.setdefault(name_of(request.settings), []).append(request)
    return found


def _run(given: dict[str, Any], record: str | None) -> dict[str, list[Request]]:
    """Run the pair, every prompt by every system."""
    folder = None if record is None else pathlib.Path(record)
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            why = reason(error) if isinstance(error, OSError) else error
            message = f"the traces cannot be kept in {record}: {why}"
            raise SettingError(message) from None
        check_writable(str(folder / "traces"))
    systems = {name_of(settings): settings for settings in _systems(given)}
    engine, prompts = engine_settings(given), read_prompts(given)
    return signals.run(_measure(engine, systems, prompts, folder))


def _systems(given: dict[str, Any]) -> Iterator[Settings]:
    """AR, then SD and PEARL with each window."""
    rest = {"schedule": "ar", "gamma": "auto", "head_start": 0, "strict": False, "stop": ()}
    alone = decoding_settings(given | rest)
    yield alone
    for gamma in map(_gamma, given["gammas"].split(",")):
        yield replace(alone, schedule=ScheduleName.SD, gamma=gamma)
        for text in given["head_starts"].split(","):
            yield replace(
                alone,
                schedule=ScheduleName.PEARL,
                gamma=gamma,
                head_start=_head_start(text),
                strict=given["strict"],
            )


def _gamma(text: str) -> int:
    gamma = parse_gamma(text)
    if gamma == "auto":
        message = "gamma is auto; a validation needs whole numbers, for theory has no other"
        raise SettingError(message)
    return gamma


def _head_start(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = f"head-start is {text!r}; it must be whole numbers between commas"
        raise SettingError(message) from None


def name_of(settings: Settings) -> str:
    """A system in a few words."""
    if settings.schedule is ScheduleName.AR:
        return "AR"
    parts = [f"{settings.schedule.upper()} {settings.gamma}"]
    if settings.head_start:
        parts.append(f"head start {settings.head_start}")
    if settings.strict:
        parts.append("strict")
    return ", ".join(parts)


async def _measure(
    engine_settings: EngineSettings,
    systems: dict[str, Settings],
    prompts: Sequence[str],
    folder: pathlib.Path | None,
) -> dict[str, list[Request]]:
    """Every prompt by every system, in an order that rotates."""
    from actors.checking import CheckedPair
    from actors.engine import Engine
    from analysis.traces import Request

    fitted = await asyncio.to_thread(CheckedPair, engine_settings)
    if len(fitted.models) == 1:
        message = "a validation needs a draft beside the target; name one"
        raise PlacementError(message)
    for prompt in prompts:
        fitted.encode(prompt, next(iter(systems.values())))
    names = list(systems)
    found: dict[str, list[Request]] = {name: [] for name in names}
    async with await Engine.start_pair(fitted) as engine:
        for settings in systems.values():  # the first passes of a process are slow
            short = replace(settings, max_new_tokens=WARMING_TOKENS)
            await engine.generate(prompts[0], short).wait()
        with bar(len(prompts) * len(names), "runs") as advance:
            for number, prompt in enumerate(prompts):
                start = number % len(names)
                for name in names[start:] + names[:start]:
                    settings = systems[name]
                    done = await engine.generate(prompt, settings, trace=True).wait()
                    if folder is not None:
                        _keep(folder, f"{name}-{number}", done, settings, fitted.eos)
                    found[name].append(
                        Request(
                            name=f"{name}, prompt {number}",
                            settings=settings,
                            prompt=done.prompt_tokens,
                            records=done.trace,
                            eos=fitted.eos,
                        )
                    )
                    advance()
    return found


def _keep(
    folder: pathlib.Path, name: str, done: Result, settings: Settings, eos: tuple[TokenId, ...]
) -> None:
    """The trace of one run; where it cannot be written, that is said, and the runs go on."""
    file = f"{name.lower().replace(', ', '-').replace(' ', '-')}.json.gz"
    try:
        write_trace(folder / file, done, settings, eos)
    except StorageError as error:
        click.echo(f"pearl: {error}", err=True)


# -- the comparison ----------------------------------------------------------------------------


def validate(requests: dict[str, list[Request]]) -> Validation:
    """Simulate what was measured, and hold everything side by side.

    Args:
        requests: by system.

    Raises:
        MalformedTraceError: no target pass, or no draft step, was timed in any of them.
    """
    from analysis import validation
    from simulator import attribution

    recorded = {name: _recordings(found) for name, found in requests.items()}
    pair = _pair(requests, recorded)
    groups = []
    with bar(len(recorded) + 1, "simulations") as advance:
        for name, found in requests.items():
            steps = attribution.steps(recorded[name], found[0].settings, pair)
            seconds = {
                step: value
                for step, value in msgspec.structs.asdict(steps).items()
                if step != "figures"
            }
            groups.append(
                validation.Group(
                    name=name, requests=tuple(found), seconds=seconds, simulated=steps.figures
                )
            )
            advance()
        best = _best_window(groups, recorded, pair)
        advance()
    constants = validation.Constants(step_s=pair.draft.seconds(1), pass_s=pair.target.seconds(1))
    return validation.validate(groups, constants, best_window=best, notes=list(_notes(groups)))


def _recordings(requests: Sequence[Request]) -> list[Recording]:
    from simulator.profiling import Recording

    return [Recording(prompt=r.prompt or 1, records=r.records, stop=_stop(r)) for r in requests]


def _stop(request: Request) -> StopRules | None:
    """When a real request had to end; a simulated one had to end where it did."""
    if request.simulated:
        return None
    return StopRules(limit=request.settings.max_new_tokens, eos=frozenset(request.eos))


def _pair(requests: dict[str, list[Request]], recorded: dict[str, list[Recording]]) -> Pair:
    """The two times: of all windows, and of AR's passes where AR was run."""
    from simulator import attribution

    every = [recording for found in recorded.values() for recording in found]
    alone = [
        recording
        for name, found in requests.items()
        if found[0].settings.schedule is ScheduleName.AR
        for recording in recorded[name]
    ]
    try:
        return attribution.constants(drafted=every, judged=alone or every)
    except SettingError as error:
        raise MalformedTraceError(f"the traces have no times: {error}") from None


def _best_window(
    groups: Sequence[Group], recorded: dict[str, list[Recording]], pair: Pair
) -> BestWindow | None:
    """What every window would give, with the luck and times of the first run of PEARL."""
    from analysis import theory, traces, validation
    from analysis.statistics import acceptance
    from simulator import attribution

    group = next((g for g in groups if g.settings.schedule is ScheduleName.PEARL), None)
    if group is None or traces.overlap(group.requests):
        return None
    recordings = recorded[group.name]
    c = pair.speed_ratio
    widest = min(WIDEST_TRIED, max(round(2 * c), validation.window(group)) + 2)
    speeds = attribution.speeds(recordings, group.settings, range(1, widest + 1))
    rate = acceptance([r.luck for r in group.requests]).independent.value
    if not speeds or rate is None:
        return None
    alone = next((g for g in groups if g.settings.schedule is ScheduleName.AR), None)
    passes = pair.target.seconds(1) if alone is None else _seconds_per_token(alone)
    return validation.BestWindow(
        speed_ratio=c,
        theory=int(theory.best_pearl_gamma(rate, c, group.settings.head_start)),
        simulated={gamma: speed * passes for gamma, speed in speeds.items()},
    )


def _seconds_per_token(alone: Group) -> float:
    """Of AR as it was simulated, like what it is compared with."""
    seconds = alone.seconds["messages"] or alone.seconds["measured"]
    assert seconds is not None
    return seconds / sum(len(request.tokens) for request in alone.requests)


def _notes(groups: Sequence[Group]) -> Iterator[str]:
    """What a reader must know of these runs."""
    from analysis import traces

    for group in groups:
        if all(request.simulated for request in group.requests):
            yield f"{group.name}: no real run, it was recorded in a simulation."
        if traces.overlap(group.requests):
            yield (
                f"{group.name}: requests ran at the same time, so their times are not compared "
                "with theory, which knows one request."
            )
        elif group.simulated is None:
            auto = group.settings.gamma == "auto" and group.settings.widest > 0
            yield f"{group.name}: not simulated; " + (
                "automatic windows follow the times, so the parts of times stand together."
                if auto
                else "too little was recorded, or a device was lost meanwhile."
            )
        if any(request.prompt is None for request in group.requests):
            yield f"{group.name}: the trace does not say how long the prompt was."


# -- for machines ------------------------------------------------------------------------------


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


def _system(system: System) -> dict[str, Any]:
    from analysis.validation import parts

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


# -- for people --------------------------------------------------------------------------------


def _show(found: Validation) -> None:
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
    from analysis.validation import PARTS_OF, parts

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
