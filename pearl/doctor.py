"""`pearl doctor`: what a bug report needs, and whether a pair fits together."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.table import Table

from decoding.errors import UsageError
from pearl.options import ENGINE, engine_settings, options
from pearl.terminal import print_json

if TYPE_CHECKING:
    from actors.runners.vocabulary import Vocabulary

PACKAGES: Final = (
    "pearl-decoding", "torch", "transformers", "tokenizers", "safetensors",
    "ray", "simpy", "numpy", "msgspec", "array-api-compat",
    "accelerate", "gguf", "pyarrow",
)  # fmt: skip


@click.command(name="doctor")
@options(ENGINE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool, **given: Any) -> int:
    """Print what a bug report needs, and check that draft and target fit together."""
    report = {"machine": machine(), "packages": packages(), "pair": _pair(given)}
    if as_json:
        print_json(report)
    else:
        _show(report)
    return 2 if "problem" in report["pair"] else 0


def machine() -> dict[str, Any]:
    """What it runs on."""
    from actors.threads import available_cores

    return {
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "cores": len(available_cores()),
        **_hardware(),
    }


def _hardware() -> dict[str, Any]:
    """Memory and GPUs; what cannot be asked is left out."""
    try:
        import psutil

        from actors.runners import loading
    except ModuleNotFoundError as error:
        return {"missing": f"{error.name} is not installed; pip install 'pearl-decoding[run]'"}
    memory = psutil.virtual_memory()
    return {
        "memory_gb": round(memory.total / 1e9, 1),
        "free_memory_gb": round(memory.available / 1e9, 1),
        "gpus": loading.gpu_names(),
    }


def packages() -> dict[str, str]:
    """Versions of what matters."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _pair(given: dict[str, Any]) -> dict[str, Any]:
    """The models, and whether they fit together; a problem is part of the report."""
    try:
        from actors.checking import CheckedPair

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
