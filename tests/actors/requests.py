"""Requests that the tests of engines make."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import msgspec

from pearl.actors.engine import Engine, Result
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings

PROMPTS: Final = ("def f(x):", "αβγ – 日本語 🎉", "a", "x" * 60, "\n\n", "import os", "0", "é")
"""Short and long, and of all kinds of characters."""

TOKENS: Final = 40

AR: Final = Settings(schedule="ar", max_new_tokens=TOKENS)
VARIANTS: Final[dict[str, Settings]] = {
    "SD 1": Settings(schedule="sd", gamma=1, max_new_tokens=TOKENS),
    "SD 5": Settings(schedule="sd", gamma=5, max_new_tokens=TOKENS),
    "SD auto": Settings(schedule="sd", max_new_tokens=TOKENS),
    "PEARL 1": Settings(gamma=1, max_new_tokens=TOKENS),
    "PEARL 4": Settings(gamma=4, max_new_tokens=TOKENS),
    "PEARL 4 after 1": Settings(gamma=4, head_start=1, max_new_tokens=TOKENS),
    "PEARL 3 after 6": Settings(gamma=3, head_start=6, max_new_tokens=TOKENS),
    "PEARL 4 strict": Settings(gamma=4, strict=True, max_new_tokens=TOKENS),
    "PEARL 4 after 2 strict": Settings(gamma=4, head_start=2, strict=True, max_new_tokens=TOKENS),
    "PEARL auto": Settings(max_new_tokens=TOKENS),
}
"""All ways to get the same tokens."""


def sampled(settings: Settings, temperature: float, seed: int = 0) -> Settings:
    """The same, with the coupled verifier."""
    return msgspec.structs.replace(settings, sampling=Sampling(temperature=temperature), seed=seed)


async def all_at_once(engine: Engine, asked: Iterable[tuple[str, Settings]]) -> list[Result]:
    """Submit everything, then wait for everything."""
    generations = [engine.generate(prompt, settings) for prompt, settings in asked]
    return list(await asyncio.gather(*(generation.wait() for generation in generations)))
