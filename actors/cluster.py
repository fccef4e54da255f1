"""Scheduler and devices as Ray actors: Ray places, starts, supervises and restarts them.

Nothing of a round goes through Ray: a device's actor starts one thread that dials the scheduler
and works (`pearl.actors.device`), and the client dials the scheduler too. When Ray restarts a
device that died, its constructor dials again, and the scheduler sends it all that it needs. The
three classes here are plain objects with an address and nothing else; an `if` about decoding in
this file belongs elsewhere.

May import: ray (at home here and in `actors.membership`), the rest of `actors` but for `local`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group

from pearl.actors.deadlines import Patience
from pearl.actors.device import run_device
from pearl.actors.membership import (
    ENGINES,
    LOOPBACK,
    GivenUp,
    Membership,
    first_line,
    take_signals_back,
)
from pearl.actors.scheduler import Scheduler, SchedulerStatistics
from pearl.actors.specs import DeviceSpec
from pearl.actors.starting import Told, tell_until, untold
from pearl.actors.threads import available_cores, cores_for, cores_of, stay_on
from pearl.actors.wire import Address, Hello
from pearl.decoding.errors import PeerError, PlacementError, ProtocolError
from pearl.decoding.messages import Device, Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from pearl.actors.checking import ModelPair
    from pearl.decoding.text import Detokenizer

PORTS: Final = range(20_000, 32_000)  # above Ray's workers, below what systems give away
PORT_TRIALS: Final = 5
PIECE_S: Final = 0.5
TASKS_AHEAD: Final = 4  # handed out for each core, so that none waits for the next

Job = TypeVar("Job")
Done = TypeVar("Done")


class SchedulerActor:
    """`Scheduler` with an address, which stays the same when Ray has to restart it."""

    def __init__(
        self,
        devices: tuple[Device, ...],
        load_text: Callable[[], Detokenizer],
        patience: Patience,
        address: Address,
    ) -> None:
        # Beside the draft: the target, which everybody waits for, is never interrupted.
        stay_on(cores_for(Role.DRAFT, available_cores()))
        self._scheduler = Scheduler(
            devices, load_text=load_text, restarts=True, patience=patience, restart=end_process
        )
        # The peers of the one that died dial again, and this one learns from them.
        host = address.host or ray.util.get_node_ip_address()
        opening = self._scheduler.open(host, port=address.port, secret=address.secret)
        self._opening = asyncio.get_running_loop().create_task(opening)

    async def address(self) -> Address:
        """Where it listens, once it does."""
        return await self._opening

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for the devices."""
        await self._scheduler.wait_ready(timeout_s)

    async def loaded(self) -> dict[Device, float]:
        """The share of its weights that each device has read."""
        return self._scheduler.loaded()

    async def statistics(self) -> SchedulerStatistics:
        """How it is."""
        return self._scheduler.statistics()


class DeviceActor:
    """A device with an address; Ray runs the constructor again when the process has died."""

    def __init__(self, spec: DeviceSpec, address: Address) -> None:
        threading.Thread(target=self._run, args=(spec, address), daemon=True).start()

    @staticmethod
    def _run(spec: DeviceSpec, address: Address) -> None:
        """Work until the scheduler hangs up, and then begin anew: it was lost, not closed."""
        try:
            run_device(spec, address)
        except BaseException:
            logging.getLogger(__name__).exception("the %s failed", spec.role)
        os._exit(1)


class DraftActor(DeviceActor):
    """So that a list of processes shows which is the draft."""


class TargetActor(DeviceActor):
    """So that a list of processes shows which is the target."""


def end_process(hello: Hello) -> None:
    """End a silent device where its process can be reached; Ray starts it again."""
    if hello.machine == socket.gethostname():
        with contextlib.suppress(OSError):  # it is gone, or another user's
            os.kill(hello.process, signal.SIGKILL)


@final
class RayDeployment:
    """The three actors of one engine, in their placement group.

    Ray's calls wait for other processes, so all of them are made in threads, never in the loop.
    """

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self._group: Any = None
        self._actors: list[Any] = []
        self._scheduler: Any = None
        self.address: Address

    @classmethod
    async def start(cls, pair: ModelPair, told: Told = untold) -> RayDeployment:
        """Start everything and wait until it can work.

        Args:
            pair: the models.
            told: is told how far the start is.
        Raises:
            PlacementError: no such cluster, or no room in it; the message says what is missing.
            PeerError: a device did not start.
        """
        specs = pair.specs()
        told("starting Ray", None)
        deployment = cls(await _join(pair.settings.ray_address))
        try:
            await deployment._place(specs, pair.settings.placement_s)
            await deployment._start(specs, pair, told)
        except BaseException:
            await deployment.close()
            raise
        return deployment

    @property
    def alive(self) -> bool:
        """Whether there is a cluster that starts again what died in it."""
        return self._scheduler is not None and self.membership.connection.alive

    def revive(self) -> None:
        """End a scheduler that says nothing any more; Ray starts it again."""
        scheduler = self._scheduler

        def end() -> None:
            with contextlib.suppress(RayError):
                ray.kill(scheduler, no_restart=False)

        if scheduler is not None:
            threading.Thread(target=end, name="pearl-revive", daemon=True).start()

    async def statistics(self) -> SchedulerStatistics:
        """How the scheduler is.

        Raises:
            ProtocolError: the deployment was closed.
            PeerError: the scheduler is gone.
        """
        if self._scheduler is None:
            message = "the engine is closed; start another"
            raise ProtocolError(message)
        try:
            found: SchedulerStatistics = await self._scheduler.statistics.remote()
        except RayError:
            message = "the scheduler is gone; unless it comes back, start the engine again"
            raise PeerError(message) from None
        return found

    async def close(self) -> None:
        """End the actors, give their places back, and end a private cluster with its last engine.

        Once begun it is done to the end; a second call does nothing.
        """
        await _to_the_end(asyncio.to_thread(self._close))

    def _close(self) -> None:
        self._scheduler = None
        actors, self._actors = self._actors, []
        group, self._group = self._group, None
        if self.membership.connection.alive:
            for actor in actors:
                with contextlib.suppress(RayError):
                    ray.kill(actor)
            if group is not None:
                with contextlib.suppress(RayError):
                    remove_placement_group(group)
        self.membership.end()

    async def _place(self, specs: tuple[DeviceSpec, ...], wait_s: float) -> None:
        bundles = [_needs(spec) for spec in specs]
        self._group = await asyncio.to_thread(placement_group, bundles)
        until = time.monotonic() + wait_s
        # In short pieces: a thread that waits cannot be interrupted.
        while not await asyncio.to_thread(self._group.wait, min(PIECE_S, wait_s)):
            if time.monotonic() >= until:
                missing = await asyncio.to_thread(_what_is_missing, bundles, wait_s)
                raise PlacementError(missing)

    async def _start(self, specs: tuple[DeviceSpec, ...], pair: ModelPair, told: Told) -> None:
        devices, settings = tuple(spec.device for spec in specs), pair.settings
        load_text, patience = pair.text_loader(), settings.patience
        try:
            for trial in range(PORT_TRIALS):
                start = asyncio.to_thread(self._start_scheduler, devices, load_text, patience)
                self._scheduler = await start
                try:
                    self.address = await self._scheduler.address.remote()
                    break
                except RayTaskError:  # another process listens on that port
                    if trial == PORT_TRIALS - 1:
                        raise
            await asyncio.to_thread(self._start_devices, specs)
            ready = self._ready(settings.startup_s)
            await tell_until(ready, specs, self._scheduler.loaded.remote, told)
        except RayError as error:
            raise PeerError(_cause(error)) from None

    async def _ready(self, startup_s: float) -> None:
        await self._scheduler.wait_ready.remote(startup_s)

    def _start_scheduler(
        self, devices: tuple[Device, ...], load_text: Callable[[], Detokenizer], patience: Patience
    ) -> Any:
        """On this node's own address, or on loopback where all is on one machine."""
        everywhere = len(ray.nodes()) > 1
        port = secrets.choice(PORTS)
        address = Address(
            host="" if everywhere else LOOPBACK, port=port, secret=secrets.token_hex(32)
        )
        # Beside the first device: restarted, it must listen on the same node.
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": self._beside(0)}
        actor = ray.remote(SchedulerActor).options(**options)
        scheduler = actor.remote(devices, load_text, patience, address)
        self._actors.append(scheduler)
        return scheduler

    def _start_devices(self, specs: tuple[DeviceSpec, ...]) -> None:
        self._actors += [self._device(i, spec) for i, spec in enumerate(specs)]

    def _device(self, bundle: int, spec: DeviceSpec) -> Any:
        actor = DraftActor if spec.role is Role.DRAFT else TargetActor
        needs = _needs(spec)
        options = {
            "num_cpus": needs["CPU"],
            "num_gpus": needs.get("GPU", 0),
            "max_restarts": -1,
            "scheduling_strategy": self._beside(bundle),
        }
        return ray.remote(actor).options(**options).remote(spec, self.address)

    def _beside(self, bundle: int) -> Any:
        return ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            placement_group=self._group, placement_group_bundle_index=bundle
        )


async def _join(address: str | None) -> Membership:
    """Join in a thread; who is cancelled meanwhile leaves nothing behind."""
    given_up = GivenUp()
    joining = asyncio.ensure_future(asyncio.to_thread(Membership.join, address, given_up))
    try:
        membership = await asyncio.shield(joining)
        take_signals_back()
    except asyncio.CancelledError:
        given_up.say()
        with contextlib.suppress(PlacementError):
            membership = await _to_the_end(joining)
            await asyncio.to_thread(membership.end)
        raise
    return membership


async def _to_the_end(work: Awaitable[Done]) -> Done:
    """Wait for what must not be left half-way; being cancelled meanwhile is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:  # noqa: BLE001, S110 - raised below
            pass
    if cancelled:
        task.exception()
        raise asyncio.CancelledError
    return task.result()


def spread(
    function: Callable[[Job], Done], jobs: Sequence[Job], address: str | None = None
) -> Iterator[Done]:
    """`function` of each job as tasks of a cluster, in the order of the jobs.

    A private cluster ends with the iterator, early or late.

    Raises:
        PlacementError: no such cluster.
        PeerError: a task was lost; what the function itself raises comes as it is.
    """
    membership = Membership.join(address)
    try:
        cores = ENGINES if membership.connection.private else 1
        task = ray.remote(num_cpus=cores)(function)
        ahead = TASKS_AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
        waiting: collections.deque[Any] = collections.deque()
        for job in jobs:
            waiting.append(task.remote(job))
            if len(waiting) >= ahead:
                yield cast("Done", ray.get(waiting.popleft()))
        while waiting:
            yield cast("Done", ray.get(waiting.popleft()))
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise PeerError(_cause(error)) from None
    finally:
        membership.end()


def _needs(spec: DeviceSpec) -> dict[str, float]:
    """What a device asks of Ray: its cores, and its GPU if it has one."""
    if spec.place == "cpu":
        cores = cores_of(spec.role, available_cores(), shared=spec.shared)
        return {"CPU": len(cores.own) / (_sharing() if spec.shared else 1)}
    return {"CPU": 1 / _sharing(), "GPU": spec.gpu_share}


def _sharing() -> int:
    """On a machine with a single core the two devices share it."""
    return 2 if len(available_cores()) < len(Role) else 1


def _what_is_missing(bundles: list[dict[str, float]], waited_s: float) -> str:
    """Which resource was asked for and is not free."""
    wanted: dict[str, float] = {}
    for bundle in bundles:
        for name, amount in bundle.items():
            wanted[name] = wanted.get(name, 0) + amount
    total, free = ray.cluster_resources(), ray.available_resources()
    lacking = [
        f"{amount:g} {name} wanted, {free.get(name, 0):g} free of {total.get(name, 0):g}"
        for name, amount in wanted.items()
        if amount > free.get(name, 0)
    ]
    missing = "; ".join(lacking) or "the resources are spread over too many nodes"
    return f"no place in the Ray cluster within {waited_s:g} s: {missing}"


def _cause(error: RayError) -> str:
    cause = getattr(error, "cause", None)
    return str(cause) if isinstance(cause, PeerError) else first_line(error)
