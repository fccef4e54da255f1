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
    from pearl.actors.checking import DevicePlan
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
        **{f"{role} runs": _planned(fitted.plan(role)) for role in fitted.models},
        "vocabulary": fitted.vocabulary,
        **_differing(fitted.shared),
        "positions": fitted.positions,
        "verdict": "draft and target fit together" if len(fitted.models) > 1 else "no draft",
    }


def _planned(plan: DevicePlan) -> dict[str, Any]:
    said: dict[str, Any] = {
        "dtype": plan.dtype,
        "forward": plan.forward,
        "memory to load": f"{plan.loading_bytes / 1e6:.0f} MB",
    }
    if plan.cores is None:
        return said
    cores = [*plan.cores.own]
    threads = "one compute thread each" if len(cores) > 1 else "one compute thread"
    said["cores"] = f"{_listed(cores)}, {threads}"
    if plan.cores.lent:
        said["cores"] += (
            f"; also {_listed(plan.cores.lent)} while the draft rests, if that is faster"
        )
    elif len(cores) > 1:
        said["cores"] += ", or fewer if that is faster"
    return said


def _listed(cores: list[int]) -> str:
    return " ".join(map(str, cores))


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
            for label, shown in _rows(name, value):
                table.add_row(f"  {label}", shown)
        console.print(table)


def _rows(name: str, value: Any) -> list[tuple[str, str]]:
    """A value in one row; what is said of a device in several."""
    if isinstance(value, dict) and name.endswith(" runs"):
        return [(name.replace("runs", each), str(said)) for each, said in value.items()]
    return [(name, ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value))]
