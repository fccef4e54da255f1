"""Records that were written by hand: their jobs are counted, and each answer finds its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from msgspec.structs import replace

from pearl.decoding.messages import Device, Judge, Judged, Propose, Proposed
from pearl.decoding.trace import Received, Record, Sent

NOBODYS = 999  # the number of an answer to nothing


def numbered(records: Iterable[Record]) -> tuple[Record, ...]:
    """The same, with numbers: an answer is to the last job that began and ended where it does."""
    counts: defaultdict[Device, int] = defaultdict(int)
    jobs: dict[tuple[Device, int, int, int], int] = {}
    found: list[Record] = []
    for record in records:
        match record:
            case Sent(command=Propose() | Judge() as job):
                counts[job.device] += 1
                jobs[_place(job)] = counts[job.device]
                found.append(replace(record, command=replace(job, job=counts[job.device])))
            case Received(event=Proposed() | Judged() as answer):
                number = jobs.get(_place(answer), NOBODYS)
                found.append(replace(record, event=replace(answer, job=number)))
            case _:
                found.append(record)
    return tuple(found)


def _place(message: Propose | Judge | Proposed | Judged) -> tuple[Device, int, int, int]:
    device, epoch = message.device, message.epoch
    match message:
        case Propose():
            return device, epoch, message.start, 0
        case Proposed(start=start):
            return device, epoch, start, 0
        case Judge(base=base, pending=pending):
            return device, epoch, base, len(pending)
        case Judged(base=base, judged=judged):
            return device, epoch, base, judged
