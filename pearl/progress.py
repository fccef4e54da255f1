"""On standard error: a bar that says how far a verb is, and lines that say how far a start is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pearl.actors.starting import Told


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
    """What is being started, a line each; where there is no terminal, each is said once."""
    from rich.console import Console
    from rich.progress import Progress, TaskID, TextColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        said: set[str] = set()

        def say(what: str, _share: float | None) -> None:
            if what not in said:
                said.add(what)
                click.echo(what, err=True)

        yield say
        return
    tasks: dict[str, TaskID] = {}
    with Progress(TextColumn("{task.description}"), console=console, transient=True) as progress:

        def show(what: str, share: float | None) -> None:
            """Whatever has no share is over as soon as something else is done."""
            text = what if share is None else f"{what}: {100 * share:.0f} %"
            if what not in tasks:
                for over in [
                    each for each, task in tasks.items() if progress.tasks[task].total is None
                ]:
                    progress.remove_task(tasks.pop(over))
                tasks[what] = progress.add_task(text, total=None if share is None else 1.0)
            progress.update(tasks[what], description=text, refresh=True)

        yield show
