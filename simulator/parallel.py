"""The same function on many jobs, on as many processes; answers come in the order of the jobs."""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pearl.decoding.errors import PeerError

Job = TypeVar("Job")
Done = TypeVar("Done")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AHEAD = 4  # jobs handed out for each worker, so that none waits for the next


def cores() -> int:
    """Those this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    function: Callable[[Job], Done], jobs: Sequence[Job], workers: int = 1
) -> Iterator[Done]:
    """`function` of each job, in order; with one worker, in this process.

    Closing the iterator early, or an interrupt, leaves no worker behind.

    Raises:
        PeerError: a worker was killed.
    """
    if workers <= 1 or len(jobs) <= 1:
        yield from map(function, jobs)
        return
    # A fresh interpreter for each worker: a copy of this one could inherit a lock in use.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with _while_starting():
        executor = concurrent.futures.ProcessPoolExecutor(
            min(workers, len(jobs)), mp_context=context, initializer=end_with_the_parent
        )
    try:
        yield from _ordered(executor, function, jobs, AHEAD * workers)
    except concurrent.futures.process.BrokenProcessPool:
        message = "a worker was killed, perhaps for lack of memory; fewer of them need less"
        raise PeerError(message) from None
    finally:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()  # a job that is not waited for any more is not done to its end
        executor.shutdown(cancel_futures=True)


def _ordered(
    executor: concurrent.futures.Executor,
    function: Callable[[Job], Done],
    jobs: Sequence[Job],
    ahead: int,
) -> Iterator[Done]:
    waiting: collections.deque[concurrent.futures.Future[Done]] = collections.deque()
    for job in jobs:
        with _while_starting():
            waiting.append(executor.submit(function, job))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextlib.contextmanager
def _while_starting() -> Iterator[None]:
    """Hold signals back until a process that is started in here knows what it is to do.

    It never gets Ctrl-C or the closing of a terminal: this process handles both. Python's own
    helper, which the first pool starts, must not get them either.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    found = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in found.items() if callable(handler)}
    for number in before:
        signal.signal(number, lambda number, _: heard.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in heard[:1]:  # not raised again: it would count as two signals
            before[signal.Signals(late)](late, None)


def end_with_the_parent() -> None:
    """This process outlives no parent that was killed."""
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
