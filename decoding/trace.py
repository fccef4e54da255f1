"""The trace of a run: every command, answer and commit, in the order the driver saw them.

The file is a Chrome trace (load it in https://ui.perfetto.dev or chrome://tracing): a row a
device, a bar a job, an arrow from a window to the verdict on it. Each line after the first is one
event and the closing bracket is optional in that format, so a run that was cut off leaves a file
that still loads. The same lines carry the records themselves, so `read` gives back what `write`
was given, from silicon and from simulation alike.
"""

from __future__ import annotations

import contextlib
import gzip
import pathlib
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec

from pearl.decoding import files
from pearl.decoding.errors import MalformedTraceError
from pearl.decoding.messages import (
    ANSWERS,
    DEVICES,
    Command,
    Device,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Judge,
    Judged,
    Proposed,
    Role,
    TokenId,
)
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TRACE_VERSION: Final = 2
GZIPPED: Final = b"\x1f\x8b"
END: Final = '{"ph":"M","pid":1,"name":"end"}]\n'
SCHEDULER: Final = 3  # its row
ROWS: Final = {Role.TARGET: 1, Role.DRAFT: 2}  # of the first of each
BETWEEN: Final = 10  # rows, from one device of a role to the next


class Sent(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A command left the driver."""

    at: float
    request: int
    command: Command


class Received(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """An event reached the schedule; `wanted` unless the schedule no longer waited for it.

    `tokens` were committed because of it; `epoch`, `kept` and `rejections` are the schedule's
    figures after it.
    """

    at: float
    request: int
    event: Event
    wanted: bool
    tokens: tuple[TokenId, ...]
    epoch: int
    kept: int
    rejections: int


Record: TypeAlias = Sent | Received


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a trace is of: settings, models, machine; free-form, but for the version."""

    version: int = TRACE_VERSION
    about: dict[str, Any] = {}


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a header says of a run that is to be replayed or measured.

    Args:
        settings: of all its requests.
        eos, finish_reason: why a text may end, and why the first one did.
        prompts: tokens of each request's prompt, in the order of their numbers; empty if unknown.
        simulated: whether it ran on a virtual clock.
        reach: the most tokens after the prompt that the draft can hold; None: as many as asked.
    """

    settings: Settings
    eos: tuple[TokenId, ...]
    finish_reason: FinishReason | None
    prompts: tuple[int, ...] = ()
    simulated: bool = False
    reach: int | None = None


def about(path: pathlib.Path, header: Header) -> About:
    """How the run in a file was made.

    Raises:
        MalformedTraceError: the header does not say it.
    """
    try:
        return msgspec.convert(header.about, About)
    except msgspec.ValidationError as error:
        message = f"{path} does not say how it was run: {error}"
        raise MalformedTraceError(message) from None


def write(path: pathlib.Path, records: Iterable[Record], **about: Any) -> None:
    """Write a trace file of records `without_laws`; bars are in microseconds since the first.

    A name that ends in .gz is written compressed, to a tenth; viewers open those too.
    """
    with files.replacing(path) as raw, _packed(path, raw) as file:
        file.write(b"[\n")
        for event in _events(list(records), Header(about=about)):
            file.write(msgspec.json.encode(event) + b",\n")
        file.write(END.encode())


def _packed(path: pathlib.Path, file: IO[bytes]) -> contextlib.AbstractContextManager[IO[bytes]]:
    """The same records give the same bytes, also compressed."""
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(path.name, "wb", mtime=0, fileobj=file))
    return contextlib.nullcontext(file)


def read(path: pathlib.Path) -> tuple[Header, list[Record], bool]:
    """The header, the records, and whether the file is whole (a run may have been cut off).

    Raises:
        MalformedTraceError: the file cannot be read, is no trace of this project, or is one of
            another version.
    """
    try:
        with files.opened(path) as raw, _unpacked(raw) as file:
            return _read(path, files.lines(file))
    except (OSError, EOFError, zlib.error) as error:
        why = files.reason(error) if isinstance(error, OSError) else error
        message = f"{path} cannot be read: {why}"
        raise MalformedTraceError(message) from None


def _unpacked(file: IO[bytes]) -> contextlib.AbstractContextManager[IO[bytes]]:
    if cast("Any", file).peek(len(GZIPPED)).startswith(GZIPPED):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    return contextlib.nullcontext(file)


def _read(path: pathlib.Path, lines: Iterator[bytes]) -> tuple[Header, list[Record], bool]:
    """Line by line: what is no trace is refused where it begins, however long it is."""
    first = next(lines, b"")
    found = _parsed(path, lines) if first == b"[\n" else iter(())
    header = next(found, _NOTHING).header
    if header is None or header.version != TRACE_VERSION:
        message = f"{path} is not a trace of version {TRACE_VERSION} of this project"
        raise MalformedTraceError(message)
    records, whole = [], False
    for args in found:
        whole = args is _END
        if args.record is not None:
            records.append(args.record)
    return header, records, whole


class _Args(msgspec.Struct, frozen=True):
    """What a line carries for us; the rest of it is for those who look at it."""

    header: Header | None = None
    record: Record | None = None


_NOTHING: Final = _Args()
_END: Final = _Args()
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _TraceLine(msgspec.Struct, frozen=True):
    args: _Args = _NOTHING


def _args(line: bytes) -> _Args:
    return msgspec.json.decode(line.removesuffix(b"\n").removesuffix(b","), type=_TraceLine).args


def _parsed(path: pathlib.Path, lines: Iterator[bytes]) -> Iterator[_Args]:
    """The header, then whatever else the lines below the opening bracket carry."""
    for number, line in enumerate(lines, start=2):
        if line == END.encode():
            yield _END
            continue
        try:
            args = _args(line)
        except _UNREADABLE as error:
            if not line.endswith(b"\n"):
                return  # whatever was cut off; of a whole file nothing
            message = f"{path}, line {number}: not a trace event: {error}"
            raise MalformedTraceError(message) from None
        if args != _NOTHING:
            yield args


def _events(records: list[Record], header: Header) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "PEARL"}}
    answers = [r.event for r in records if isinstance(r, Received) and isinstance(r.event, ANSWERS)]
    rows = {_row(device): str(device) for device in (*DEVICES, *(e.device for e in answers))}
    for row, name in (*rows.items(), (SCHEDULER, "scheduler")):
        yield {"ph": "M", "pid": 1, "tid": row, "name": "thread_name", "args": {"name": name}}
    yield {"ph": "M", "pid": 1, "name": "pearl", "args": {"header": header}}
    origin = min((_start(record) for record in records), default=0.0)
    for record in records:
        yield _drawn(record, origin)
    for number, (window, verdict) in enumerate(_judged_windows(records)):
        arrow = {"name": "window", "cat": "window", "id": number}
        yield {"ph": "s", **arrow, **_middle(window, origin)}
        yield {"ph": "f", "bp": "e", **arrow, **_middle(verdict, origin)}


def _start(record: Record) -> float:
    if isinstance(record, Received) and isinstance(record.event, ANSWERS):
        return min(record.at, record.event.began)
    return record.at


def _drawn(record: Record, origin: float) -> dict[str, Any]:
    """A job as a bar on its device's row, anything else as an instant on the scheduler's."""
    instant = {"ph": "i", "pid": 1, "tid": SCHEDULER, "ts": 1e6 * (record.at - origin)}
    if isinstance(record, Sent):
        name = type(record.command).__name__
        return {"s": "t", "name": name, **instant, "args": {"record": record}}
    event = record.event
    args = {"record": record}
    if isinstance(event, DeviceLost | DeviceBack):
        name = f"{event.device} {'lost' if isinstance(event, DeviceLost) else 'back'}"
        return {"s": "p", "name": name, **instant, "args": args}
    return {"ph": "X", **_bar(event, origin), "args": args}


def _bar(event: Proposed | Judged, origin: float) -> dict[str, Any]:
    if isinstance(event, Proposed):
        name = f"write {len(event.drafted)}"
    else:
        name = f"judge {event.judged}, keep {event.kept}"
    row = _row(event.device)
    times = {"ts": 1e6 * (event.began - origin), "dur": 1e6 * (event.ended - event.began)}
    return {"name": name, "pid": 1, "tid": row, **times}


def _row(device: Device) -> int:
    """Where the jobs of a device are drawn."""
    return ROWS[device.role] + BETWEEN * device.number


def _middle(event: Proposed | Judged, origin: float) -> dict[str, Any]:
    """A point inside a job's bar."""
    bar = _bar(event, origin)
    return {"pid": 1, "tid": bar["tid"], "ts": bar["ts"] + bar["dur"] / 2}


def _judged_windows(records: Iterable[Record]) -> Iterator[tuple[Proposed, Judged]]:
    """Each window with the verdict on its tokens."""
    written: dict[int, Proposed] = {}
    under_judgement: dict[int, Proposed] = {}
    for record in records:
        match record:
            case Received(event=Proposed() as window, wanted=True):
                written[record.request] = window
            case Sent(command=Judge(pending=pending)) if len(pending):
                under_judgement[record.request] = written[record.request]
            case Received(event=Judged() as verdict, wanted=True) if verdict.judged:
                yield under_judgement[record.request], verdict


def without_laws(message: Any) -> Any:
    """The same message without the distributions its tokens were drawn from: those are large."""
    if isinstance(message, Judge):
        return msgspec.structs.replace(message, pending=Drafted(tokens=message.pending.tokens))
    if isinstance(message, Proposed):
        return msgspec.structs.replace(message, drafted=Drafted(tokens=message.drafted.tokens))
    return message
