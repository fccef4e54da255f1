"""Scheduler and devices in this process: the same hosts and the same wire, without Ray.

For tests and for debugging: a breakpoint in a host stops there. The devices run in threads and
dial in over the loopback interface like any other.

May import: the standard library, decoding, the rest of `actors` but for `cluster`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Final, final

from pearl.actors.device import run_device
from pearl.actors.scheduler import Scheduler, SchedulerStatistics
from pearl.actors.specs import DeviceSpec
from pearl.actors.starting import Told, tell_until, untold

if TYPE_CHECKING:
    from pearl.actors.checking import ModelPair
    from pearl.actors.wire import Address
    from pearl.decoding.messages import Device

PAUSE_S: Final = 0.2  # before a device that failed is started again

log = logging.getLogger(__name__)


@final
class LocalDeployment:
    """A scheduler in the running event loop, and one thread per device.

    A device that fails is started again in a new thread, as Ray would, but for one that cannot even
    be started.
    """

    def __init__(self, specs: tuple[DeviceSpec, ...], scheduler: Scheduler) -> None:
        self._specs = {spec.device: spec for spec in specs}
        self._scheduler = scheduler
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self.address: Address

    @classmethod
    async def start(cls, pair: ModelPair, told: Told = untold) -> LocalDeployment:
        """Start everything and wait until it can work.

        Args:
            pair: the models.
            told: is told how far the start is.
        Raises:
            PeerError: a device did not start.
        """
        specs, settings, load_text = pair.specs(), pair.settings, pair.text_loader()
        devices = tuple(spec.device for spec in specs)
        scheduler = Scheduler(
            devices, load_text=load_text, restarts=True, patience=settings.patience
        )
        deployment = cls(specs, scheduler)
        deployment.address = await scheduler.open()
        for device in devices:
            deployment._begin(device)
        try:
            ready = scheduler.wait_ready(settings.startup_s)
            await tell_until(ready, specs, deployment._loaded, told)
        except BaseException:
            await deployment.close()
            raise
        return deployment

    @property
    def alive(self) -> bool:
        """Until it is closed."""
        return self._wanted()

    def revive(self) -> None:
        """It is in the caller's own event loop, and says nothing only while that is held up."""

    async def _loaded(self) -> dict[Device, float]:
        return self._scheduler.loaded()

    async def statistics(self) -> SchedulerStatistics:
        """How the scheduler is."""
        return self._scheduler.statistics()

    async def close(self) -> None:
        """Hang up on the devices and wait for their threads."""
        self._closed.set()
        await self._scheduler.close()
        await asyncio.gather(*(asyncio.to_thread(thread.join) for thread in self._threads))

    def _begin(self, device: Device) -> None:
        thread = threading.Thread(
            target=self._run, args=(device,), name=f"pearl-{device}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _run(self, device: Device) -> None:
        """Work until the scheduler leaves; after a failure, load and work again."""
        while self._wanted() and not self._scheduler.has_given_up(device):
            try:
                run_device(self._specs[device], self.address, self._wanted)
            except BaseException as error:  # noqa: BLE001 - the scheduler knows it
                log.info("the %s failed, and is started again: %s", device, error)
                self._closed.wait(PAUSE_S)
            else:
                return

    def _wanted(self) -> bool:
        return not self._closed.is_set()
