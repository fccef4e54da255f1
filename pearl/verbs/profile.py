"""`pearl profile`: measures a real pair into the file that simulations read."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import click

from pearl import signals
from pearl.asking import options
from pearl.asking.values import check_number
from pearl.harness.profiling import SECONDS, measure
from pearl.harness.prompts import read_prompts
from pearl.showing.terminal import said

if TYPE_CHECKING:
    from pearl.simulator.profiles import Profile


@click.command(name="profile")
@click.option("--output", required=True, metavar="FILE.json", help="Where to write it.")
@click.option("--gamma", type=int, default=5, show_default=True, metavar="N",
              help="The window with which acceptance is measured.")  # fmt: skip
@click.option("--seconds", type=float, default=SECONDS, show_default=True, metavar="S",
              help="How long to measure: the longer, the better it is known how the machine "
              "drifts.")  # fmt: skip
@options.takes(options.SAMPLING, options.PROMPTS, options.ENGINE)
def command(*, output: str, gamma: int, seconds: float, **given: Any) -> None:
    """Measure a pair's times, links and acceptance, on a quiet machine."""
    check_number(seconds, "seconds", "more than 0", lambda s: s > 0)
    rest = {"schedule": "pearl", "gamma": str(gamma), "head_start": 0, "strict": False, "stop": ()}
    settings = options.decoding_settings(given | rest)
    engine = options.engine_settings(given)
    prompts = read_prompts(given)
    path = options.check_writable(output)
    profile, busy = signals.run(measure(engine, settings, prompts, seconds))
    from pearl.simulator import profiles

    with said(None, lambda: click.echo(f"{path}: {_summary(profile, busy)}")):
        profiles.write(path, profile)


def _summary(profile: Profile, busy: int) -> str:
    luck, network = profile.luck, profile.network
    step, judge = profile.pair.draft.seconds(1), profile.pair.target.seconds
    ways = network.target.in_turns
    drift = statistics.stdev(level.target for level in profile.levels)
    found = (
        f"draft step {1e3 * step:.2f} ms, target pass {1e3 * judge(1):.2f} ms "
        f"({1e3 * judge(8):.2f} over 8 tokens), messages "
        f"{1e6 * (ways.after_window + ways.alone):.0f} µs there and back, "
        f"{luck.rate:.1%} accepted over {len(luck.texts)} prompts; "
        f"passes drifted by {drift:.1%} between {len(profile.levels)} blocks"
    )
    others = f"; in {busy} of them other processes took much of the machine: measure again"
    return found + (others if busy else "")
