"""A pair that is ready to be measured: it fits, all prompts do, and first passes are behind it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from pearl.decoding.errors import PlacementError
from pearl.progress import starting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from pearl.actors.checking import CheckedPair, ModelPair
    from pearl.actors.engine import Engine
    from pearl.actors.engine_settings import EngineSettings
    from pearl.decoding.settings import Settings

WARMING_TOKENS: Final = 32


def fit(engine_settings: EngineSettings, what_for: str) -> CheckedPair:
    """The models that are named, when there is a draft among them.

    Raises:
        UsageError: there is none, or they cannot be used together.
    """
    pair = checked(engine_settings)
    if len(pair.models) == 1:
        raise PlacementError(f"{what_for} needs a draft beside the target; name one")
    return pair


def checked(engine_settings: EngineSettings) -> CheckedPair:
    """The models that are named; said while it is done, for it takes seconds.

    Raises:
        UsageError: they cannot be used, or not together.
    """
    with starting() as told:
        from pearl.actors.starting import CHECKING

        told(CHECKING, None)
        from pearl.actors.checking import CheckedPair

        return CheckedPair(engine_settings)


@contextlib.asynccontextmanager
async def started(pair: ModelPair) -> AsyncIterator[Engine]:
    """An engine; said while it is started.

    Raises:
        PeerError: a device did not start.
    """
    with starting() as told:
        from pearl.actors.engine import Engine

        engine = await Engine.start_pair(pair, told)
    async with engine:
        yield engine


def check_prompts(pair: ModelPair, prompts: Iterable[str], widest: Settings) -> None:
    """Refuse a prompt that the pair cannot go on with, before anything is started.

    Raises:
        UsageError: it is too long, or the settings do not fit the pair.
    """
    for prompt in prompts:
        pair.encode(prompt, widest)


@contextlib.asynccontextmanager
async def warmed(pair: ModelPair, ways: Iterable[Settings], prompt: str) -> AsyncIterator[Engine]:
    """An engine that has decoded a little in each of these ways: first passes are slow.

    Raises:
        PeerError: a device did not start, or failed.
    """
    async with started(pair) as engine:
        for settings in ways:
            short = replace(settings, max_new_tokens=min(WARMING_TOKENS, settings.max_new_tokens))
            await engine.generate(prompt, short).wait()
        yield engine
