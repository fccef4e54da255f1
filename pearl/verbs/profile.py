"""`pearl profile`: measures a real pair into the file that simulations read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pearl import signals
from pearl.asking import options
from pearl.harness.profiling import measure
from pearl.harness.prompts import read_prompts
from pearl.showing.terminal import said

if TYPE_CHECKING:
    from pearl.simulator.profiles import Profile


@click.command(name="profile")
@click.option("--output", required=True, metavar="FILE.json", help="Where to write it.")
@click.option("--gamma", type=int, default=5, show_default=True, metavar="N",
              help="The window with which acceptance is measured.")  # fmt: skip
@options.takes(options.SAMPLING, options.PROMPTS, options.ENGINE)
def command(*, output: str, gamma: int, **given: Any) -> None:
    """Measure a pair's times, links and acceptance; takes a minute, on a quiet machine."""
    rest = {"schedule": "pearl", "gamma": str(gamma), "head_start": 0, "strict": False, "stop": ()}
    settings = options.decoding_settings(given | rest)
    engine = options.engine_settings(given)
    prompts = read_prompts(given)
    path = options.check_writable(output)
    profile = signals.run(measure(engine, settings, prompts))
    from pearl.simulator import profiles

    with said(None, lambda: click.echo(f"{path}: {_summary(profile)}")):
        profiles.write(path, profile)


def _summary(profile: Profile) -> str:
    luck, network = profile.luck, profile.network
    step, judge = profile.pair.draft.seconds(1), profile.pair.target.seconds
    way = 2e6 * network.target.latency_s
    return (
        f"draft step {1e3 * step:.2f} ms, target pass {1e3 * judge(1):.2f} ms "
        f"({1e3 * judge(8):.2f} over 8 tokens), messages {way:.0f} µs there and back, "
        f"{luck.rate:.1%} accepted over {len(luck.texts)} prompts"
    )
