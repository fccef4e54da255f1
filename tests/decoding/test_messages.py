"""Messages: what crosses a wire comes out the same, and answers are recognised."""

from __future__ import annotations

from typing import Final

import msgspec
import pytest

from pearl.decoding.messages import (
    DEVICES,
    DRAFT,
    TARGET,
    Cancel,
    Command,
    Device,
    DeviceBack,
    DeviceLost,
    Drafted,
    Event,
    Foresight,
    Judge,
    Judged,
    Propose,
    Proposed,
    Role,
)

WINDOW: Final = Drafted(tokens=(4, 5), laws=(b"\x00\x01", b"\xff"))
MESSAGES: Final[list[Command | Event]] = [
    Propose(job=1, epoch=1, base=2, pending=(3, 4), count=5),
    Judge(job=1, epoch=1, base=2, pending=WINDOW, hold=True),
    Judge(job=1, epoch=0, base=0, pending=Drafted()),
    Cancel(epoch=7),
    Cancel(epoch=7, device=Device(Role.DRAFT, 1)),
    Proposed(job=1, epoch=1, start=4, drafted=WINDOW, began=0.5, ended=0.75),
    Judged(job=1, epoch=1, base=2, judged=2, kept=1, token=9, passes=0, began=1.0, ended=2.0),
    Judged(job=1, epoch=1, base=2, judged=2, kept=2, token=None),
    DeviceLost(device=DRAFT),
    DeviceBack(device=TARGET),
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
        (Propose, ("job", "epoch", "base", "pending", "count", "device")),
        (Judge, ("job", "epoch", "base", "pending", "hold", "device")),
        (Cancel, ("epoch", "device")),
        (Foresight, ("job", "restarts", "window", "device")),
        (Proposed, ("job", "epoch", "start", "drafted", "complete", "began", "ended", "device")),
        (
            Judged,
            [
                "job",
                "epoch",
                "base",
                "judged",
                "kept",
                "token",
                "passes",
                "began",
                "ended",
                "read",
                "device",
            ],
        ),
        (DeviceLost, ("device",)),
        (DeviceBack, ("device",)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_order_of_fields_is_part_of_the_format(
    kind: type[msgspec.Struct], fields: tuple[str, ...]
) -> None:
    """Traces are kept, and their lines are read by people: a new field goes to the end."""
    assert kind.__struct_fields__ == tuple(fields)


def test_what_is_left_out_is_not_sent() -> None:
    """An answer of the only draft, whole and without laws, is as small as it can be."""
    short = Proposed(job=1, epoch=0, start=0, drafted=Drafted(tokens=(4,)))

    assert msgspec.json.decode(msgspec.json.encode(short)) == {
        "type": "Proposed",
        "job": 1,
        "epoch": 0,
        "start": 0,
        "drafted": {"type": "Drafted", "tokens": [4]},
    }


def test_a_device_is_called_by_its_role_while_it_is_the_only_one() -> None:
    assert [str(device) for device in (*DEVICES, Device(Role.DRAFT, 1))] == [
        "draft",
        "target",
        "draft 1",
    ]


def test_tokens_and_their_laws_stay_together() -> None:
    assert WINDOW.after(1) == Drafted(tokens=(5,), laws=(b"\xff",))
    assert len(WINDOW.after(2)) == 0
