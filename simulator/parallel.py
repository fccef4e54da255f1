"""The same function on many jobs, on as many processes; answers come in the order of the jobs."""

from __future__ import annotations

import collections
import concurrent.futures
import concurrent.futures.process
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from decoding.errors import PeerError

Job = TypeVar("Job")
Done = TypeVar("Done")

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
    executor = concurrent.futures.ProcessPoolExecutor(
        min(workers, len(jobs)), mp_context=context, initializer=_end_with_the_parent
    )
    try:
        yield from _ordered(executor, function, jobs, AHEAD * workers)
    except concurrent.futures.process.BrokenProcessPool:
        message = "a worker was killed, perhaps for lack of memory; fewer of them need less"
        raise PeerError(message) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _ordered(
    executor: concurrent.futures.Executor,
    function: Callable[[Job], Done],
    jobs: Sequence[Job],
    ahead: int,
) -> Iterator[Done]:
    waiting: collections.deque[concurrent.futures.Future[Done]] = collections.deque()
    for job in jobs:
        waiting.append(executor.submit(function, job))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _end_with_the_parent() -> None:
    """Ctrl-C ends a worker at once and in silence, and it outlives no parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_watch_parent, daemon=True).start()


def _watch_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
