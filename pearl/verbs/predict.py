"""`pearl predict`: what a measured pair would do under settings that were not measured."""

from __future__ import annotations

import itertools
import pathlib
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from decoding.errors import SettingError
from decoding.settings import ScheduleName, Settings, parse_gamma
from pearl.asking.options import options
from pearl.asking.values import check_number, check_seed
from pearl.asking.what_if import TOLD, measured_network
from pearl.progress import bar
from pearl.showing.terminal import print_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoding.summaries import Figures

WIDTH: Final = 88
FIGURES: Final = ("tokens_per_s", "tokens_per_target_pass", "acceptance_rate", "draft_idle",
           "target_idle", "wasted")  # fmt: skip


@click.command(name="predict")
@click.option("--profile", "profile_file", required=True, metavar="FILE",
              help="What `pearl profile` has measured.")  # fmt: skip
@click.option("--schedules", default="ar,sd,pearl", show_default=True, metavar="NAMES")
@click.option("--gamma", "gammas", default="2,3,4,5,6,8,10,12", show_default=True,
              metavar="N|auto,…", help="Windows, between commas.")  # fmt: skip
@click.option("--head-start", "head_starts", default="0", show_default=True, metavar="K,…",
              help="PEARL: tokens written before the first pass after a rejection.")  # fmt: skip
@click.option("--strict", is_flag=True, help="PEARL exactly as in the paper: with a barrier.")
@click.option("--users", type=int, default=1, show_default=True, metavar="N",
              help="Requests at the same time.")  # fmt: skip
@options(TOLD)
@click.option("--seed", type=int, default=0, show_default=True,
              help="Of what was not recorded.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *, profile_file: str, users: int, told: bool, seed: int, as_json: bool, **given: Any
) -> None:
    """Forecast speed, idle times and waste of the requests in a profile, one row a setting."""
    from simulator import profiles
    from simulator.forecast import forecast

    check_number(users, "users", "1 or more", lambda n: n >= 1)
    check_seed(seed)
    asked = list(_settings(given))
    measured = profiles.read(pathlib.Path(profile_file))
    network = measured_network(measured, told=told)
    profile = msgspec.structs.replace(measured, network=network)
    alone = forecast(profile, Settings(schedule=ScheduleName.AR), users=users, seed=seed)
    with bar(len(asked), "settings") as advance:
        rows = []
        for settings in asked:
            rows.append((settings, forecast(profile, settings, users=users, seed=seed)))
            advance()
    if as_json:
        found = [_row(settings, figures, alone) for settings, figures in rows]
        print_json({"models": profile.models, "users": users, "rows": found})
    else:
        _show(rows, alone)


def _settings(given: dict[str, Any]) -> Iterator[Settings]:
    """Every combination that means something, once."""
    gammas = [parse_gamma(text) for text in given["gammas"].split(",")]
    head_starts = [_whole(text) for text in given["head_starts"].split(",")]
    for name in given["schedules"].split(","):
        match _schedule(name):
            case ScheduleName.AR:
                yield Settings(schedule=ScheduleName.AR)
            case ScheduleName.SD:
                yield from (Settings(schedule=ScheduleName.SD, gamma=gamma) for gamma in gammas)
            case ScheduleName.PEARL:
                for gamma, k in itertools.product(gammas, head_starts):
                    yield Settings(gamma=gamma, head_start=k, strict=given["strict"])


def _schedule(name: str) -> ScheduleName:
    if name not in set(ScheduleName):
        message = f"schedules has {name!r}; it must be names of {', '.join(ScheduleName)}"
        raise SettingError(message)
    return ScheduleName(name)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = f"head-start is {text!r}; it must be whole numbers between commas"
        raise SettingError(message) from None


def _row(settings: Settings, figures: Figures, alone: Figures) -> dict[str, Any]:
    estimates = {name: getattr(figures, name) for name in FIGURES}
    return {
        "schedule": settings.schedule,
        "gamma": settings.gamma if settings.widest else 0,
        "head_start": settings.head_start,
        "speedup_over_ar": float(figures.tokens_per_s) / float(alone.tokens_per_s),
        **{name: estimate.value for name, estimate in estimates.items()},
        "interval": {name: estimate.interval for name, estimate in estimates.items()},
    }


def _show(rows: list[tuple[Settings, Figures]], alone: Figures) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "gamma", "ahead", "tokens/s", "over AR", "accepted", "per pass",
                 "idle: draft", "target", "wasted"):  # fmt: skip
        table.add_column(name, justify="right" if name else "left")
    for settings, figures in rows:
        table.add_row(*_cells(settings, figures, alone))
    Console(width=WIDTH).print(table)


def _cells(settings: Settings, f: Figures, alone: Figures) -> list[str]:
    """A row for people; what there is none of is a dash."""
    drafts = settings.widest > 0
    return [
        str(settings.schedule),
        str(settings.gamma) if drafts else "",
        str(settings.head_start or ""),
        f"{float(f.tokens_per_s):.0f}",
        f"{float(f.tokens_per_s) / float(alone.tokens_per_s):.2f}",
        f"{float(f.acceptance_rate):.0%}" if drafts else "–",
        f"{float(f.tokens_per_target_pass):.2f}",
        f"{float(f.draft_idle):.0%}",
        f"{float(f.target_idle):.0%}",
        f"{float(f.wasted):.0%}" if drafts else "–",
    ]
