"""How this process is connected to Ray: one connection, shared by all engines, undone by the last.

A cluster that is already running is used where its address is given; otherwise a private one is
started, which a guardian ends with this process (`pearl.actors.guardian`). A private cluster is
private: it listens on loopback, asks for a token that only this user can read, and is configured
here alone, whatever Ray's environment variables say.

    join -> connect   a first engine: start a private cluster, or dial one that runs
    join -> share     a further engine of this process
    end  -> leave     the last engine: hang up, and end a private cluster

May import: ray (at home here and in `actors.cluster`), actors.guardian, actors.threads.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import pathlib
import signal
import socket
import sys
import sysconfig
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import ray
from ray.exceptions import RayError

from pearl.actors.guardian import Guardian, GuardianError, admission
from pearl.actors.threads import available_cores
from pearl.decoding.errors import PlacementError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPBACK: Final = "127.0.0.1"
OBJECT_STORE_BYTES: Final = 80 * 1024**2  # nothing large goes through Ray; this is its minimum
ENGINES: Final = 16  # that share the cores of a private cluster, slower but side by side
QUIET: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
PATIENT: Final = {"RAY_gcs_rpc_server_reconnect_timeout_s": "1000000000"}  # else it ends us
SILENT: Final[dict[str, Any]] = {"logging_level": logging.ERROR, "log_to_driver": False}
KNOCK_S: Final = 5.0
HTTP2_GREETING: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2_SETTINGS: Final = 4  # the type of the frame that greets back, after its length of 3 bytes


@final
class GivenUp:
    """Lets the event loop end what a thread waits for; afterwards nothing is begun."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: Callable[[], None] = lambda: None
        self._said = False

    def say(self) -> None:
        """Give up."""
        with self._lock:
            self._said = True
            self._end()

    @contextlib.contextmanager
    def ending(self, end: Callable[[], None]) -> Iterator[None]:
        """Call `end` when this is given up in here, or was before."""
        with self._lock:
            self._end = end
            if self._said:
                end()
        try:
            yield
        finally:
            with self._lock:
                self._end = lambda: None


@final
class Connection:
    """How this process is connected to Ray, and so what to undo at the end.

    Args:
        address: what was asked for.
        ours: connected by an engine, not by the program before.
        guardian: of a private cluster, in its folder.
    """

    def __init__(
        self,
        address: str | None,
        *,
        ours: bool = True,
        guardian: Guardian | None = None,
        folder: str | None = None,
    ) -> None:
        self.address = address
        self.folder = folder
        self.members = 0
        self._ours = ours
        self._guardian = guardian

    @property
    def alive(self) -> bool:
        """Whether there is something to join."""
        private = self._guardian is None or self._guardian.alive
        return private and bool(ray.is_initialized())

    @property
    def private(self) -> bool:
        """Whether no other program uses the cluster."""
        return self._guardian is not None

    def end(self) -> None:
        """Leave the cluster, and end a private one."""
        if self._ours:
            ray.shutdown()
        if self._guardian is not None:
            _read_again()
            self._guardian.wait_ended()


@final
class Membership:
    """One engine's share of the process's connection, which ends with the last."""

    _lock: ClassVar = threading.Lock()
    _current: ClassVar[Connection | None] = None

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._ended = False
        connection.members += 1

    @classmethod
    def join(cls, address: str | None, given_up: GivenUp | None = None) -> Membership:
        """Share the connection there is, or join that cluster, or start one.

        Raises:
            PlacementError: there is no cluster at that address, or none can be started, or this
                process is connected to another.
        """
        with cls._lock:
            current = cls._current
            if current is not None and not current.alive:
                current.end()
                current = cls._current = None
            if current is None:
                current = cls._current = _connect(address, given_up or GivenUp())
            elif current.address != address:
                message = (
                    f"another engine of this program uses {_named(current.address)}; close it "
                    f"before one on {_named(address)} is started: Ray allows one at a time"
                )
                raise PlacementError(message)
            take_signals_back()
            return cls(current)

    def end(self) -> None:
        """Leave; the last one undoes the connection. Once is enough, and more do no harm."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            self.connection.members -= 1
            if self.connection is Membership._current and not self.connection.members:
                Membership._current = None
                self.connection.end()


def take_signals_back() -> None:
    """Ray prints where each thread is when it hears SIGTERM; what it means is the program's."""
    if threading.current_thread() is threading.main_thread():
        meant = signal.getsignal(signal.SIGTERM)
        if meant is not None:
            signal.signal(signal.SIGTERM, meant)


def _named(address: str | None) -> str:
    return "a private cluster" if address is None else f"the Ray cluster at {address}"


def _connect(address: str | None, given_up: GivenUp) -> Connection:
    _hush_worker_deaths()
    if ray.is_initialized():
        return Connection(address, ours=False)
    return _start_private(given_up) if address is None else _join_running(address)


def _join_running(address: str) -> Connection:
    os.environ |= QUIET
    try:
        _knock(address)
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", f"{KNOCK_S:g}")
        ray.init(address=address, job_config=_job(), **SILENT)
    except (ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        message = (
            f"no Ray cluster can be reached at {address} ({first_line(error)}); start one "
            "with `ray start --head`, or leave --ray-address out"
        )
        raise PlacementError(message) from None
    return Connection(address)


def _start_private(given_up: GivenUp) -> Connection:
    guardian = Guardian.start(len(available_cores()))
    try:
        with given_up.ending(guardian.end):
            found = guardian.wait_ready()
        with _told(admission(found.folder) | PATIENT):
            ray.init(address=found.address, job_config=_job(), **SILENT)
    except (GuardianError, ConnectionError, RayError, RuntimeError, ValueError, OSError) as error:
        guardian.wait_ended()
        message = f"a Ray cluster cannot be started here: {first_line(error)}"
        raise PlacementError(message) from None
    except BaseException:
        guardian.end()
        raise
    return Connection(None, guardian=guardian, folder=found.folder)


@contextlib.contextmanager
def _told(environment: dict[str, str]) -> Iterator[None]:
    """Ray connects as this environment says; what a user has set for other clusters is put aside.

    Ray takes the loopback address for a mistake, except where it allows one machine only.
    """
    aside = {name: value for name, value in os.environ.items() if name.startswith("RAY_")}
    constants: Any = importlib.import_module("ray._private.ray_constants")
    several = constants.ENABLE_RAY_CLUSTER
    for name in aside:
        del os.environ[name]
    os.environ |= QUIET | environment
    constants.ENABLE_RAY_CLUSTER = False
    _read_again()
    try:
        yield
    finally:
        for name in QUIET | environment:
            del os.environ[name]
        os.environ |= aside
        constants.ENABLE_RAY_CLUSTER = several


def _read_again() -> None:
    """Ray reads its settings and the token once in a process, and remembers both."""
    core: Any = importlib.import_module("ray._raylet")
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()


def _job() -> Any:
    """Workers import this package from where this process does.

    Ray would have them look into the script's folder and into the current one first, where a
    user may have a `pearl/` of their own.
    """
    # Not resolved: in a checkout `pearl/actors` is a link.
    root = str(pathlib.Path(__file__).absolute().parents[2])
    installed = root in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    job: Any = ray.job_config.JobConfig(_py_driver_sys_path=[] if installed else [root])
    job._runtime_env_has_working_dir = lambda: True  # noqa: SLF001 - then it adds neither
    return job


def _knock(address: str) -> None:
    """See whether a Ray cluster's head may listen there.

    Ray itself asks for minutes, and ends the whole program when something listens that is silent.
    The head speaks HTTP/2, in which both sides greet each other at once.

    Raises:
        OSError: no cluster listens there, or another program does.
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


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def start_head(folder: str, cores: int) -> None:
    """Start the processes of a private cluster, which go on without this one.

    A guardian runs this in a process of its own and reads the answer. `ray start` would also open
    Ray's door for clients of other machines, and on a fixed port.
    """
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # the answer is all that is read there
    parameters: Any = importlib.import_module("ray._private.parameter")
    node: Any = importlib.import_module("ray._private.node")
    asked = parameters.RayParams(
        node_ip_address=LOOPBACK,
        num_cpus=ENGINES * cores,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        temp_dir=f"{folder}/ray",
    )
    try:
        head = node.Node(asked, head=True, shutdown_at_exit=False, spawn_reaper=False)
        said = {"address": head.address}
    except Exception as error:  # noqa: BLE001 - whatever it is, the owner gets it
        said = {"error": first_line(error)}
    os.write(answer, json.dumps(said).encode() + b"\n")
    os._exit(0)  # nothing that was started is ended at exit
