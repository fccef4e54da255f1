"""Whether the check before loading and loading agree, on hundreds of damaged model folders.

    python -m benchmarks.damaged --count 500 --results damaged.jsonl

Each folder is a whole tiny model with one thing done to it (`tests/actors/runners/damage/`). What
`pearl doctor` says of it must be what loading it and writing two tokens says, to the word, and
never an error of a library. One line a folder; those that are in the file already are not done
again. Each runs in a process of its own, with limits: a model may claim any size.
"""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from tests.actors.runners.damage import alone, damaged, words

MEMORY: Final = 12 * 2**30
LONGEST_S: Final = 60
COMPUTED: Final = ("cannot be rolled back", "not a number")
"""What only computing with the weights can tell."""


@click.command()
@click.option("--count", default=500, show_default=True)
@click.option("--results", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--check", is_flag=True, help="Only sum up what the file has.")
def main(count: int, results: Path, *, check: bool) -> None:
    """Damage folders and compare what is said of them."""
    alone()
    done = _read(results)
    with results.open("a", encoding="utf-8") as file:
        for number in [] if check else range(count):
            if number not in done:
                done[number] = _in_a_child(number)
                print(json.dumps(done[number]), file=file, flush=True)
    _sum_up(done)
    sys.exit(any(_fault(each) for each in done.values()))


def _read(results: Path) -> dict[int, dict[str, Any]]:
    if not results.exists():
        return {}
    lines = map(json.loads, results.read_text(encoding="utf-8").split("\n")[:-1])
    return {line["number"]: line for line in lines}


def _in_a_child(number: int) -> dict[str, Any]:
    """One folder; a child that is too slow or dies has said so."""
    at = Path(tempfile.mkdtemp(prefix="pearl-damaged-"))
    what = damaged(number, at / "model")
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_ask, args=(at / "model", theirs))
    child.start()
    theirs.close()
    try:
        before, loading = ours.recv() if ours.poll(LONGEST_S) else ("", "too slow")
    except EOFError:
        before, loading = "", "died"
    child.kill()
    child.join()
    shutil.rmtree(at, ignore_errors=True)
    said = {"before": before.replace(str(at), ""), "loading": loading.replace(str(at), "")}
    return {"number": number, "what": what} | said


def _ask(folder: Path, into: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)  # what libraries in Rust print when they panic
    into.send(tuple(words(folder)))


def _fault(line: dict[str, Any]) -> str:
    """What is wrong with what was said; nothing where it is right."""
    before, loading = line["before"], line["loading"]
    if _foreign(before):
        return "error of a library before loading"
    if _foreign(loading) or loading in {"died", "too slow"}:
        return "error of a library when loading"
    if not before and any(said in loading for said in COMPUTED):
        return ""
    if bool(before) != bool(loading):
        return "refused, yet it loads" if before else "approved, yet it does not load"
    return "" if before == loading else "other words"


def _foreign(said: str) -> bool:
    """Whether it is an error outside of the project's own, reported with its type."""
    first = said.partition(": ")[0]
    return bool(said) and " " not in first and "/" not in first and "." in first


def _sum_up(done: dict[int, dict[str, Any]]) -> None:
    faults = collections.Counter(_fault(line) or "agree" for line in done.values())
    sound_ones = sum(not line["before"] and not line["loading"] for line in done.values())
    click.echo(f"{len(done)} folders, {sound_ones} of them work; {dict(faults)}")
    for line in done.values():
        if fault := _fault(line):
            click.echo(f"{line['number']:4} {fault}\n     {line['what'][:150]}")
            click.echo(
                f"     before:  {line['before'][:200]}\n     loading: {line['loading'][:200]}"
            )


if __name__ == "__main__":
    main()
