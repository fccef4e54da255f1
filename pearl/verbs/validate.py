"""`pearl validate`: theory, simulation and real runs of the same requests, side by side."""

from __future__ import annotations

import asyncio
import pathlib
from typing import TYPE_CHECKING, Any, Final

import click
from click.core import ParameterSource
from msgspec.structs import replace

from decoding.errors import PlacementError, SettingError, StorageError
from decoding.files import reason, write
from decoding.settings import ScheduleName, Settings, parse_gamma
from pearl import signals
from pearl.asking.options import (
    ENGINE,
    PROMPTS,
    SAMPLING,
    check_writable,
    decoding_settings,
    engine_settings,
    options,
)
from pearl.harness.prompts import read_prompts
from pearl.harness.records import write_trace
from pearl.harness.systems import name_of
from pearl.harness.validation import validate
from pearl.progress import bar
from pearl.showing.terminal import said
from pearl.showing.validation import as_builtins, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from actors.engine import EngineSettings, Result
    from analysis.traces import Request
    from decoding.messages import TokenId

WARMING_TOKENS: Final = 32

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
    with said(as_builtins(found) if as_json else None, lambda: show(found)):
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


async def _measure(
    engine_settings: EngineSettings,
    systems: dict[str, Settings],
    prompts: Sequence[str],
    folder: pathlib.Path | None,
) -> dict[str, list[Request]]:
    """Every prompt by every system, in an order that rotates."""
    from actors.engine import Engine, Fitted
    from analysis.traces import Request

    fitted = await asyncio.to_thread(Fitted, engine_settings)
    if len(fitted.models) == 1:
        message = "a validation needs a draft beside the target; name one"
        raise PlacementError(message)
    for prompt in prompts:
        fitted.encode(prompt, next(iter(systems.values())))
    names = list(systems)
    found: dict[str, list[Request]] = {name: [] for name in names}
    async with await Engine.start_fitted(fitted) as engine:
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
