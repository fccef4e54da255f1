"""On standard error: a bar that says how far a verb is, and lines that say how far a start is."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from pearl.actors.starting import Told

PATIENCE_S = 0.3
"""Where there is no terminal, what lasts longer is said."""


@contextlib.contextmanager
def bar(total: int, what: str, *, shown: bool = True) -> Iterator[Callable[..., None]]:
    """On standard error where that is a terminal; called once a step, or with their number."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), what, TimeRemainingColumn())
    console = Console(stderr=True)
    hidden = not (shown and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(what, total=total)
        yield lambda steps=1: progress.advance(task, steps)


@contextlib.contextmanager
def starting() -> Iterator[Told]:
    """What is being started, as long as it is; without a terminal, a line for what is slow."""
    from rich.console import Console

    console = Console(stderr=True)
    with _shown(console) if console.is_terminal else _said_once() as told:
        yield told


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[Told]:
    """A line for each thing that is done, with its share."""
    from rich.progress import Progress, TaskID, TextColumn

    tasks: dict[str, TaskID] = {}
    unmeasured: set[str] = set()
    with Progress(TextColumn("{task.description}"), console=console, transient=True) as progress:

        def show(what: str, share: float | None) -> None:
            if what not in tasks:
                while unmeasured:  # it is over as soon as something else begins
                    progress.remove_task(tasks[unmeasured.pop()])
                tasks[what] = progress.add_task(what)
            if share is None:
                unmeasured.add(what)
            else:
                said = f"{what}: {100 * share:.0f} %"
                progress.update(tasks[what], description=said, refresh=True)

        yield show


@contextlib.contextmanager
def _said_once() -> Iterator[Told]:
    timers: dict[str, threading.Timer] = {}
    unmeasured: set[str] = set()

    def say(what: str, share: float | None) -> None:
        if what not in timers:
            while unmeasured:  # as above
                timers[unmeasured.pop()].cancel()
            timers[what] = threading.Timer(PATIENCE_S, click.echo, (what,), {"err": True})
            timers[what].daemon = True
            timers[what].start()
        if share is None:
            unmeasured.add(what)
        elif share >= 1:
            timers[what].cancel()

    try:
        yield say
    finally:
        for timer in timers.values():
            timer.cancel()
