"""The library's own decoding: the same text as our schedules, whoever helps."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import pytest

from pearl.actors.checking import CheckedPair
from pearl.actors.engine import Engine
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.runners.reference import (
    Assistance,
    Reference,
    ReferenceRequest,
    ReferenceSpec,
)
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from tests.actors.pairs import SavedPair, with_end
from tests.actors.requests import AR, PROMPTS, TOKENS

WAYS = {
    "alone": None,
    "its own defaults": Assistance(),
    "3 tokens": Assistance(tokens=3, threshold=0.0),
    "8 tokens or less": Assistance(tokens=8, threshold=0.4),
}


def _spec(pair: SavedPair) -> ReferenceSpec:
    return ReferenceSpec(target=str(pair.target), draft=str(pair.draft))


def _fitted(pair: SavedPair) -> CheckedPair:
    return CheckedPair(
        EngineSettings(
            target=str(pair.target), draft=str(pair.draft), devices=Devices.LOCAL, gpus=0
        )
    )


async def _ours(pair: SavedPair, prompts: tuple[str, ...]) -> list[tuple[int, ...]]:
    """What the target writes alone, by our own schedule."""
    async with await Engine.start_pair(_fitted(pair)) as engine:
        return [(await engine.generate(prompt, AR).wait()).token_ids for prompt in prompts]


def _asked(
    pair: SavedPair, prompt: str, assistance: Assistance | None, sampling: Sampling | None = None
) -> ReferenceRequest:
    fitted = _fitted(pair)
    return ReferenceRequest(
        prompt=fitted.encode(prompt, Settings(schedule="ar")),
        max_new_tokens=TOKENS,
        eos=fitted.eos,
        sampling=sampling or Sampling(),
        assistance=assistance,
    )


@pytest.mark.slow
async def test_greedy_it_writes_what_our_target_writes_alone(text_pair: SavedPair) -> None:
    prompts = PROMPTS[:3]
    ours = await _ours(text_pair, prompts)
    reference = Reference(_spec(text_pair))

    for way in WAYS.values():
        found = [reference.generate(_asked(text_pair, prompt, way)) for prompt in prompts]
        assert [written.tokens for written in found] == ours


async def test_both_end_a_text_at_the_same_token(text_pair: SavedPair, tmp_path: Path) -> None:
    (whole,) = await _ours(text_pair, PROMPTS[:1])
    end = next(token for at, token in enumerate(whole) if at > 5 and token not in whole[:at])
    pair = with_end(text_pair, tmp_path, end)
    (ours,) = await _ours(pair, PROMPTS[:1])
    reference = Reference(_spec(pair))

    assert ours == whole[: whole.index(end) + 1]
    for way in WAYS.values():
        assert reference.generate(_asked(pair, PROMPTS[0], way)).tokens == ours


def test_every_token_arrives_once_and_in_order(text_pair: SavedPair) -> None:
    reference = Reference(_spec(text_pair))

    for way in WAYS.values():
        written = reference.generate(_asked(text_pair, PROMPTS[0], way))
        times = [at for at, _ in written.arrivals]
        assert list(accumulate(n for _, n in written.arrivals))[-1] == len(written.tokens) == TOKENS
        assert times == sorted(times)
        assert times[0] > 0
    assert [n for _, n in reference.generate(_asked(text_pair, "a", None)).arrivals] == [1] * TOKENS


def test_a_fixed_number_of_assistant_tokens_is_never_exceeded(text_pair: SavedPair) -> None:
    reference = Reference(_spec(text_pair))

    def most(assistance: Assistance) -> int:
        written = reference.generate(_asked(text_pair, PROMPTS[0], assistance))
        return max(count for _, count in written.arrivals)

    assert most(Assistance(tokens=8, threshold=0.0)) > 2
    assert most(Assistance(tokens=1, threshold=0.0)) == 2  # the draft's, and the target's own


def test_sampling_is_ours_and_repeats_with_the_seed(letter_pair: SavedPair) -> None:
    """top-k 0 keeps all, where the library's own default keeps 50; top-k 1 is greedy."""
    reference = Reference(_spec(letter_pair))
    warm = _asked(letter_pair, "ab", None, Sampling(temperature=1.0))
    narrow = _asked(letter_pair, "ab", None, Sampling(temperature=1.0, top_k=1))
    greedy = _asked(letter_pair, "ab", None)

    assert reference.generate(warm) != reference.generate(greedy)
    assert reference.generate(warm).tokens == reference.generate(warm).tokens
    assert reference.generate(narrow).tokens == reference.generate(greedy).tokens
