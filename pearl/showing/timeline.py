"""A few rounds of a run as two bars of text: what the target and the draft did, when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pearl.decoding.messages import DRAFT, TARGET, Judged, Proposed
from pearl.decoding.trace import Received, Record

ROUNDS: Final = 8
SKIP: Final = 2  # the first passes read the prompt
SHADES: Final = "█▓·"
PLAIN: Final = "#=."
"""Where the terminal's encoding lacks those."""


def timeline(records: Sequence[Record], width: int, shades: str = SHADES) -> str:
    """The rounds after the first few: a shade a job, a dot where the device waited."""
    jobs = [r.event for r in records if isinstance(r, Received)]
    passes = [event for event in jobs if isinstance(event, Judged) and event.passes]
    shown = passes[SKIP : SKIP + ROUNDS]
    if not shown:
        return ""
    since, until = shown[0].began, shown[-1].ended
    windows = [event for event in jobs if isinstance(event, Proposed)]
    columns = width - 12
    lines = [
        f"{device!s:>8}  {_bar(found, since, until, columns, shades)}"
        for device, found in ((TARGET, passes), (DRAFT, windows))
    ]
    counts = "  ".join(str(event.kept + (event.token is not None)) for event in shown)
    head = f"{len(shown)} rounds of PEARL in {1e3 * (until - since):.0f} ms; tokens: {counts}"
    return "\n".join([head, *lines])


def _bar(
    jobs: Sequence[Judged | Proposed], since: float, until: float, columns: int, shades: str
) -> str:
    """One character a slice of time; neighbouring jobs differ in shade."""
    *dark, empty = tuple(shades)
    cells = [empty] * columns
    for number, job in enumerate(jobs):
        first = round((job.began - since) / (until - since) * columns)
        last = round((job.ended - since) / (until - since) * columns)
        for cell in range(max(0, first), min(columns, last)):
            cells[cell] = dark[number % 2]
    return "".join(cells)
