"""`pearl replay`: a recorded run once more, on a virtual clock: does it come out the same?"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import click
import msgspec

from pearl.showing.terminal import print_json

if TYPE_CHECKING:
    from pearl.simulator.recording import Delays


@click.command(name="replay")
@click.argument("file", metavar="TRACE.json")
@click.option("--delays", type=click.Choice(["exact", "mean", "none"]), default="exact",
              show_default=True,
              help="Of messages: each as it was, one number for each device, or none.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, file: str, delays: Delays, as_json: bool) -> int:
    """Drive a fresh schedule with the answers of a run that `generate --trace` has recorded.

    Exit code 1 where commands, commits or epochs differ.
    """
    from pearl.simulator.recording import replay_file

    done = replay_file(pathlib.Path(file), delays=delays)
    same = done.same_commands and done.same_commits and done.same_epochs
    if not done.whole:
        click.echo(f"pearl: {file} is cut off; it is replayed as far as it goes", err=True)
    if as_json:
        figures = msgspec.structs.asdict(done)
        print_json({n: v for n, v in figures.items() if n != "records"})
        return 0 if same else 1
    for name in ("commands", "commits", "epochs"):
        click.echo(f"{name:>10}  {'the same' if getattr(done, f'same_{name}') else 'differ'}")
    change = done.simulated_s / done.recorded_s - 1 if done.recorded_s else 0.0
    times = f"{done.recorded_s:.3f} s recorded, {done.simulated_s:.3f} s simulated"
    click.echo(f"{'time':>10}  {times} ({change:+.2%})")
    return 0 if same else 1
