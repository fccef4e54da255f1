"""What Ctrl-C and the other signals that end a program mean, for all verbs.

    the first    the verb ends as it can: coroutines are cancelled, other code is interrupted, and a
                 verb that keeps what it has so far says so (`keeping`)
    the second   the program ends at once

After the first the program has `GRACE_S` to end, whatever it is in the middle of; then it ends as
after the second. Nothing is left behind in either case: whatever a verb starts (the guardian of a
private cluster, worker processes) watches for this program's end and ends by itself.

SIGTERM and SIGHUP mean the same as SIGINT; the exit code tells them apart. One that was switched
off when the program was started (`nohup`, `&` in a script) stays off.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NoReturn, TypeVar, final

GRACE_S: Final = 1.2
NUMBERS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KILLED: Final = 128  # shells add the signal's number
SHOW_CURSOR: Final = "\x1b[?25h"  # a progress bar hides it

Done = TypeVar("Done")


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


@final
class _Heard:
    """The first signal, and what it does."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.act: Callable[[], object] = _interrupt
        self.ended = False

    def take(self, number: int, _frame: object) -> None:
        """Python calls this in the main thread; further signals are the watchman's."""
        if self.number is None:
            self.number = number
            self.act()


_heard = _Heard()


def exit_code() -> int:
    """The code of a program that was interrupted."""
    return KILLED + (_heard.number or signal.SIGINT)


@contextlib.contextmanager
def heeded() -> Iterator[None]:
    """In here signals are heard; afterwards they mean what they meant before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in NUMBERS}
    ours = [n for n in NUMBERS if before[n] not in {signal.SIG_IGN, _heard.take}]
    if ours:
        _heard.number = None
    for number in ours:
        signal.signal(number, _heard.take)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextlib.contextmanager
def keeping(act: Callable[[], object]) -> Iterator[None]:
    """In here the first signal does this instead; of a coroutine, between two of its steps."""
    import asyncio

    with contextlib.suppress(RuntimeError):  # no loop is running
        act = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, act)
    before, _heard.act = _heard.act, act
    try:
        yield
    finally:
        _heard.act = before


def run(main: Coroutine[Any, Any, Done]) -> Done:
    """`asyncio.run`, which a first signal cancels.

    What threads still do then is not waited for.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    import asyncio

    loop = asyncio.new_event_loop()
    task = loop.create_task(main)
    try:
        with keeping(lambda: loop.call_soon_threadsafe(task.cancel)):
            return loop.run_until_complete(task)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:  # asyncio is imported late: until signals are heeded, Ctrl-C is a traceback
        loop.run_until_complete(_end_tasks())
        if _heard.number is None:
            loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _end_tasks() -> None:
    """What else the program began."""
    import asyncio

    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


# -- the watchman: whatever the main thread is doing -----------------------------------------------


def guarded(command: Callable[[], int]) -> NoReturn:
    """Run a command as a program, which ends when a signal asks it to."""
    _post_watchman()
    with heeded():
        code = command()
    _heard.ended = True
    # Not by way of `sys.exit`: taking torch apart takes seconds, and no signal is heard meanwhile.
    atexit._run_exitfuncs()  # noqa: SLF001 - what Python itself calls then
    _leave(code)


def _post_watchman() -> None:
    """The kernel tells it of signals while the main thread loads a library or waits for a lock."""
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    signal.set_wakeup_fd(mouth)
    threading.Thread(target=_watch, args=(ear,), name="pearl-signals", daemon=True).start()


def _watch(ear: int) -> None:
    """Wait for a first signal, then for a second or for the end of all patience."""
    first = _next(ear)
    second = _next(ear) if select.select([ear], [], [], GRACE_S)[0] else first
    _leave(KILLED + second, "" if _heard.ended else "pearl: interrupted\n")


def _next(ear: int) -> int:
    """The number of the next signal that is ours; others wake the pipe too."""
    while (number := os.read(ear, 1)[0]) not in NUMBERS:
        pass
    return number


def _leave(code: int, message: str = "") -> NoReturn:
    """End the program without waiting for threads, its output written as far as it goes."""
    shown = SHOW_CURSOR if os.isatty(2) else ""
    with contextlib.suppress(OSError):
        os.write(2, (shown + message).encode())
    for stream in filter(None, (sys.stdout, sys.stderr)):  # there is none where it was closed
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            stream.flush()
    os._exit(code)
