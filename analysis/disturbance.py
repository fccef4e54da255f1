"""What other programs took of the machine during a run, in words.

    disturbance.sentence(0.31)     # Other processes took 31 % of the cores meanwhile. …

A device whose core is shared takes its time whatever theory says, so a run says how much of the
machine others had.
"""

from __future__ import annotations

from typing import Final

QUIET: Final = 0.05  # share of all cores that others may take


def warning(share: float) -> str:
    """What it means for the figures; nothing where the machine was quiet."""
    return "" if share <= QUIET else "The machine was not quiet: these figures mean little."


def sentence(share: float) -> str:
    """How much others took, and what that means."""
    said = f"Other processes took {share:.0%} of the cores meanwhile."
    return f"{said} {warning(share)}".rstrip()
