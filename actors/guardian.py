"""The guardian of a private cluster: the process that starts it, and ends all of it.

    owner      guardian      cluster
      |-- stdin -->|            |      its end says: the owner is gone, or wants no more
      |<- stdout --|            |      one line: where the cluster is, or why there is none
      |            |--- kills ->|      the owner is gone, or a vital process of the cluster is

The kernel closes a pipe whatever ends a process, so a cluster never outlives its owner, not even
one that is killed. The guardian has a session of its own: Ctrl-C in a terminal reaches neither it
nor the cluster, and the owner decides. Every process of the cluster carries the folder's name in
its environment, and is found by it. The guardian holds a lock on the folder; a folder whose lock
is free has no owner, and the next guardian removes it, with what still runs of its cluster.

May import: the standard library, psutil; both halves of this file do without Ray.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import fcntl
import json
import os
import pathlib
import secrets
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from typing import IO, TYPE_CHECKING, Final, NoReturn, Self, cast, final

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HOME: Final = "/tmp"  # noqa: S108 - the names of sockets are short, so a user's TMPDIR is too long
PREFIX: Final = "pearl-"
MARK: Final = "PEARL_CLUSTER"
LOCK: Final = "lock"
TOKEN: Final = "token"  # noqa: S105 - the name of the file
PRIVATE: Final = 0o700
YOUNG_S: Final = 60.0  # a folder without a lock may be one that is being made
LOOK_EVERY_S: Final = 0.5
KILL_S: Final = 8.0
SETTINGS: Final = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # one machine: Ray then listens on loopback only
    "RAY_memory_monitor_refresh_ms": "0",  # memory that a stranger takes is not our actors' fault
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
VITAL: Final = ("gcs_server", "raylet")
PR_SET_CHILD_SUBREAPER: Final = 36
START: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pearl.actors.membership import start_head; "
    "start_head(sys.argv[2], int(sys.argv[3]))"
)


class GuardianError(Exception):
    """There is no cluster; the message says why."""


# -- the owner's half --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """A private cluster that runs: where it listens, and its folder with the token."""

    address: str
    folder: str


@final
class Guardian:
    """The owner's end of the pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def start(cls, cores: int) -> Self:
        """Start a guardian, which starts a cluster that offers so many cores."""
        return cls(
            subprocess.Popen(  # noqa: S603 - this very file
                [sys.executable, "-P", __file__, str(cores)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=without_ray(os.environ),
                start_new_session=True,
            )
        )

    @property
    def alive(self) -> bool:
        """Whether the cluster runs, as far as its guardian knows."""
        return self._process.poll() is None

    def wait_ready(self) -> Guarded:
        """Wait until the cluster runs.

        Raises:
            GuardianError: it cannot be started, or `end` was called meanwhile.
        """
        line = cast("IO[bytes]", self._process.stdout).readline()
        said = json.loads(line) if line.endswith(b"\n") else {"error": "its guardian was ended"}
        if "error" in said:
            raise GuardianError(said["error"])
        return Guarded(**said)

    def end(self) -> None:
        """Want no more; from any thread, and more than once."""
        with contextlib.suppress(OSError, ValueError):
            cast("IO[bytes]", self._process.stdin).close()

    def wait_ended(self) -> None:
        """Wait until nothing is left of the cluster."""
        self.end()
        self._process.wait()
        cast("IO[bytes]", self._process.stdout).close()


def without_ray(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment that tells Ray nothing: a private cluster is as we say, and no other way."""
    return {name: value for name, value in environment.items() if not name.startswith("RAY_")}


def admission(folder: str) -> dict[str, str]:
    """The token is passed as the name of a file: arguments and environment can be looked up."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/{TOKEN}"}


# -- the guardian's half -----------------------------------------------------------------------


def main(cores: int) -> None:
    """Start a cluster, watch, and end it."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _leave)
    _adopt_orphans()
    owner = os.getppid()
    remove_leftovers()
    with _folder() as folder:
        head = _start_head(folder, cores)
        answer = _wait_head(head, owner)
        if answer is None:
            return
        _say(answer if "error" in answer else answer | {"folder": str(folder)})
        if "error" not in answer:
            _watch(str(folder), owner)


def _leave(_number: int, _frame: object) -> NoReturn:
    """A signal is an end like any other: what stands in `finally` is done."""
    raise SystemExit


def _adopt_orphans() -> None:
    """The cluster's processes become children of this one when theirs end, so that it can reap."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _say(answer: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # the owner is gone
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
    """A locked folder with a token; what is marked with it is killed at the end."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=HOME))
    with _create(folder / LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with _create(folder / TOKEN) as token:
                token.write(secrets.token_hex(32))
            yield folder
        finally:
            _remove(folder, _family)


def _create(file: pathlib.Path) -> IO[str]:
    """A new file that only this user can read."""
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")


def _start_head(folder: pathlib.Path, cores: int) -> subprocess.Popen[bytes]:
    """Run `actors.membership.start_head` in a process of its own, which ends when it is done."""
    # Not resolved: in a checkout `pearl/actors` is a link.
    root = str(pathlib.Path(__file__).absolute().parents[2])
    return subprocess.Popen(  # noqa: S603 - our own code
        [sys.executable, "-P", "-c", START, root, str(folder), str(cores)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | SETTINGS | admission(str(folder)) | {MARK: str(folder)},
    )


def _wait_head(head: subprocess.Popen[bytes], owner: int) -> dict[str, str] | None:
    """What it says; None when the owner leaves meanwhile."""
    heard = cast("IO[bytes]", head.stdout)
    while heard not in select.select([heard, sys.stdin], [], [], LOOK_EVERY_S)[0]:
        if _gone(owner):
            return None
    line = heard.readline()
    head.wait()
    found: dict[str, str] = json.loads(line) if line else {"error": "Ray ended without a word"}
    return found


def _gone(owner: int) -> bool:
    """Whether the owner closed the pipe or is dead; it never writes."""
    return os.getppid() != owner or bool(select.select([sys.stdin], [], [], 0)[0])


def _watch(folder: str, owner: int) -> None:
    """Until the owner is gone, or the cluster has lost what it cannot be without."""
    vital = [process for process in marked(folder) if process.name() in VITAL]
    while not _gone(owner) and all(map(_lives, vital)):
        _shut_folders(folder)
        select.select([sys.stdin], [], [], LOOK_EVERY_S)


def _shut_folders(folder: str) -> None:
    """Every process of Ray's opens its folders to everybody when it starts."""
    for parent, names, _ in os.walk(folder):
        for name in names:
            below = pathlib.Path(parent, name)
            with contextlib.suppress(OSError):  # it went meanwhile
                if below.lstat().st_mode & ~stat.S_IFDIR != PRIVATE and not below.is_symlink():
                    below.chmod(PRIVATE)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def remove_leftovers() -> None:
    """Remove what guardians that were killed have left; a living one holds the lock."""
    for folder in pathlib.Path(HOME).glob(f"{PREFIX}????????"):
        with contextlib.suppress(OSError):
            if _is_ours(folder) and _is_deserted(folder):
                _remove(folder, marked)


def _is_ours(folder: pathlib.Path) -> bool:
    return not folder.is_symlink() and folder.is_dir() and folder.stat().st_uid == os.getuid()


def _is_deserted(folder: pathlib.Path) -> bool:
    """Whether its lock is free; a folder without token and lock is not ours."""
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    made = time.time() - (folder / LOCK).stat().st_mtime
    return (folder / TOKEN).exists() or made > YOUNG_S


def _remove(folder: pathlib.Path, family: Callable[[str], list[psutil.Process]]) -> None:
    """Kill what belongs to the folder until nothing does, then delete it."""
    until = time.monotonic() + KILL_S
    while (alive := family(str(folder))) and time.monotonic() < until:
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(alive, timeout=LOOK_EVERY_S)
        _reap()
    shutil.rmtree(folder, ignore_errors=True)


def _family(folder: str) -> list[psutil.Process]:
    """What is marked, and what this guardian has adopted."""
    children: list[psutil.Process] = psutil.Process().children(recursive=True)
    return [process for process in {*marked(folder), *children} if _lives(process)]


def marked(folder: str) -> list[psutil.Process]:
    """The living processes of this folder's cluster."""
    mark = f"{MARK}={folder}"
    return [each for each in psutil.process_iter() if _bears(each, mark) and _lives(each)]


def _bears(process: psutil.Process, mark: str) -> bool:
    """Only those of this user can be asked, and only while they live."""
    try:
        file = pathlib.Path(f"/proc/{process.pid}/environ")
        if file.exists():  # Ray names its processes, and leaves gaps in what psutil reads
            return mark.encode() in file.read_bytes().split(b"\0")
        return mark in {f"{name}={value}" for name, value in process.environ().items()}
    except (psutil.Error, OSError):
        return False


def _reap() -> None:
    """Bury the children that are dead."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
