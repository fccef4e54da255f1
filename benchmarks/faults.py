"""Kill, stop and cut every process of an engine on Ray, again and again, while requests run.

    python benchmarks/faults.py --faults 1000 --output faults.jsonl      # half an hour and more

Four requests run at any time; what each of them writes is compared with what the target alone wrote
before the first fault. A fault is drawn from the seed and the number of the fault:

    kill    SIGKILL
    stop    SIGSTOP, and SIGCONT after some seconds
    cut     its connections to the scheduler end, and the process lives (`ss --kill`, as root)

of the draft, the target or the scheduler; with `--cluster` also of Ray's own processes, the raylet
and the GCS, after which nothing of the cluster can go on: then an engine is started anew. A request
ends well with the same text, or with one clear error; the seconds from a fault until the next
request ends, either way, are how long the fault was felt. The output has a line for each fault and
is continued where it ends. The exit code is 1 if a byte was changed or a request never ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import click
import psutil

from pearl.actors.engine import Engine
from pearl.decoding.errors import PearlError
from pearl.decoding.settings import Settings
from pearl.harness.prompts import PROMPTS

ACTORS: Final = {"draft": "DraftActor", "target": "TargetActor", "scheduler": "SchedulerActor"}
CLUSTER: Final = {"raylet": "raylet/raylet", "gcs": "gcs_server"}
KINDS: Final = ("kill", "stop", "cut")
USERS: Final = 4
TOKENS: Final = 96
CLEAR_S: Final = 15.0
"""Until a request must have ended, one way or the other, where nothing can go on."""
NEVER_S: Final = 120.0
ALONE: Final = Settings(schedule="ar", max_new_tokens=TOKENS)


@dataclasses.dataclass(slots=True)
class Tally:
    """What became of the requests."""

    same: int = 0
    changed: int = 0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    never: int = 0
    last: float = 0.0
    """When the last one ended."""


def _processes(what: str) -> list[psutil.Process]:
    """Those of this program's cluster that are what is named."""
    name = ACTORS.get(what) or CLUSTER[what]
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(name in part for part in process.cmdline()[:1]):
                found.append(process)
    return found


def _cut(process: psutil.Process, seed: random.Random) -> None:
    """End one of its connections."""
    lines = [each for each in process.net_connections("tcp") if each.status == "ESTABLISHED"]
    if lines:
        port = seed.choice(lines).laddr.port
        command = ["ss", "--kill", "state", "established", "sport", "=", f":{port}"]
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603


async def _strike(number: int, whom: tuple[str, ...]) -> dict[str, Any]:
    """One fault; what it was."""
    drawn = random.Random(number)  # noqa: S311 - to draw faults
    what, kind = drawn.choice(whom), drawn.choice(KINDS)
    await asyncio.sleep(drawn.expovariate(2.0))
    fault = {"fault": number, "what": what, "kind": kind, "hit": False}
    for process in _processes(what)[:1]:
        with contextlib.suppress(psutil.Error):
            fault["hit"] = True
            if kind == "kill":
                process.kill()
            elif kind == "cut":
                _cut(process, drawn)
            else:
                process.suspend()
                await asyncio.sleep(drawn.uniform(0.1, 9.0))
                process.send_signal(signal.SIGCONT)
    return fault


async def _use(engine: Engine, tally: Tally, known: dict[str, tuple[int, ...]]) -> None:
    """A user who asks again as soon as a text has ended."""
    for number in range(sys.maxsize):
        prompt = PROMPTS[number % len(PROMPTS)]
        settings = Settings(gamma=(number % 6) + 1, max_new_tokens=TOKENS)
        try:
            async with asyncio.timeout(NEVER_S):
                result = await engine.generate(prompt, settings).wait()
        except TimeoutError:
            tally.never += 1
        except PearlError as error:
            tally.errors[str(error)[:100]] += 1
            await asyncio.sleep(0.1)
        else:
            whole = result.token_ids == known[prompt]
            tally.same += whole
            tally.changed += not whole
        tally.last = time.monotonic()


async def _known(engine: Engine) -> dict[str, tuple[int, ...]]:
    return {p: (await engine.generate(p, ALONE).wait()).token_ids for p in PROMPTS}


async def _until_ended(tally: Tally, since: float) -> float:
    """Seconds until a request has ended that was under way, or came after the fault."""
    while tally.last <= since and time.monotonic() < since + NEVER_S:  # noqa: ASYNC110 - by the clock
        await asyncio.sleep(0.01)
    return time.monotonic() - since


async def _campaign(numbers: Iterator[int], whom: tuple[str, ...], output: pathlib.Path) -> Tally:
    """Faults until they are all done; engines as long as they last."""
    total, number = Tally(), next(numbers, None)
    while number is not None:
        async with await Engine.start() as engine:
            known = await _known(engine)
            users = [asyncio.create_task(_use(engine, total, known)) for _ in range(USERS)]
            while number is not None:
                before = dataclasses.replace(total, errors=Counter(total.errors))
                fault = await _strike(number, whom)
                fault["seconds"] = round(await _until_ended(total, time.monotonic()), 3)
                fault |= _since(before, total)
                with output.open("a") as file:
                    file.write(json.dumps(fault) + "\n")
                number = next(numbers, None)
                if fault["what"] in CLUSTER and fault["hit"] and fault["kind"] != "cut":
                    break
            for user in users:
                user.cancel()
            await asyncio.gather(*users, return_exceptions=True)
    return total


def _since(before: Tally, now: Tally) -> dict[str, Any]:
    return {
        "same": now.same - before.same,
        "changed": now.changed - before.changed,
        "never": now.never - before.never,
        "errors": dict(now.errors - before.errors),
    }


@click.command()
@click.option("--faults", type=int, default=1000, show_default=True)
@click.option("--cluster", is_flag=True, help="Also Ray's own processes.")
@click.option("--output", type=click.Path(path_type=pathlib.Path), default="faults.jsonl")
def main(*, faults: int, cluster: bool, output: pathlib.Path) -> None:
    """Run the campaign, and say what came of it."""
    done = output.read_text().count("\n") if output.exists() else 0
    whom = (*ACTORS, *(CLUSTER if cluster else ()))
    asyncio.run(_campaign(iter(range(done, faults)), whom, output))
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    struck = Counter(f"{row['kind']} {row['what']}" for row in rows if row["hit"])
    same, changed, never = (sum(row[name] for row in rows) for name in ("same", "changed", "never"))
    errors = sum((Counter(row["errors"]) for row in rows), Counter[str]())
    click.echo(f"{sum(struck.values())} faults: {dict(struck)}")
    click.echo(f"requests: {same} the same, {changed} changed, {never} never ended")
    click.echo(f"errors: {dict(errors)}")
    late = [row for row in rows if row["seconds"] > CLEAR_S]
    click.echo(f"{len(late)} times nobody knew for more than {CLEAR_S:g} s")
    sys.exit(1 if changed or never else 0)


if __name__ == "__main__":
    main()
