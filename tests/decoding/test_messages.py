"""Messages: what crosses a wire comes out the same, and answers are recognised."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from decoding.messages import (
    Cancel,
    Command,
    Device,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Judge,
    Judged,
    Propose,
    Proposed,
)

WINDOW: Final = Drafted(tokens=(4, 5), laws=(b"\x00\x01", b"\xff"))
MESSAGES: Final[list[Command | Event]] = [
    Propose(epoch=1, base=2, pending=(3, 4), count=5),
    Judge(epoch=1, base=2, pending=WINDOW, hold=True),
    Judge(epoch=0, base=0, pending=Drafted()),
    Cancel(epoch=7),
    Proposed(epoch=1, start=4, drafted=WINDOW, began=0.5, ended=0.75),
    Judged(epoch=1, base=2, judged=2, kept=1, token=9, passes=0, began=1.0, ended=2.0),
    Judged(epoch=1, base=2, judged=2, kept=2, token=None),
    DeviceLost(device=Device.DRAFT),
    DeviceBack(device=Device.TARGET),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: Command | Event) -> None:
    """As msgpack between devices, as JSON in traces; the type comes with the message."""
    packed = msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Command | Event)
    written = msgspec.json.decode(msgspec.json.encode(message), type=Command | Event)

    assert packed == written == message
    assert type(packed) is type(message)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_a_value(message: Command | Event) -> None:
    """It cannot change on its way, and it can be kept in a set."""
    name = message.__struct_fields__[0]

    with pytest.raises(AttributeError):
        setattr(message, name, 0)
    assert len({message, msgspec.structs.replace(message)}) == 1


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Drafted, ("tokens", "laws")),
        (Propose, ("epoch", "base", "pending", "count")),
        (Judge, ("epoch", "base", "pending", "hold")),
        (Cancel, ("epoch",)),
        (Proposed, ("epoch", "start", "drafted", "began", "ended")),
        (Judged, ("epoch", "base", "judged", "kept", "token", "passes", "began", "ended", "read")),
        (DeviceLost, ("device",)),
        (DeviceBack, ("device",)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_order_of_fields_is_part_of_the_format(
    kind: type[msgspec.Struct], fields: tuple[str, ...]
) -> None:
    """Traces are kept, and their lines are read by people: a new field goes to the end."""
    assert kind.__struct_fields__ == fields


@pytest.mark.parametrize("field", ["epoch", "start", "drafted"])
def test_a_window_answers_one_job_only(field: str) -> None:
    """Another epoch, another place or another length (cancelled half-way) is no answer."""
    job = Propose(epoch=3, base=10, pending=(1, 2), count=2)
    answer = Proposed(epoch=3, start=12, drafted=WINDOW)
    other = {"epoch": 2, "start": 11, "drafted": WINDOW.after(1)}

    assert answer.answers(job)
    assert not msgspec.structs.replace(answer, **{field: other[field]}).answers(job)


@pytest.mark.parametrize("field", ["epoch", "base", "judged"])
def test_a_verdict_answers_one_job_only(field: str) -> None:
    job = Judge(epoch=3, base=10, pending=WINDOW)
    answer = Judged(epoch=3, base=10, judged=2, kept=0, token=1)
    other = {"epoch": 2, "base": 9, "judged": 1}

    assert answer.answers(job)
    assert not msgspec.structs.replace(answer, **{field: other[field]}).answers(job)


def test_tokens_and_their_laws_stay_together() -> None:
    assert WINDOW.after(1) == Drafted(tokens=(5,), laws=(b"\xff",))
    assert len(WINDOW.after(2)) == 0
