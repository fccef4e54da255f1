"""Scheduler and devices in this process: the same hosts and the same wire, without Ray.

For tests and for debugging: a breakpoint in a host stops there. The devices run in threads and
dial in over the loopback interface like any other.

May import: the standard library, decoding, the rest of `actors` but for `cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, final

from actors.device import DeviceSpec, run_device
from actors.scheduler import Patience, Scheduler, SchedulerStatistics
from decoding.errors import PearlError

if TYPE_CHECKING:
    from collections.abc import Callable

    from actors.wire import Address
    from decoding.text import Detokenizer


@final
class LocalDeployment:
    """A scheduler in the running event loop, and one thread per device."""

    def __init__(
        self, scheduler: Scheduler, address: Address, threads: list[threading.Thread]
    ) -> None:
        self._scheduler = scheduler
        self._threads = threads
        self.address = address

    @classmethod
    async def start(
        cls,
        specs: tuple[DeviceSpec, ...],
        *,
        load_text: Callable[[], Detokenizer],
        patience: Patience,
        startup_s: float,
    ) -> LocalDeployment:
        """Start everything and wait until it can work.

        Raises:
            PeerError: a device did not start.
        """
        roles = tuple(spec.role for spec in specs)
        scheduler = Scheduler(roles, load_text=load_text, patience=patience)
        address = await scheduler.open()
        threads = [_start(spec, address) for spec in specs]
        deployment = cls(scheduler, address, threads)
        try:
            await scheduler.wait_ready(startup_s)
        except BaseException:
            await deployment.close()
            raise
        return deployment

    async def statistics(self) -> SchedulerStatistics:
        """How the scheduler is."""
        return self._scheduler.statistics()

    async def close(self) -> None:
        """Hang up on the devices and wait for their threads."""
        await self._scheduler.close()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in self._threads))


def _start(spec: DeviceSpec, address: Address) -> threading.Thread:
    thread = threading.Thread(
        target=_run, args=(spec, address), name=f"pearl-{spec.role}", daemon=True
    )
    thread.start()
    return thread


def _run(spec: DeviceSpec, address: Address) -> None:
    # The scheduler has been told what went wrong, and tells whoever waits.
    with contextlib.suppress(PearlError, OSError, RuntimeError):
        run_device(spec, address)
