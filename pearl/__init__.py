"""PEARL: two language models at work at once, and the text of the large one alone.

    import asyncio, pearl

    async def main() -> None:
        async with await pearl.Engine.start() as engine:
            async for piece in engine.generate("def quicksort(items):"):
                print(piece.text, end="", flush=True)

    asyncio.run(main())

This package is the door: the command line (one file a verb) and the names a program needs. What
is heavy is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pearl.actors.engine import Engine, Piece, Result
    from pearl.actors.engine_settings import Devices, EngineSettings
    from pearl.decoding.kinds import SCHEDULES
    from pearl.decoding.policies import POLICIES
    from pearl.decoding.sampling import Sampling
    from pearl.decoding.settings import Settings
    from pearl.decoding.verification import VERIFIERS

__all__ = [
    "POLICIES",
    "SCHEDULES",
    "VERIFIERS",
    "Devices",
    "Engine",
    "EngineSettings",
    "Piece",
    "Result",
    "Sampling",
    "Settings",
]

HOMES = {
    "Devices": "pearl.actors.engine_settings",
    "EngineSettings": "pearl.actors.engine_settings",
    "POLICIES": "pearl.decoding.policies",
    "SCHEDULES": "pearl.decoding.kinds",
    "Sampling": "pearl.decoding.sampling",
    "Settings": "pearl.decoding.settings",
    "VERIFIERS": "pearl.decoding.verification",
}


def __getattr__(name: str) -> object:
    """What a name stands for is imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module 'pearl' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES.get(name, "pearl.actors.engine")), name)
