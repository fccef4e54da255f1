"""What a verdict makes of the window that was written beside its pass.

One rule, for the schedule that acts on a verdict and for the target that begins its next job
without waiting for the command (`pearl.decoding.foresight`).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pearl.decoding.messages import Drafted, Judged, TokenId


class Outcome(enum.StrEnum):
    """What becomes of the window."""

    CONFIRMED = "all that was pending stands, and so does the first token of the window"
    REFUSED = "a token was refused: what the draft wrote behind it is thrown away"
    BARE = "all that was pending stands, and no window follows"
    UNSURE = "all that was pending stands, and the window is still being written"

    __hash__ = str.__hash__  # an enum's own is a function in Python


def outcome(verdict: Judged, window: Sequence[TokenId] | None) -> Outcome:
    """The target's own token beyond what was pending judges the first token of the window.

    Where the target holds that token back, the next job will begin by testing the window.

    Args:
        window: what was written beside the pass; empty without a draft, None while it is written.
    """
    if verdict.kept < verdict.judged:
        return Outcome.REFUSED
    if window is None:
        return Outcome.UNSURE
    if verdict.token is None:  # without a window the row that is held is not needed
        return Outcome.CONFIRMED if window else Outcome.REFUSED
    if not window:
        return Outcome.BARE
    return Outcome.CONFIRMED if window[0] == verdict.token else Outcome.REFUSED


def pending_after(verdict: Judged, window: Drafted) -> Drafted:
    """What is left to be judged of a window that was confirmed."""
    return window if verdict.token is None else window.after(1)
