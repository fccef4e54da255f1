"""AR, SD and PEARL on one pair, every gamma, interleaved over the same prompts in one run.

    python benchmarks/schedules.py --prompts prompts.jsonl --count 12

Each prompt is decoded once by every system, in an order that rotates from prompt to prompt. What
is reported are medians over prompts of ratios to AR on the same prompt, with their quartiles, and
the share of the machine that other processes took meanwhile: on a machine that is not quiet the
figures mean nothing.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any, Self

import click
import psutil
from msgspec.structs import replace
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from actors.engine import Devices, Engine, EngineSettings
from decoding.metrics import Metrics
from decoding.sampling import Sampling
from decoding.settings import ScheduleName, Settings, parse_gamma
from pearl.prompts import read_prompts

AR = "ar"


def systems(gammas: list[str], head_starts: list[int], settings: Settings) -> dict[str, Settings]:
    """What is compared, by name."""
    found = {AR: replace(settings, schedule=ScheduleName.AR)}
    for text in gammas:
        gamma = parse_gamma(text)
        found[f"sd {text}"] = replace(settings, schedule=ScheduleName.SD, gamma=gamma)
        for k in head_starts:
            name = f"pearl {text}" + (f" head start {k}" if k else "")
            found[name] = replace(settings, gamma=gamma, head_start=k)
    return found


async def measure(
    engine_settings: EngineSettings, compared: dict[str, Settings], prompts: list[str]
) -> tuple[dict[str, list[Metrics]], bool, float]:
    """Metrics by system and prompt, whether all texts were AR's, and what others took."""
    names = list(compared)
    found: dict[str, list[Metrics]] = {name: [] for name in names}
    same = True
    async with await Engine.start(engine_settings) as engine:
        for name in names:  # the first passes of a process are slow
            await engine.generate(prompts[0], replace(compared[name], max_new_tokens=32)).wait()
        with Others() as others:
            for number, prompt in enumerate(track(prompts, "prompts")):
                texts = {}
                for name in rotated(names, number):
                    result = await engine.generate(prompt, compared[name]).wait()
                    found[name].append(result.metrics)
                    texts[name] = result.token_ids
                same = same and len(set(texts.values())) == 1
    return found, same, others.share


def rotated(names: list[str], by: int) -> list[str]:
    """The same names, beginning elsewhere."""
    start = by % len(names)
    return names[start:] + names[:start]


class Others:
    """The share of all cores that processes outside this benchmark used in a `with` block."""

    def __enter__(self) -> Self:
        """Begin."""
        self._wall, self._busy, self._own = time.monotonic(), _busy(), _own()
        return self

    def __exit__(self, *exc: object) -> None:
        """End."""
        seconds = (time.monotonic() - self._wall) * psutil.cpu_count()
        self.share = max(0.0, (_busy() - self._busy) - (_own() - self._own)) / seconds


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0))


def _own() -> float:
    """CPU seconds of this process and all it started."""
    return sum(_seconds(process) for process in _family())


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _family() -> Iterator[psutil.Process]:
    me = psutil.Process()
    yield me
    yield from me.children(recursive=True)


def row(name: str, metrics: list[Metrics], alone: list[Metrics]) -> dict[str, Any]:
    """The figures of one system."""
    ratios = [m.tokens_per_s / a.tokens_per_s for m, a in zip(metrics, alone, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    compared = sum(m.kept + m.rejections for m in metrics)
    control = [m.control_us_per_round for m in metrics if m.control_us_per_round is not None]
    return {
        "system": name,
        "tokens_per_s": statistics.median(m.tokens_per_s for m in metrics),
        "speed_over_ar": statistics.median(ratios),
        "quartiles": [quartiles[0], quartiles[2]],
        "acceptance_rate": sum(m.kept for m in metrics) / compared if compared else None,
        "compared": compared,
        "tokens_per_target_pass": sum(m.tokens for m in metrics)
        / sum(m.target_passes for m in metrics),
        "draft_idle": statistics.median(m.draft_idle for m in metrics),
        "target_idle": statistics.median(m.target_idle for m in metrics),
        "wasted": statistics.median(m.wasted for m in metrics),
        "control_us_per_round": statistics.median(control) if control else None,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The table for people."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("system", "tokens/s", "over AR", "quartiles", "accepted", "per pass"):
        table.add_column(column)
    for column in ("draft idle", "target idle", "control µs"):
        table.add_column(column)
    for r in rows:
        accepted = "–" if r["acceptance_rate"] is None else f"{r['acceptance_rate']:.3f}"
        low, high = r["quartiles"]
        table.add_row(
            r["system"],
            f"{r['tokens_per_s']:.0f}",
            f"{r['speed_over_ar']:.2f}",
            f"{low:.2f}–{high:.2f}",
            accepted,
            f"{r['tokens_per_target_pass']:.2f}",
            f"{r['draft_idle']:.0%}",
            f"{r['target_idle']:.0%}",
            "–" if r["control_us_per_round"] is None else f"{r['control_us_per_round']:.0f}",
        )
    Console().print(table)


@click.command()
@click.option("--target")
@click.option("--draft")
@click.option("--devices", type=click.Choice(["ray", "local"]), default="ray")
@click.option("--prompts", "file", help="JSON lines; default: twelve of the project's own.")
@click.option("--field")
@click.option("--count", default=12, show_default=True)
@click.option("--gammas", default="4,6,8,10,12,auto", show_default=True)
@click.option("--head-starts", default="0", show_default=True)
@click.option("--temperature", default=0.0, show_default=True)
@click.option("--max-new-tokens", default=128, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    target: str | None,
    draft: str | None,
    devices: str,
    file: str | None,
    field: str | None,
    count: int,
    gammas: str,
    head_starts: str,
    temperature: float,
    max_new_tokens: int,
    *,
    as_json: bool,
) -> None:
    """Compare AR, SD and PEARL on one pair."""
    settings = Settings(
        sampling=Sampling(temperature=temperature), max_new_tokens=max_new_tokens, seed=1
    )
    compared = systems(gammas.split(","), [int(k) for k in head_starts.split(",")], settings)
    engine = EngineSettings(target=target, draft=draft, devices=Devices(devices))
    prompts = read_prompts({"prompts_file": file, "field": field, "count": count})
    found, same, others = asyncio.run(measure(engine, compared, prompts))
    rows = [row(name, metrics, found[AR]) for name, metrics in found.items()]
    report = {"rows": rows, "identical": same, "others": others, "prompts": len(prompts)}
    if as_json:
        click.echo(json.dumps(report))
        return
    show(rows)
    click.echo(f"{len(prompts)} prompts; all texts equal AR's: {same}; others used {others:.0%}")


if __name__ == "__main__":
    main()
