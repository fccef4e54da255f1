"""`pearl predict`: what a measured pair would do under settings that were not measured."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich.console import Console

from pearl.asking.options import takes
from pearl.asking.values import check_number, check_seed, gammas, schedules, whole_numbers
from pearl.asking.what_if import TOLD, measured_network
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.settings import Settings
from pearl.harness.systems import combinations
from pearl.progress import bar
from pearl.showing.tables import NONE, as_object, share, table
from pearl.showing.terminal import print_json

if TYPE_CHECKING:
    from pearl.decoding.estimates import Estimate
    from pearl.simulator.forecast import Forecast

WIDTH: Final = 100
FIGURES: Final = ("tokens_per_s", "tokens_per_target_pass", "acceptance_rate", "draft_idle",
           "target_idle", "wasted")  # fmt: skip


@click.command(name="predict")
@click.option("--profile", "profile_file", required=True, metavar="FILE",
              help="What `pearl profile` has measured.")  # fmt: skip
@click.option("--schedules", default=lambda: ",".join(SCHEDULES), show_default="all",
              metavar="NAMES")  # fmt: skip
@click.option("--gamma", "gammas", default="2,3,4,5,6,8,10,12", show_default=True,
              metavar="N|auto,…", help="Windows, between commas.")  # fmt: skip
@click.option("--head-start", "head_starts", default="0", show_default=True, metavar="K,…",
              help="PEARL: tokens written before the first pass after a rejection.")  # fmt: skip
@click.option("--strict", is_flag=True, help="PEARL exactly as in the paper: with a barrier.")
@click.option("--users", type=int, default=1, show_default=True, metavar="N",
              help="Requests at the same time.")  # fmt: skip
@takes(TOLD)
@click.option("--seed", type=int, default=0, show_default=True,
              help="Of what was not recorded.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *, profile_file: str, users: int, told: bool, seed: int, as_json: bool, **given: Any
) -> None:
    """Forecast speed, idle times and waste of the requests in a profile, one row a setting.

    Intervals of speeds are where they are to be expected in another minute: machines drift.
    """
    from pearl.simulator import profiles
    from pearl.simulator.forecast import forecast

    check_number(users, "users", "1 or more", lambda n: n >= 1)
    check_seed(seed)
    asked = combinations(
        Settings(strict=given["strict"]),
        schedules(given["schedules"]),
        gammas(given["gammas"]),
        whole_numbers("head-start", given["head_starts"], 0),
    )
    measured = profiles.read(pathlib.Path(profile_file))
    network = measured_network(measured, told=told)
    profile = msgspec.structs.replace(measured, network=network)
    alone = forecast(profile, Settings(schedule="ar"), users=users, seed=seed)
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


def _row(settings: Settings, found: Forecast, alone: Forecast) -> dict[str, Any]:
    figures = {name: getattr(found.figures, name) for name in FIGURES}
    return {
        "schedule": settings.schedule,
        "gamma": settings.gamma if settings.widest else 0,
        "head_start": settings.head_start,
        **as_object({"speedup_over_ar": found.over(alone)} | figures),
    }


def _show(rows: list[tuple[Settings, Forecast]], alone: Forecast) -> None:
    shown = table(
        "", "gamma", "ahead", "tokens/s", "over AR", "accepted", "per pass",
        "idle: draft", "target", "wasted",
    )  # fmt: skip
    for settings, found in rows:
        shown.add_row(*_cells(settings, found, alone))
    Console(width=WIDTH).print(shown)


def _cells(settings: Settings, found: Forecast, alone: Forecast) -> list[str]:
    """A row for people; what there is none of is a dash."""
    drafts, f = settings.widest > 0, found.figures
    return [
        str(settings.schedule),
        str(settings.gamma) if drafts else "",
        str(settings.head_start or ""),
        _with_margin(f.tokens_per_s, ".0f"),
        _with_margin(found.over(alone), ".2f"),
        share(f.acceptance_rate.value) if drafts else NONE,
        f"{float(f.tokens_per_target_pass):.2f}",
        f"{float(f.draft_idle):.0%}",
        f"{float(f.target_idle):.0%}",
        share(f.wasted.value) if drafts else NONE,
    ]


def _with_margin(found: Estimate, digits: str) -> str:
    """A value, and half of its interval as a share of it."""
    ends = found.interval
    margin = f" ±{(ends[1] - ends[0]) / 2 / float(found):.1%}" if ends else ""
    return f"{float(found):{digits}}{margin}"
