"""`pearl validate`: theory, simulation and real runs of the same requests, side by side."""

from __future__ import annotations

import asyncio
import pathlib
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pearl import signals
from pearl.asking import options
from pearl.asking.values import or_refuse, whole_numbers
from pearl.decoding.errors import SettingError, StorageError
from pearl.decoding.files import write
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.settings import Settings
from pearl.harness.engines import check_prompts, fit, warmed
from pearl.harness.meters import Others
from pearl.harness.prompts import read_prompts
from pearl.harness.records import recorded_in_turns, write_trace
from pearl.harness.systems import combinations, name_of
from pearl.harness.validation import validate
from pearl.showing.terminal import said
from pearl.showing.validation import as_builtins, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pearl.actors.engine import Result
    from pearl.actors.engine_settings import EngineSettings
    from pearl.analysis.traces import Request
    from pearl.harness.turns import Turn

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
@options.takes(RUNS, options.SAMPLING, options.PROMPTS, options.ENGINE)
@click.option("--report", metavar="FILE.html", help="Write a page with tables and figures.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *, files: tuple[str, ...], report: str | None, record: str | None, as_json: bool, **given: Any
) -> int:
    """Hold theory and simulation against real runs.

    Of the traces that are named (`pearl generate --trace`, `pearl simulate --trace`); without
    one the pair is run first: AR, SD and PEARL, in turns. What lies between theory and a run is
    shown as factors, which multiply to measured over theoretical speed. Exit code 1 where a bound
    of theory is violated by more than its interval.
    """
    page = None if report is None else _page_path(report)
    if files:
        _refuse_what_runs(files)
    requests, others = (_read(files), None) if files else _run(given, record)
    found = validate(requests, others)
    with said(as_builtins(found) if as_json else None, lambda: show(found)):
        if page is not None:
            from pearl.analysis import report as reports

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
        raise SettingError(f"report is {file}; it must end in .html")
    return options.check_writable(file)


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
    from pearl.analysis import traces

    found: dict[str, list[Request]] = {}
    for file in files:
        for request in traces.read(pathlib.Path(file)):
            # Requests of one system may have had limits and seeds of their own.
            found.setdefault(name_of(request.settings), []).append(request)
    return found


def _run(given: dict[str, Any], record: str | None) -> tuple[dict[str, list[Request]], float]:
    """Run the pair, every prompt by every system; and what others took of the cores meanwhile."""
    folder = None if record is None else pathlib.Path(record)
    if folder is not None:
        with or_refuse(SettingError, f"the traces cannot be kept in {record}"):
            folder.mkdir(parents=True, exist_ok=True)
        options.check_writable(str(folder / "traces"))
    systems = {name_of(settings): settings for settings in _systems(given)}
    engine, prompts = options.engine_settings(given), read_prompts(given)
    return signals.run(_measure(engine, systems, prompts, folder))


def _systems(given: dict[str, Any]) -> list[Settings]:
    """AR, then SD and PEARL with each window."""
    rest = {"schedule": "pearl", "gamma": "auto", "head_start": 0, "stop": ()}
    return combinations(
        options.decoding_settings(given | rest),
        tuple(SCHEDULES),
        whole_numbers("gamma", given["gammas"], 1),
        whole_numbers("head-start", given["head_starts"], 0),
    )


async def _measure(
    engine_settings: EngineSettings,
    systems: dict[str, Settings],
    prompts: Sequence[str],
    folder: pathlib.Path | None,
) -> tuple[dict[str, list[Request]], float]:
    """Every prompt by every system; where there is a folder, the traces are kept there."""
    pair = await asyncio.to_thread(fit, engine_settings, "a validation")
    check_prompts(pair, prompts, next(iter(systems.values())))

    def keep(turn: Turn[str], result: Result) -> None:
        if folder is None:
            return
        name = f"{turn.system}-{turn.number}".lower().replace(", ", "-").replace(" ", "-")
        try:
            write_trace(folder / f"{name}.json.gz", result, systems[turn.system], pair.eos)
        except StorageError as error:  # the runs go on
            click.echo(f"pearl: {error}", err=True)

    async with warmed(pair, systems.values(), prompts[0]) as engine:
        with Others() as others:
            found = await recorded_in_turns(engine, systems, prompts, pair.eos, keep)
    return found, others.share
