"""Prompts as they may be given, and texts to their ends, with a whole engine in this process."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from transformers import AutoTokenizer

from pearl.actors.engine import Engine
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.decoding.errors import PromptError, SettingError
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason
from tests.actors.pairs import END, SavedPair, save_pair_of, with_added, with_end, with_hidden
from tests.actors.requests import AR, PROMPTS, VARIANTS, sampled
from tests.actors.tokenizers import KINDS, before_stop

pytestmark = pytest.mark.asyncio(loop_scope="module")

Tokens: TypeAlias = tuple[int, ...]
PROMPT: Final = PROMPTS[0]
PEARL: Final = VARIANTS["PEARL 4"]


def _engine_settings(pair: SavedPair) -> EngineSettings:
    return EngineSettings(
        target=str(pair.target), draft=str(pair.draft), devices=Devices.LOCAL, gpus=0
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(text_pair: SavedPair) -> AsyncIterator[Engine]:
    async with await Engine.start(_engine_settings(text_pair)) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def letters(letter_pair: SavedPair) -> AsyncIterator[Engine]:
    async with await Engine.start(_engine_settings(letter_pair)) as engine:
        yield engine


async def _tokens(engine: Engine, settings: Settings, prompt: str = PROMPT) -> Tokens:
    return (await engine.generate(prompt, settings).wait()).token_ids


# -- prompts ---------------------------------------------------------------------------------------


async def test_an_empty_prompt_is_one_only_where_the_tokenizer_makes_tokens_of_it(
    engine: Engine, letters: Engine
) -> None:
    """Most put a token in front of every text, and a text can begin with that."""
    result = await engine.generate("", AR).wait()

    assert result.prompt_tokens == 1
    assert result.token_ids == (await engine.generate([0], AR).wait()).token_ids
    with pytest.raises(PromptError, match="the prompt has 0 tokens"):
        letters.generate("", AR)


async def test_a_prompt_may_be_given_as_tokens(engine: Engine, text_pair: SavedPair) -> None:
    ids = AutoTokenizer.from_pretrained(text_pair.target)(PROMPT)["input_ids"]
    expected = await _tokens(engine, AR)

    for prompt in (ids, tuple(ids), np.array(ids), np.array(ids, np.int32)):
        result = await engine.generate(prompt, AR).wait()
        assert (result.prompt_tokens, result.token_ids) == (len(ids), expected)


async def test_a_rendered_prompt_that_has_its_first_token_gets_no_other(engine: Engine) -> None:
    rendered = await engine.generate(END + PROMPT, AR).wait()

    assert rendered.prompt_tokens == (await engine.generate(PROMPT, AR).wait()).prompt_tokens
    assert rendered.token_ids == await _tokens(engine, AR)


async def test_a_token_that_the_models_have_no_row_for_is_refused(
    text_pair: SavedPair, tmp_path: Path
) -> None:
    """Somebody added it to the tokenizer, and never to the models."""
    pair = with_added(text_pair, tmp_path, "<|user|>")
    async with await Engine.start(_engine_settings(pair)) as other:
        with pytest.raises(PromptError, match="token 1 of the prompt is 300; it must be"):
            other.generate("<|user|>hello", AR)


# -- texts and their ends --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["bytes as in Llama", "bytes, cleaned", "spaces, always", "pieces, cleaned twice"]
)
async def test_pieces_joined_are_the_text_to_its_end_with_every_kind_of_tokenizer(
    kind: str, tmp_path: Path
) -> None:
    """Random models write what no other does: bytes that are no text, hidden tokens, anything."""
    tokenizer = KINDS[kind]
    async with await Engine.start(_engine_settings(save_pair_of(tokenizer, tmp_path))) as other:
        for seed in range(4):
            settings = sampled(PEARL, 1.0, seed)
            whole = await other.generate([3, 4], settings).wait()
            assert whole.text == tokenizer.decode(whole.token_ids, skip_special_tokens=True)

            stop = re.findall("[^\ufffd]{2}", whole.text)[-1]
            stopped = msgspec.structs.replace(settings, stop=(stop,))
            generation = other.generate([3, 4], stopped)
            pieces = [piece.text async for piece in generation]

            result = generation.result
            text = tokenizer.decode(result.token_ids, skip_special_tokens=True)
            assert result.finish_reason is FinishReason.STOP
            assert result.token_ids == whole.token_ids[: len(result.token_ids)]
            assert "".join(pieces) == result.text == before_stop(text, [stop])


async def test_a_special_token_ends_a_text_that_does_not_show_it(
    text_pair: SavedPair, tmp_path: Path, engine: Engine
) -> None:
    """As `<|im_end|>` does: by its name, on every schedule, and what ended it is not shown."""
    alone = await _tokens(engine, AR)
    pair, name = with_hidden(text_pair, tmp_path, alone[12])
    async with await Engine.start(_engine_settings(pair)) as other:
        for settings in (AR, *VARIANTS.values()):
            stopped = msgspec.structs.replace(settings, stop=("never there", name))
            result = await other.generate(PROMPT, stopped).wait()

            assert result.token_ids == alone[: alone.index(alone[12]) + 1]
            assert result.finish_reason is FinishReason.STOP
            assert result.text == other._pair.detokenizer(result.token_ids)
            assert result.metrics.kept <= len(result.token_ids) == result.metrics.tokens


async def test_a_stop_text_around_a_special_token_is_refused(engine: Engine) -> None:
    settings = msgspec.structs.replace(AR, stop=("END", f"\n{END}"))

    with pytest.raises(SettingError, match="is hidden from the text, so give it alone"):
        engine.generate(PROMPT, settings)


async def test_behind_the_end_of_a_text_nothing_counts(
    text_pair: SavedPair, tmp_path: Path, engine: Engine
) -> None:
    """A draft that is the target: two windows of five with a token each, and one of a third."""
    alone = await _tokens(engine, AR)
    end = next(at for at in range(6, 30) if at % 6 == 0 and alone[at] not in alone[:at])
    pair = with_end(text_pair, tmp_path, alone[end])
    pair = SavedPair(target=pair.target, draft=pair.target)
    async with await Engine.start(_engine_settings(pair)) as twins:
        m = (await twins.generate(PROMPT, VARIANTS["SD 5"]).wait()).metrics

    windows = end // 6
    assert (m.tokens, m.target_passes) == (end + 1, windows + 1)
    assert (m.kept, m.rejections) == (5 * windows + 1, 0)
