"""A draft whose tokens are not all the target's: the target writes what it writes alone."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from pearl.actors.checking import CheckedPair
from pearl.actors.engine import Engine, Result
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.decoding.messages import Role
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from tests.actors.pairs import SavedPair, save_letter_pair
from tests.actors.requests import AR, PROMPTS, VARIANTS, all_at_once, sampled
from tests.actors.swapped import swap
from tests.decoding.certainty import chi_square_limit

LETTERS: Final = "abcdefghijklmnopqrst"
SEEDS: Final = 1500
AT_ONCE: Final = 100


def settings(pair: SavedPair) -> EngineSettings:
    return EngineSettings(
        target=str(pair.target), draft=str(pair.draft), devices=Devices.LOCAL, gpus=0
    )


def narrow(draft: Path, rows: int) -> None:
    """Cut the draft's embedding and its logits."""
    model: Any = AutoModelForCausalLM.from_pretrained(draft)
    model.resize_token_embeddings(rows)
    model.save_pretrained(draft)


def swap_letters(draft: Path) -> None:
    """Ten letters that the target writes often: bytes are the first tokens."""
    swap(draft, *((60 + i, 80 + i) for i in range(10)))


OTHERS: Final[dict[str, Callable[[Path], None]]] = {
    "tokens in other places": swap_letters,
    "fewer rows": lambda draft: narrow(draft, 275),
    "more rows": lambda draft: narrow(draft, 320),
}


def with_draft(pair: SavedPair, at: Path, change: Callable[[Path], None]) -> SavedPair:
    """The same target, and a draft that was changed."""
    draft = Path(shutil.copytree(pair.draft, at / "draft"))
    change(draft)
    return SavedPair(target=pair.target, draft=draft)


async def written(pair: SavedPair, asked: list[tuple[str, Settings]]) -> list[Result]:
    async with await Engine.start(settings(pair)) as engine:
        return await all_at_once(engine, asked)


@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("what", OTHERS)
async def test_the_target_writes_what_it_writes_alone(
    what: str, text_pair: SavedPair, tmp_path: Path
) -> None:
    """Greedily and sampled, with every schedule; and the draft is still of use."""
    asked = [
        (prompt, sampled(one, temperature) if temperature else one)
        for prompt in PROMPTS[:3]
        for one in (AR, *VARIANTS.values())
        for temperature in (0.0, 0.8)
    ]

    alone = await written(text_pair, [(prompt, AR) for prompt, _ in asked[:1]])
    found = await written(with_draft(text_pair, tmp_path, OTHERS[what]), asked)

    texts: dict[tuple[str, float], set[tuple[int, ...]]] = {}
    for (prompt, one), result in zip(asked, found, strict=True):
        texts.setdefault((prompt, one.sampling.temperature), set()).add(result.token_ids)
    assert all(len(same) == 1 for same in texts.values())
    assert texts[PROMPTS[0], 0.0] == {alone[0].token_ids}
    assert sum(result.metrics.kept for result in found) > 0


@pytest.mark.slow
@pytest.mark.asyncio
async def test_rejection_still_draws_from_the_law_of_the_target(tmp_path: Path) -> None:
    """The second token of a text, enumerated; the draft takes two letters for each other."""
    pair = with_draft(
        save_letter_pair(tmp_path, LETTERS), tmp_path / "other", lambda draft: swap(draft, (3, 4))
    )
    law = Sampling(temperature=2.5)
    one = Settings(gamma=2, verifier="rejection", sampling=law, max_new_tokens=2)
    asked = [("ab", msgspec.structs.replace(one, seed=seed)) for seed in range(SEEDS)]

    found: Counter[int] = Counter()
    async with await Engine.start(settings(pair)) as engine:
        for start in range(0, SEEDS, AT_ONCE):
            results = await all_at_once(engine, asked[start : start + AT_ONCE])
            found.update(result.token_ids[1] for result in results)

    expected = SEEDS * second_token(pair, law)
    statistic = sum((found[i] - float(n)) ** 2 / float(n) for i, n in enumerate(expected))
    assert min(expected) > 5, "or the statistic has another law"
    assert statistic < chi_square_limit(len(LETTERS) - 1)


def second_token(pair: SavedPair, law: Sampling) -> Any:
    """The law of the second token behind "ab", whatever the first one is."""
    model: Any = AutoModelForCausalLM.from_pretrained(pair.target)
    with torch.no_grad():
        first = law.laws(model(torch.tensor([[0, 1]])).logits[0, -1:])[0]
        texts = torch.tensor([[0, 1, letter] for letter in range(len(LETTERS))])
        return first @ law.laws(model(texts).logits[:, -1])


def test_only_the_draft_is_told_what_is_foreign_to_it(text_pair: SavedPair, tmp_path: Path) -> None:
    """And a pair of one vocabulary pays nothing."""
    other = with_draft(text_pair, tmp_path, lambda draft: swap(draft, (60, 61)))

    usual = {spec.role: spec.translation for spec in CheckedPair(settings(text_pair)).specs()}
    told = {spec.role: spec.translation for spec in CheckedPair(settings(other)).specs()}

    assert usual == {Role.DRAFT: None, Role.TARGET: None}
    assert told[Role.TARGET] is None
    assert told[Role.DRAFT] == CheckedPair(settings(other)).shared
    assert CheckedPair(settings(other)).shared.foreign == (60, 61)
