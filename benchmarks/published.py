"""How well the closed forms of `pearl theory` describe speeds that others have published.

    python benchmarks/published.py TABLE.csv

A table is in the layout of nano-PEARL's report (`pearl.analysis.published`). It does not say which
window a pair had, so one whole window a pair is fitted; the acceptance rate follows from the run
length. "Held out": each benchmark of a pair is predicted by the window that was fitted to the
others alone.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, Final

import click
from rich.console import Console

from pearl.analysis import published
from pearl.showing.tables import share, table

WIDTH: Final = 96


def report(rows: list[published.PublishedRun]) -> dict[str, Any]:
    """Errors of tokens a pass, over all rows and over those of each pair.

    Nothing is held out where every pair has one benchmark.
    """
    fits = {"fitted": published.fit(rows), "held_out": published.without(rows)}
    return {
        "rows": len(rows),
        "gammas": fits["fitted"].gammas,
        **{n: {"worst": f.worst, "median": f.median} for n, f in fits.items() if f.rows},
        "pairs": {
            pair: {name: _worst(fit, pair) for name, fit in fits.items()}
            for pair in fits["fitted"].gammas
        },
    }


def _worst(fit: published.Fit, pair: str) -> float | None:
    """The largest error of a pair; None where it has no row."""
    return max((abs(row.error) for row in fit.rows if row.row.pair == pair), default=None)


def show(found: dict[str, Any]) -> None:
    """The table for people."""
    shown = table("pair", "window", "worst error", "held out")
    for pair, errors in found["pairs"].items():
        cells = [share(errors[name], 1) for name in ("fitted", "held_out")]
        shown.add_row(pair, str(found["gammas"][pair]), *cells)
    console = Console(width=WIDTH, highlight=False)
    console.print(shown)
    for name, words in (("fitted", "One window a pair"), ("held_out", "Held out")):
        if name in found:
            worst, median = (share(found[name][figure], 1) for figure in ("worst", "median"))
            console.print(f"{words}, {found['rows']} rows: worst {worst}, median {median}.")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path))
@click.option("--json", "as_json", is_flag=True)
def main(file: pathlib.Path, *, as_json: bool) -> None:
    """Hold the closed forms against a published table."""
    found = report(published.read(file))
    if as_json:
        click.echo(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
