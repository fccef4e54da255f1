"""Files: read with a limit, written whole or not at all.

    with replacing(path) as file:
        file.write(...)

What stood there stays whole until all of the new one is written: a full disk, a limit or an
interrupt leaves it as it was. It keeps its mode, and a link stays a link. What is no file on a
disk (a pipe, a terminal, wherever standard output goes) is written to as it is.

Whatever cannot be read is an `OSError`, a name that no file can have included; `reason` has the
words for it.

May import: the standard library and errors.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
import pathlib
import stat
from typing import IO, TYPE_CHECKING, Any, Final, final

from pearl.decoding.errors import SettingError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_BYTES: Final = 1 << 28
"""Of a file that is read at once, and of a line of one that is not: no real one comes near it."""
PROBE: Final = bytes(4096)  # a full disk takes the name of a new file, and not a block of it

_NUMBERS: Final = itertools.count()


def reason(error: OSError) -> str:
    """Why, in words for one line."""
    return error.strerror or str(error) or type(error).__name__


# -- writing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` once all of it is written.

    Raises:
        StorageError: it cannot be written; what was there is as it was.
    """
    try:
        target, known = _place(path)
        if known is not None and _is_stream(known):
            with _blocking(_stream(target, known), "wb") as file:
                yield file
        else:
            with _beside(target, known) as (unfinished, file):
                yield file
                _sync(file)
                unfinished.replace(target)
    except OSError as error:
        message = f"{path} cannot be written: {reason(error)}"
        raise StorageError(message) from None


def write(path: pathlib.Path, data: bytes) -> None:
    """All of a file at once; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def check_writable(path: pathlib.Path) -> None:
    """Try whether `replacing` could; to know it before a long run, not after.

    Raises:
        SettingError: it could not.
    """
    try:
        target, known = _place(path)
        if known is not None and _is_stream(known):
            return  # whoever reads it would take a try for the end
        with _beside(target, known) as (_, file):
            file.write(PROBE)
            _sync(file)
    except OSError as error:
        message = f"{path} cannot be written: {reason(error)}"
        raise SettingError(message) from None


def _place(path: pathlib.Path) -> tuple[pathlib.Path, os.stat_result | None]:
    """Where a link leads to, and what is there.

    Raises:
        OSError: nothing can be there, or it must not be replaced.
    """
    with _named():
        target = pathlib.Path(os.path.realpath(path))
        try:
            known = path.stat()
        except FileNotFoundError:
            return target, None
    if stat.S_ISDIR(known.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return (path if _is_stream(known) else target), known


def _is_stream(known: os.stat_result) -> bool:
    """Whether it is no file of its own: what a shell sent standard output to is the shell's."""
    return not stat.S_ISREG(known.st_mode) or _standard(known) is not None


def _stream(target: pathlib.Path, known: os.stat_result) -> int:
    """To write to, without waiting: a pipe with nobody at its other end is an error."""
    standard = _standard(known)
    return os.open(target, os.O_WRONLY | os.O_NONBLOCK) if standard is None else os.dup(standard)


def _standard(known: os.stat_result) -> int | None:
    """Which of the standard streams goes there."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if os.path.samestat(known, os.fstat(descriptor)):
                return descriptor
    return None


@contextlib.contextmanager
def _beside(
    target: pathlib.Path, known: os.stat_result | None
) -> Iterator[tuple[pathlib.Path, IO[bytes]]]:
    """An empty file in the same folder, under a name of its own; gone in the end."""
    path, descriptor = _created(target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if known is not None:
                os.fchmod(descriptor, stat.S_IMODE(known.st_mode))
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def _created(folder: pathlib.Path) -> tuple[pathlib.Path, int]:
    """A new file; a short name, for the one it is to have may be as long as names can be."""
    while True:
        path = folder / f".pearl-{os.getpid()}-{next(_NUMBERS)}.new"
        with contextlib.suppress(FileExistsError):  # of a process that was killed
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)


def _sync(file: IO[bytes]) -> None:
    """Let a disk that is full say so now."""
    file.flush()
    os.fsync(file.fileno())


# -- reading -----------------------------------------------------------------------------------


def opened(path: pathlib.Path) -> IO[bytes]:
    """For reading, from the beginning; also a pipe, if somebody is there who writes to it.

    Raises:
        OSError: it cannot be read.
    """
    with _named():
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(mode):
        return _blocking(descriptor, "rb")
    with contextlib.suppress(BlockingIOError):  # somebody is there, who has not written yet
        if not (first := os.read(descriptor, 1)):
            os.close(descriptor)
            raise OSError(errno.EPIPE, "nobody writes to this pipe")
        return io.BufferedReader(_Begun(_blocking(descriptor, "rb"), first))
    return _blocking(descriptor, "rb")


def read(path: pathlib.Path) -> bytes:
    """All of a file that is not large.

    Raises:
        OSError: it cannot be read, or is large.
    """
    with opened(path) as file:
        return _no_more(file.read(MOST_BYTES + 1), "it")


def lines(file: IO[bytes]) -> Iterator[bytes]:
    r"""Its lines as they come, each with its end, which is \n and nothing else.

    Raises:
        OSError: one has no end.
    """
    while line := file.readline(MOST_BYTES + 1):
        yield _no_more(line, "a line of it")


def parsed(data: bytes) -> Any:
    """A JSON value; names that are there twice say nothing, so they are refused.

    Raises:
        ValueError: it is none; the message is one line.
    """
    try:
        return json.loads(text(data), object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        message = "it is nested too deep"
        raise ValueError(message) from None


def text(data: bytes) -> str:
    """In UTF-8, with a mark of it or without; lines end as they end in Python.

    Raises:
        ValueError: it is not; the message is one line.
    """
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        utf_16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        where = "it is in UTF-16" if utf_16 else f"byte {error.start + 1} is not UTF-8"
        message = f"{where}; save it in UTF-8"
        raise ValueError(message) from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"the name {twice!r} is there twice"
        raise ValueError(message)
    return found


def _refused(constant: str) -> Any:
    message = f"{constant} is no number of JSON"
    raise ValueError(message)


def _no_more(data: bytes, what: str) -> bytes:
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"{what} is longer than {MOST_BYTES >> 20} MB")
    return data


@final
class _Begun(io.RawIOBase):
    """A pipe of which something was read already."""

    def __init__(self, rest: IO[bytes], first: bytes) -> None:
        self._rest, self._first = rest, first

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What was read, then the rest as it comes."""
        data = self._first or self._rest.read1(len(buffer))  # type: ignore[attr-defined]
        self._first = b""
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Both."""
        self._rest.close()
        super().close()


def _blocking(descriptor: int, mode: str) -> IO[Any]:
    try:
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, mode)
    except BaseException:  # of a folder, for one
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """A name with a NUL in it, or with half a character, is an error like others."""
    try:
        yield
    except ValueError:
        message = "no file can have this name"
        raise OSError(errno.EINVAL, message) from None
