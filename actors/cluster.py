"""Scheduler and devices as Ray actors: Ray places, starts, supervises and restarts them.

Nothing of a round goes through Ray: a device's actor starts one thread that dials the scheduler
and works (`actors.device`), and the client dials the scheduler too. When Ray restarts a device
that died, its constructor dials again, and the scheduler tells it all it must know. The three
classes here are plain objects with an address and nothing else; an `if` about decoding in this
file belongs elsewhere.

A cluster that is already running is used where its address is given; otherwise a private one is
started, in a folder of its own that is removed with it.

May import: ray (its only home), the rest of `actors` but for `local`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import importlib
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group

from actors.device import DeviceSpec, run_device
from actors.scheduler import Patience, Scheduler, SchedulerStatistics
from actors.threads import available_cores, cores_for, stay_on
from decoding.errors import PeerError, PlacementError
from decoding.messages import Device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from actors.wire import Address
    from decoding.text import Detokenizer

OBJECT_STORE_BYTES: Final = 80 * 1024**2  # nothing large goes through Ray; this is its minimum
QUIET: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
KNOCK_S: Final = 5.0
TASKS_AHEAD: Final = 4  # handed out for each core, so that none waits for the next
REMOVALS: Final = 30
REMOVAL_S: Final = 0.1
HTTP2_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2_SETTINGS: Final = 4  # the type of the frame that greets back, after its length of 3 bytes

Job = TypeVar("Job")
Done = TypeVar("Done")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where to run.

    Args:
        address: of a running Ray cluster; None starts a private one on this machine.
        placement_s: how long to wait for room in the cluster.
        startup_s: how long the devices may take to load their models.
    """

    address: str | None = None
    placement_s: float = 30.0
    startup_s: float = 300.0


class SchedulerActor:
    """`Scheduler` with an address."""

    def __init__(
        self,
        roles: tuple[Device, ...],
        load_text: Callable[[], Detokenizer],
        patience: Patience,
    ) -> None:
        # Beside the draft: the target, which everybody waits for, is never interrupted.
        stay_on(cores_for(Device.DRAFT, available_cores()))
        self._scheduler = Scheduler(roles, load_text=load_text, restarts=True, patience=patience)

    async def open(self, *, everywhere: bool) -> Address:
        """Listen: on this node's own address, or on loopback where all is on one machine."""
        host = ray.util.get_node_ip_address() if everywhere else "127.0.0.1"
        return await self._scheduler.open(host)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for the devices."""
        await self._scheduler.wait_ready(timeout_s)

    async def statistics(self) -> SchedulerStatistics:
        """How it is."""
        return self._scheduler.statistics()


class DeviceActor:
    """A device with an address; Ray runs the constructor again when the process has died."""

    def __init__(self, spec: DeviceSpec, address: Address) -> None:
        threading.Thread(target=self._run, args=(spec, address), daemon=True).start()

    @staticmethod
    def _run(spec: DeviceSpec, address: Address) -> None:
        """Work until the scheduler hangs up; a device that failed ends its process."""
        try:
            run_device(spec, address)
        except BaseException:
            logging.getLogger(__name__).exception("the %s failed", spec.role)
            os._exit(1)


class DraftActor(DeviceActor):
    """So that a list of processes shows which is the draft."""


class TargetActor(DeviceActor):
    """So that a list of processes shows which is the target."""


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How this program came to be connected to Ray, and so what to undo at the end.

    Args:
        connected: by this deployment, not by the program before.
        folder: of a private cluster.
    """

    connected: bool
    folder: str | None = None

    def end(self) -> None:
        """Leave the cluster, and remove a private one."""
        if self.connected:
            ray.shutdown()
        if self.folder is not None:
            _remove(self.folder)


@final
class RayDeployment:
    """The three actors of one engine, in their placement group."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._group: Any = None
        self._actors: list[Any] = []
        self._scheduler: Any = None
        self.address: Address

    @classmethod
    async def start(
        cls,
        specs: tuple[DeviceSpec, ...],
        *,
        load_text: Callable[[], Detokenizer],
        patience: Patience,
        settings: ClusterSettings,
    ) -> RayDeployment:
        """Start everything and wait until it can work.

        Raises:
            PlacementError: no such cluster, or no room in it; the message says what is missing.
            PeerError: a device did not start.
        """
        deployment = cls(_connect(settings.address))
        try:
            await deployment._place(specs, settings)
            await deployment._start(specs, load_text, patience, settings)
        except BaseException:
            await deployment.close()
            raise
        return deployment

    async def statistics(self) -> SchedulerStatistics:
        """How the scheduler is."""
        found: SchedulerStatistics = await self._scheduler.statistics.remote()
        return found

    async def close(self) -> None:
        """End the actors, give their places back, and end a private cluster."""
        actors, self._actors = self._actors, []
        for actor in actors:
            with contextlib.suppress(RayError):
                ray.kill(actor)
        group, self._group = self._group, None
        if group is not None:
            with contextlib.suppress(RayError):
                remove_placement_group(group)
        self._membership.end()

    async def _place(self, specs: tuple[DeviceSpec, ...], settings: ClusterSettings) -> None:
        bundles = [_needs(spec) for spec in specs]
        self._group = placement_group(bundles)
        placed = await asyncio.to_thread(self._group.wait, settings.placement_s)
        if not placed:
            raise PlacementError(_what_is_missing(bundles, settings.placement_s))

    async def _start(
        self,
        specs: tuple[DeviceSpec, ...],
        load_text: Callable[[], Detokenizer],
        patience: Patience,
        settings: ClusterSettings,
    ) -> None:
        roles = tuple(spec.role for spec in specs)
        self._scheduler = (
            ray.remote(SchedulerActor).options(num_cpus=0).remote(roles, load_text, patience)
        )
        self._actors.append(self._scheduler)
        everywhere = len(ray.nodes()) > 1
        try:
            self.address = await self._scheduler.open.remote(everywhere=everywhere)
            self._actors += [self._device(i, spec) for i, spec in enumerate(specs)]
            await self._scheduler.wait_ready.remote(settings.startup_s)
        except RayError as error:
            raise PeerError(_cause(error)) from None

    def _device(self, bundle: int, spec: DeviceSpec) -> Any:
        actor = DraftActor if spec.role is Device.DRAFT else TargetActor
        needs = _needs(spec)
        strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            placement_group=self._group, placement_group_bundle_index=bundle
        )
        options = {
            "num_cpus": needs["CPU"],
            "num_gpus": needs.get("GPU", 0),
            "max_restarts": -1,
            "scheduling_strategy": strategy,
        }
        return ray.remote(actor).options(**options).remote(spec, self.address)


def spread(
    function: Callable[[Job], Done], jobs: Sequence[Job], address: str | None = None
) -> Iterator[Done]:
    """`function` of each job as tasks of a cluster, in the order of the jobs.

    A private cluster ends with the iterator, early or late.

    Raises:
        PlacementError: no such cluster.
        PeerError: a task was lost; what the function itself raises comes as it is.
    """
    membership = _connect(address)
    try:
        task = ray.remote(function)
        ahead = TASKS_AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
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
        return {"CPU": len(cores_for(spec.role, available_cores())) / _sharing()}
    return {"CPU": 1 / _sharing(), "GPU": spec.gpu_share}


def _sharing() -> int:
    """On a machine with a single core the two devices share it."""
    return 2 if len(available_cores()) < len(Device) else 1


def _connect(address: str | None) -> Membership:
    """Use the cluster that this program is connected to, join one, or start one.

    Raises:
        PlacementError: there is no cluster at that address, or none can be started.
    """
    if ray.is_initialized():
        return Membership(connected=False)
    os.environ |= QUIET
    _hush_worker_deaths()
    if address is not None:
        try:
            _knock(address)
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", f"{KNOCK_S:g}")
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
            message = (
                f"no Ray cluster can be reached at {address} ({_first_line(error)}); start one "
                "with `ray start --head`, or leave --ray-address out"
            )
            raise PlacementError(message) from None
        return Membership(connected=True)
    folder = tempfile.mkdtemp(prefix="pearl-", dir="/tmp")
    try:
        ray.init(
            address="local",
            num_cpus=len(available_cores()),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=folder,
        )
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        _remove(folder)
        message = f"a Ray cluster cannot be started here: {_first_line(error)}"
        raise PlacementError(message) from None
    return Membership(connected=True, folder=folder)


def _remove(folder: str) -> None:
    """Delete a private cluster's folder; processes on their last legs may still write into it."""
    for _ in range(REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):  # noqa: PTH110 - a name, as Ray takes it
            return
        time.sleep(REMOVAL_S)


def _knock(address: str) -> None:
    """See whether a Ray cluster's head may listen there.

    Ray itself asks for minutes, and ends the whole program when something listens that is silent.
    The head speaks HTTP/2, in which both sides greet each other at once.

    Raises:
        OSError: nobody listens there, or somebody else does.
    """
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()) or "://" in address:
        return  # `auto` and other words that Ray understands, or refuses, at once
    with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S) as connection:
        connection.sendall(HTTP2_GREETING)
        answer = connection.recv(4, socket.MSG_WAITALL)
    if answer[3:] != bytes([HTTP2_SETTINGS]):
        message = "what listens there is no Ray cluster"
        raise OSError(message)


def _hush_worker_deaths() -> None:
    """A device that dies is our news, and the requests go on.

    Ray prints every death of a worker on the driver's standard output, among the generated text.
    `log_to_driver=False` does not cover it: the thread that listens for such errors prints them
    by itself, unless this switch of its debugger is off.
    """
    worker: Any = importlib.import_module("ray._private.worker")
    worker._worker_logs_enabled = False  # noqa: SLF001 - there is no public switch


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
    return str(cause) if isinstance(cause, PeerError) else _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
