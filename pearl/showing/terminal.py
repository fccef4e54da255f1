"""What the command says, on whatever terminal: nothing that it says can make it fail.

What a terminal's encoding lacks is replaced, JSON is ASCII everywhere, and where nothing can be
written any more (a full disk behind standard output), one line says so, once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import click
import msgspec

from pearl.decoding.errors import StorageError
from pearl.decoding.files import reason

NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
LONGEST_LINE: Final = 1000  # of a complaint: a value may have a million digits


@contextlib.contextmanager
def spoken() -> Iterator[None]:
    """Standard streams that take whatever text comes, and that have said all of it at the end.

    Raises:
        BrokenPipeError: the reader of standard output has left.
        StorageError: it is closed, or cannot be written.
    """
    _prepare()
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in NO_ROOM:  # a file would have been named
            raise _unwritable(error) from None
        raise
    finally:
        _flush()


def _prepare() -> None:
    _fill_what_is_closed()
    if sys.stdout is None:
        raise StorageError("standard output is closed; send it to a file, or to /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _fill_what_is_closed() -> None:
    """The next file to be opened would take its number, and hear what was meant for a terminal."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _flush() -> None:
    """While there is a caller that can report that it fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up(sys.stdout)
        raise
    except OSError as error:
        _give_up(sys.stdout)
        raise _unwritable(error) from None


def _unwritable(error: OSError) -> StorageError:
    return StorageError(f"standard output cannot be written: {reason(error)}")


def _give_up(stream: IO[str]) -> None:
    """The interpreter would try once more at its end, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def shows(stream: Any, text: str) -> bool:
    """Whether the encoding of a stream has all of these characters."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeError, LookupError):
        return False
    return True


def print_json(value: Any) -> None:
    """One object on one line, the same bytes whatever the terminal's encoding."""
    click.echo(as_json(value))


@contextlib.contextmanager
def said(value: Any, show: Callable[[], object]) -> Iterator[None]:
    """Say what came of it behind a block that writes files, also where one cannot be written.

    Args:
        value: to be printed as JSON; None where people read it.
        show: for those.
    """
    say = show if value is None else lambda: print_json(value)
    try:
        yield
    except StorageError:
        # The file matters more than a reader that has left; rich ends the program for that.
        with contextlib.suppress(BrokenPipeError, SystemExit):
            say()
        raise
    say()


def as_json(value: Any) -> str:
    """In ASCII: what is beyond it stands inside strings, and is escaped there."""
    text = msgspec.json.encode(value).decode()
    return re.sub(r"[^\x00-\x7f]", _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    """As one unit of UTF-16, or two."""
    data = found.group().encode("utf-16-be")
    return "".join(f"\\u{data[at] << 8 | data[at + 1]:04x}" for at in range(0, len(data), 2))


# -- what the system says ----------------------------------------------------------------------


def one_line(message: str) -> str:
    """A message as one line that a terminal shows and does not obey."""
    line = " ".join(message.split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} ... {line[-half:]}"


def words(error: Exception) -> str:
    """What went wrong outside this project, in one line; of a bug also where it is.

    Nothing where the reader of the output has left.
    """
    match error:
        case BrokenPipeError():
            return ""
        case MemoryError():
            return "out of memory"
        case RecursionError():
            return "something is nested too deep"
        case OSError():
            named = f"{error.filename}: " if error.filename else ""
            return f"{named}{reason(error)}"
        case OverflowError() | UnicodeError():
            return str(error)
        case _:
            return _bug(error)


def _bug(error: Exception) -> str:
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"a bug: {type(error).__name__}: {error} ({place.filename}, line {place.lineno}); "
        "please report it with what PEARL_TRACEBACK=1 shows"
    )
