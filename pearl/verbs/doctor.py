"""`pearl doctor`: what a bug report needs, and whether a pair fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from pearl.asking.options import ENGINE, engine_settings, takes
from pearl.decoding.errors import UsageError
from pearl.harness.machines import machine, packages
from pearl.showing.terminal import print_json

if TYPE_CHECKING:
    from pearl.actors.runners.vocabulary import Vocabulary


@click.command(name="doctor")
@takes(ENGINE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool, **given: Any) -> int:
    """Print what a bug report needs, and check that draft and target fit together."""
    report = {"machine": machine(), "packages": packages(), "pair": _pair(given)}
    if as_json:
        print_json(report)
    else:
        _show(report)
    return 2 if "problem" in report["pair"] else 0


def _pair(given: dict[str, Any]) -> dict[str, Any]:
    """The models, and whether they fit together; a problem is part of the report."""
    try:
        from pearl.actors.checking import CheckedPair

        fitted = CheckedPair(engine_settings(given))
    except (UsageError, ModuleNotFoundError) as error:
        return {"problem": str(error)}
    return {
        **{str(role): name for role, name in fitted.models.items()},
        "devices": {str(role): place for role, place in fitted.places.items()},
        "vocabulary": fitted.vocabulary,
        **_differing(fitted.shared),
        "positions": fitted.positions,
        "verdict": "draft and target fit together" if len(fitted.models) > 1 else "no draft",
    }


def _differing(shared: Vocabulary) -> dict[str, str]:
    """What the draft never drafts, because only the target has it."""
    count = len(shared.foreign)
    if not count:
        return {}
    example = f", {shared.example!r} among them" if shared.example else ""
    return {"never drafted": f"{count} {'token' if count == 1 else 'tokens'}{example}"}


def _show(report: dict[str, dict[str, Any]]) -> None:
    console = Console(highlight=False, markup=False)
    for title, rows in report.items():
        table = Table(title=title, title_justify="left", show_header=False, box=None)
        for name, value in rows.items():
            shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
            table.add_row(f"  {name}", str(shown))
        console.print(table)
