"""What a schedule does next: what it waits for, what may come, and the table of both.

`pearl.decoding.schedules` follows the table and knows what each step is;
docs/theory-of-operation.md has it as a picture, drawn from here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeAlias

from pearl.decoding.verdicts import Outcome


class State(enum.StrEnum):
    """What a schedule waits for."""

    WRITING = "a window, before the pass that judges it"
    BOTH = "a verdict, and the window that is written beside its pass"
    JUDGING = "a verdict; a window that was written beside its pass is there"
    CATCHING_UP = "a window; the verdict on all before it is acted on"
    AT_BARRIER = "a window; only then is the verdict acted on (strict)"
    FINISHED = "nothing"

    __hash__ = str.__hash__  # an enum's own is a function in Python


class Sign(enum.StrEnum):
    """News that are no outcome of a verdict."""

    WINDOW = "the window is there"
    EARLY = "a verdict is there before its window (strict)"
    LOST = "the window will not come: the draft is gone"
    ENDED = "the text is over"

    __hash__ = str.__hash__


News: TypeAlias = Outcome | Sign


class Step(enum.StrEnum):
    """What a schedule does."""

    JUDGE = "the window becomes what is pending: a pass over it"
    GO_ON = "the rest of the window becomes what is pending: a pass over it"
    BEGIN = "nothing is pending: a head start if there is one, else a pass"
    RESTART = "what the draft has written is thrown away, in a new epoch; then as `begin`"
    KEEP = "the window is kept until the verdict is there"
    ACT = "the verdict is acted on, with the window that is there now"
    CATCH_UP = "the window is waited for"
    HOLD_BACK = "the verdict is not acted on before the window is there"
    STOP = "for good"

    __hash__ = str.__hash__


TRANSITIONS: Final[Mapping[State, Mapping[News, Step]]] = {
    State.WRITING: {
        Sign.WINDOW: Step.JUDGE,
        Sign.LOST: Step.RESTART,
    },
    State.BOTH: {
        Sign.WINDOW: Step.KEEP,
        Sign.LOST: Step.KEEP,
        Sign.EARLY: Step.HOLD_BACK,
        Sign.ENDED: Step.STOP,
        Outcome.UNSURE: Step.CATCH_UP,
        Outcome.REFUSED: Step.RESTART,
    },
    State.JUDGING: {
        Sign.ENDED: Step.STOP,
        Outcome.CONFIRMED: Step.GO_ON,
        Outcome.REFUSED: Step.RESTART,
        Outcome.BARE: Step.BEGIN,
    },
    State.CATCHING_UP: {
        Sign.LOST: Step.RESTART,
        Outcome.CONFIRMED: Step.GO_ON,
        Outcome.REFUSED: Step.RESTART,
        Outcome.BARE: Step.BEGIN,
    },
    State.AT_BARRIER: {
        Sign.WINDOW: Step.ACT,
        Sign.LOST: Step.ACT,
        Sign.ENDED: Step.STOP,
        Outcome.CONFIRMED: Step.GO_ON,
        Outcome.REFUSED: Step.RESTART,
        Outcome.BARE: Step.BEGIN,
    },
    State.FINISHED: {},
}
"""What is done in each state with each piece of news; what is missing cannot come there."""
