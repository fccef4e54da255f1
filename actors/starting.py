"""What the start of an engine says of itself to whoever waits for it.

    told("starting Ray", None)
    told("loading target SmolLM2-135M on cpu", 0.43)

A start takes seconds, with a large model minutes. A device that loads says each second which share
of its weights it has read (`pearl.actors.wire.Loading`); the scheduler remembers it, and the engine
asks for it until all devices are ready.

May import: decoding, actors.pair, actors.specs.
Must never: print.
"""

from __future__ import annotations

import asyncio
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, TypeAlias

from pearl.actors import pair

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from pearl.actors.specs import DeviceSpec
    from pearl.decoding.messages import Device

Told: TypeAlias = "Callable[[str, float | None], None]"
"""Is told what is being done, and which share of it is done; None: that cannot be known."""
CHECKING: Final = "checking the models"
ASK_S: Final = 0.25


def untold(_what: str, _share: float | None) -> None:
    """For those who do not want to know."""


def loading_of(spec: DeviceSpec) -> str:
    """What a device does until it is ready."""
    own = spec.model in {str(pair.DRAFT), str(pair.TARGET)}
    name = "of the embedded pair" if own else PurePath(spec.model).name
    return f"loading {spec.device} {name} on {spec.place}"


async def tell_until(
    ready: Coroutine[None, None, None],
    specs: Sequence[DeviceSpec],
    shares: Callable[[], Awaitable[Mapping[Device, float]]],
    told: Told,
) -> None:
    """Wait until the devices are ready, and tell meanwhile how far each of them is.

    Args:
        ready: ends when they are; what it raises comes as it is.
        shares: of the weights that each device has read.
    """
    waiting = asyncio.ensure_future(ready)
    try:
        while not waiting.done():
            known = await shares()
            for spec in specs:
                told(loading_of(spec), known.get(spec.device, 0.0))
            await asyncio.wait({waiting}, timeout=ASK_S)
        await waiting
    finally:
        waiting.cancel()
    for spec in specs:
        told(loading_of(spec), 1.0)
