"""The library's `generate` in a process of its own, which sleeps while others run.

    async with await ReferenceProcess.start(spec) as reference:
        written = await reference.generate(asked)

So neither disturbs the other while it waits, and the library has the cores that a target uses.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import signal
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Self, TypeVar, final

from pearl.decoding.errors import PeerError
from pearl.simulator.parallel import end_with_the_parent

if TYPE_CHECKING:
    from pearl.actors.runners.reference import Reference, ReferenceRequest, ReferenceSpec, Written

_T = TypeVar("_T")

_loaded: list[Reference] = []  # of this process, where it is a reference's


@final
class ReferenceProcess:
    """A reference beside an engine."""

    def __init__(self, pool: concurrent.futures.Executor, process: int) -> None:
        self._pool = pool
        self.process = process

    @classmethod
    async def start(cls, spec: ReferenceSpec) -> Self:
        """Start the process and load the pair there.

        Raises:
            UsageError: the pair cannot be loaded.
            PeerError: the process ended.
        """
        pool = concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
        )
        try:
            return cls(pool, await _run(pool, functools.partial(_serve, spec)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    async def generate(self, asked: ReferenceRequest) -> Written:
        """Write one text.

        Raises:
            PeerError: the process ended.
        """
        return await _run(self._pool, functools.partial(_write, asked))

    async def __aenter__(self) -> Self:
        """It is ready already."""
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the process; what it is writing is not waited for when all ends early."""
        if exc[0] is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, signal.SIGKILL)
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


async def _run(pool: concurrent.futures.Executor, task: functools.partial[_T]) -> _T:
    # The process may be started here, and Ctrl-C is not for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        done = asyncio.get_running_loop().run_in_executor(pool, task)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        return await done
    except BrokenProcessPool:
        message = "the process of the reference ended; is there memory for a second pair?"
        raise PeerError(message) from None


def _begin() -> None:
    """An interrupt is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_the_parent()


def _serve(spec: ReferenceSpec) -> int:
    from pearl.actors.runners.reference import Reference
    from pearl.actors.threads import stay_on

    if spec.cores:
        stay_on(list(spec.cores))
    _loaded.append(Reference(spec))
    return os.getpid()


def _write(asked: ReferenceRequest) -> Written:
    from pearl.actors.runners.quiet import quietly

    with quietly():  # what the library has to say is not read here
        return _loaded[0].generate(asked)
