"""A whole engine in this process, with tiny models: what it writes is the target's own text."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
import pytest
import pytest_asyncio
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pearl.actors.engine import Engine, Piece
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.placing import places
from pearl.actors.text import Prompt
from pearl.decoding import trace
from pearl.decoding.errors import (
    PairError,
    PeerError,
    PlacementError,
    PromptError,
    ProtocolError,
    SettingError,
)
from pearl.decoding.messages import Role
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason
from tests.actors.pairs import POSITIONS, SavedPair, with_end, with_short_draft
from tests.actors.requests import AR, PROMPTS, TOKENS, VARIANTS, all_at_once, sampled
from tests.decoding.certainty import chi_square_limit

pytestmark = pytest.mark.asyncio(loop_scope="module")

Tokens: TypeAlias = tuple[int, ...]
PROMPT: Final = PROMPTS[0]


def _engine_settings(pair: SavedPair) -> EngineSettings:
    return EngineSettings(
        target=str(pair.target), draft=str(pair.draft), devices=Devices.LOCAL, gpus=0
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(text_pair: SavedPair) -> AsyncIterator[Engine]:
    async with await Engine.start(_engine_settings(text_pair)) as engine:
        yield engine


async def _tokens(engine: Engine, settings: Settings, prompt: str = PROMPT) -> Tokens:
    return (await engine.generate(prompt, settings).wait()).token_ids


# -- the same tokens -------------------------------------------------------------------------------


async def test_greedy_is_what_the_library_itself_generates(
    engine: Engine, text_pair: SavedPair
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(text_pair.target)
    tokenizer = AutoTokenizer.from_pretrained(text_pair.target)
    for prompt in PROMPTS[:4]:
        ids = tokenizer(prompt, return_tensors="pt")
        whole = model.generate(**ids, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
        expected = whole[0, ids["input_ids"].shape[1] :].tolist()

        result = await engine.generate(prompt, VARIANTS["PEARL 4"]).wait()

        assert list(result.token_ids) == expected
        assert result.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert result.prompt_tokens == ids["input_ids"].shape[1]
        assert result.finish_reason is FinishReason.LENGTH


@pytest.mark.slow
@pytest.mark.parametrize("gamma", range(1, 17))
async def test_greedy_is_the_same_at_every_gamma(engine: Engine, gamma: int) -> None:
    alone = await _tokens(engine, AR)

    for schedule in ("sd", "pearl"):
        settings = Settings(schedule=schedule, gamma=gamma, max_new_tokens=TOKENS)
        assert await _tokens(engine, settings) == alone


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(VARIANTS))
async def test_coupled_gives_a_seed_the_same_tokens_on_every_schedule(
    engine: Engine, variant: str
) -> None:
    for temperature, seed in itertools.product((0.7, 1.0), (0, 1)):
        alone = await _tokens(engine, sampled(AR, temperature, seed))

        assert await _tokens(engine, sampled(VARIANTS[variant], temperature, seed)) == alone


@pytest.mark.slow
async def test_filters_leave_the_schedules_alike(engine: Engine) -> None:
    sampling = Sampling(temperature=0.9, top_k=40, top_p=0.9, min_p=0.02)
    alone = await _tokens(engine, msgspec.structs.replace(AR, sampling=sampling))

    for settings in VARIANTS.values():
        assert await _tokens(engine, msgspec.structs.replace(settings, sampling=sampling)) == alone


async def test_another_seed_gives_other_tokens(engine: Engine) -> None:
    settings = VARIANTS["PEARL 4"]

    found = {await _tokens(engine, sampled(settings, 1.0, seed)) for seed in (-1, 0, 1, 2**63 - 1)}

    assert len(found) == 4


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
async def test_company_changes_nothing(engine: Engine, temperature: float) -> None:
    """Eight requests in flight, of different length and schedule, share passes."""
    kinds = [AR, *VARIANTS.values()][: len(PROMPTS)]
    asked = [
        (prompt, sampled(settings, temperature, seed))
        for seed, (prompt, settings) in enumerate(zip(PROMPTS, kinds, strict=True))
    ]
    alone = [
        await _tokens(engine, sampled(AR, temperature, seed), prompt)
        for seed, (prompt, _) in enumerate(asked)
    ]

    together = [result.token_ids for result in await all_at_once(engine, asked)]

    assert together == alone


# -- rejection -------------------------------------------------------------------------------------

SEEDS: Final = 2500
HOT: Final = 2.5  # no outcome is rare
AT_ONCE: Final = 100


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def letters(letter_pair: SavedPair) -> AsyncIterator[Engine]:
    async with await Engine.start(_engine_settings(letter_pair)) as engine:
        yield engine


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        Settings(schedule="sd", gamma=2),
        Settings(gamma=1),
        Settings(gamma=2),
        Settings(gamma=3, head_start=1),
    ],
    ids=["SD 2", "PEARL 1", "PEARL 2", "PEARL 3 after 1"],
)
async def test_rejection_draws_from_the_law_of_the_target(
    letters: Engine, letter_pair: SavedPair, settings: Settings
) -> None:
    """The joint law of three tokens, enumerated; four letters leave 64 outcomes."""
    sampling = Sampling(temperature=HOT)
    asked = [
        msgspec.structs.replace(
            settings, verifier="rejection", sampling=sampling, max_new_tokens=3, seed=s
        )
        for s in range(SEEDS)
    ]
    found: Counter[Tokens] = Counter()
    rejections = kept = 0
    for start in range(0, SEEDS, AT_ONCE):
        group = [("ab", one) for one in asked[start : start + AT_ONCE]]
        for result in await all_at_once(letters, group):
            found[result.token_ids] += 1
            rejections += result.metrics.rejections
            kept += result.metrics.kept

    expected = {t: SEEDS * p for t, p in _law(letter_pair, (0, 1), sampling).items()}
    statistic = sum((found[t] - n) ** 2 / n for t, n in expected.items())
    assert min(expected.values()) > 5, "or the statistic has another law"
    assert set(found) <= set(expected)
    assert statistic < chi_square_limit(len(expected) - 1)
    assert min(rejections, kept) > 100


def _law(pair: SavedPair, prompt: Tokens, sampling: Sampling) -> dict[Tokens, float]:
    """The target's own law of the next three tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(pair.target)
    law: dict[Tokens, float] = {(): 1.0}
    with torch.no_grad():
        for _ in range(3):
            rows = {
                text: sampling.laws(model(torch.tensor([[*prompt, *text]])).logits[0, -1:])[0]
                for text in law
            }
            law = {
                (*text, token): law[text] * float(p)
                for text, row in rows.items()
                for token, p in enumerate(row)
            }
    return law


# -- ends ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_limit_is_met_exactly(engine: Engine) -> None:
    alone = await _tokens(engine, AR)

    for limit in (1, 2, 3, 7, TOKENS):
        for settings in VARIANTS.values():
            short = msgspec.structs.replace(settings, max_new_tokens=limit)
            assert await _tokens(engine, short) == alone[:limit]


async def test_a_text_ends_at_the_first_end_of_sequence(
    text_pair: SavedPair, tmp_path: Path, engine: Engine
) -> None:
    """Inside a window, at its border, or as the target's own token: nothing comes after it."""
    alone = await _tokens(engine, AR)
    eos = alone[12]
    pair = with_end(text_pair, tmp_path, eos)
    async with await Engine.start(_engine_settings(pair)) as other:
        results = await all_at_once(other, [(PROMPT, s) for s in (AR, *VARIANTS.values())])

    for result in results:
        assert result.token_ids == alone[: alone.index(eos) + 1]
        assert result.finish_reason is FinishReason.EOS


async def test_a_text_ends_before_the_first_stop_string(engine: Engine) -> None:
    seed = 0
    whole = await engine.generate(PROMPT, sampled(AR, 1.0, seed)).wait()
    while not (found := re.search("[ -~]{2}", whole.text[8:])):
        seed += 1
        whole = await engine.generate(PROMPT, sampled(AR, 1.0, seed)).wait()
    stop = found[0]
    for settings in (AR, *VARIANTS.values()):
        asked = sampled(settings, 1.0, seed)
        stopped = msgspec.structs.replace(asked, stop=("never there", stop))
        generation = engine.generate(PROMPT, stopped)
        pieces = [piece async for piece in generation]

        assert generation.result.text == whole.text[: whole.text.index(stop)]
        assert generation.result.finish_reason is FinishReason.STOP
        assert _joined(pieces) == generation.result.text
        count = len(generation.result.token_ids)
        assert generation.result.token_ids == whole.token_ids[:count]


async def test_pieces_joined_are_the_text(engine: Engine) -> None:
    """Also where characters of several bytes are cut by tokens and by windows."""
    for prompt in PROMPTS:
        generation = engine.generate(prompt, sampled(VARIANTS["PEARL 4"], 1.0))
        pieces = [piece async for piece in generation]

        assert _joined(pieces) == generation.result.text
        assert tuple(t for piece in pieces for t in piece.token_ids) == generation.result.token_ids


def _joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


async def test_an_aborted_generation_keeps_what_was_committed(engine: Engine) -> None:
    whole = await _tokens(engine, msgspec.structs.replace(AR, max_new_tokens=400))
    generation = engine.generate(PROMPT, Settings(gamma=2, max_new_tokens=400))
    async for _ in generation:
        generation.abort()

    result = generation.result

    assert result.finish_reason is None
    assert 0 < len(result.token_ids) < 400
    assert result.token_ids == whole[: len(result.token_ids)]


async def test_a_result_is_there_only_at_the_end(engine: Engine) -> None:
    generation = engine.generate(PROMPT, AR)

    with pytest.raises(ProtocolError, match="still running"):
        _ = generation.result
    assert await generation.wait() == generation.result
    assert await generation.wait() == generation.result


# -- figures ---------------------------------------------------------------------------------------


async def test_the_figures_of_a_run_agree_with_each_other(engine: Engine) -> None:
    for settings in (AR, *VARIANTS.values()):
        m = (await engine.generate(PROMPT, sampled(settings, 0.7)).wait()).metrics

        assert m.tokens == TOKENS
        assert m.tokens_per_target_pass == TOKENS / m.target_passes
        assert m.kept <= m.drafted <= m.draft_steps
        assert 0 <= m.draft_idle <= 1
        assert 0 <= m.target_idle <= 1
        assert 0 <= m.wasted <= 1
        assert 0 < m.time_to_first_token_s <= m.seconds
        assert m.schedule == settings.schedule
        assert m.verifier == "coupled"
        assert m.draft_losses == m.target_losses == 0


async def test_alone_the_target_makes_a_pass_a_token(engine: Engine) -> None:
    m = (await engine.generate(PROMPT, AR).wait()).metrics

    assert m.target_passes == m.rounds == TOKENS
    assert (m.draft_steps, m.gamma, m.draft_idle, m.acceptance_rate) == (0, 0, 1.0, None)


async def test_pearl_with_a_window_of_one_makes_as_many_passes_as_the_target_alone(
    engine: Engine,
) -> None:
    """Its window holds the one token that the pass beside it gives anyway."""
    m = (await engine.generate(PROMPT, VARIANTS["PEARL 1"]).wait()).metrics

    assert m.target_passes == TOKENS


async def test_every_pass_of_a_speculative_run_gives_a_token_more_than_it_keeps(
    engine: Engine,
) -> None:
    m = (await engine.generate(PROMPT, VARIANTS["SD 5"]).wait()).metrics

    assert m.tokens == m.kept + m.target_passes


async def test_a_trace_can_be_written_and_read_back(engine: Engine, tmp_path: Path) -> None:
    generation = engine.generate(PROMPT, VARIANTS["PEARL 4"], trace=True)
    result = await generation.wait()
    path = tmp_path / "run.json"
    trace.write(path, result.trace, models="tiny")

    header, records, whole = trace.read(path)

    assert whole
    assert header.about == {"models": "tiny"}
    assert tuple(records) == result.trace
    events = msgspec.json.decode(path.read_bytes())
    assert {"X", "s", "f", "i", "M"} <= {event["ph"] for event in events if event}
    assert {event["tid"] for event in events if event.get("ph") == "X"} == {1, 2}


async def test_a_trace_that_was_cut_off_is_read_as_far_as_it_goes(
    engine: Engine, tmp_path: Path
) -> None:
    result = await engine.generate(PROMPT, VARIANTS["PEARL 4"], trace=True).wait()
    path = tmp_path / "run.json"
    trace.write(path, result.trace)
    text = path.read_bytes()
    path.write_bytes(text[: 3 * len(text) // 4])

    _, records, whole = trace.read(path)

    assert not whole
    assert 0 < len(records) < len(result.trace)
    assert tuple(records) == result.trace[: len(records)]


@pytest.mark.slow
@pytest.mark.parametrize("positions", [16, 24, 40])
async def test_a_draft_of_a_shorter_context_does_not_limit_the_target(
    engine: Engine, text_pair: SavedPair, tmp_path: Path, positions: int
) -> None:
    """It rests beyond, also where the prompt alone is more than it can hold."""
    short = with_short_draft(text_pair, tmp_path, positions)
    async with await Engine.start(_engine_settings(short)) as limited:
        for settings in (*VARIANTS.values(), sampled(VARIANTS["PEARL 4"], 1.0)):
            alone = msgspec.structs.replace(AR, sampling=settings.sampling)

            assert await _tokens(limited, settings) == await _tokens(engine, alone)


# -- what cannot be done ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "words"),
    [
        ("x" * 5000, AR, PromptError, "shorten it or ask for fewer new tokens"),
        ("\udcff", AR, PromptError, "not UTF-8 at character 0"),
        (PROMPT, Settings(max_new_tokens=POSITIONS), SettingError, f"holds {POSITIONS} positions"),
        ([], AR, PromptError, "the prompt has 0 tokens"),
        ([1, 300], AR, PromptError, "token 1 of the prompt is 300; it must be .* from 0 to 299"),
        (
            b"text",
            AR,
            PromptError,
            "the prompt is of type bytes; it must be text or a list",
        ),
        ([5] * POSITIONS, AR, PromptError, "shorten it or ask for fewer new tokens"),
    ],
    ids=[
        "too long",
        "no text",
        "too much wanted",
        "no tokens",
        "no token",
        "no prompt",
        "too many",
    ],
)
async def test_a_request_that_does_not_fit_is_refused_at_once(
    engine: Engine, prompt: Prompt, settings: Settings, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        engine.generate(prompt, settings)


async def test_without_a_draft_only_the_target_alone_can_be_asked_for(
    text_pair: SavedPair,
) -> None:
    settings = EngineSettings(target=str(text_pair.target), devices=Devices.LOCAL, gpus=0)
    async with await Engine.start(settings) as engine:
        with pytest.raises(SettingError, match="without a draft; name one, or take ar"):
            engine.generate(PROMPT, VARIANTS["PEARL 4"])

        assert len(await _tokens(engine, AR)) == TOKENS


async def test_a_pair_of_two_vocabularies_is_refused(
    text_pair: SavedPair, letter_pair: SavedPair
) -> None:
    pair = SavedPair(target=text_pair.target, draft=letter_pair.draft)

    with pytest.raises(PairError, match="choose a draft with the target's tokenizer"):
        await Engine.start(_engine_settings(pair))


async def test_closing_an_engine_fails_what_still_runs(text_pair: SavedPair) -> None:
    engine = await Engine.start(_engine_settings(text_pair))
    generation = engine.generate(PROMPT, Settings(gamma=2, max_new_tokens=400))
    waiting = asyncio.create_task(generation.wait())
    await asyncio.sleep(0)
    await engine.close()

    with pytest.raises(PeerError, match="start the engine again"):
        await waiting


@pytest.mark.parametrize(
    ("gpus", "present", "expected"),
    [
        (None, 0, ("cpu", "cpu")),
        (None, 1, ("cuda:0", "cuda:0")),
        (None, 8, ("cuda:1", "cuda:0")),
        (0, 2, ("cpu", "cpu")),
        (1, 2, ("cuda:0", "cuda:0")),
        (2, 2, ("cuda:1", "cuda:0")),
    ],
)
async def test_the_target_gets_a_gpu_first(
    gpus: int | None, present: int, expected: tuple[str, str]
) -> None:
    found = places((Role.DRAFT, Role.TARGET), gpus, present)

    assert (found[Role.DRAFT], found[Role.TARGET]) == expected


@pytest.mark.parametrize(("gpus", "present"), [(3, 8), (2, 1), (1, 0), (-1, 2)])
async def test_gpus_that_are_not_there_are_refused(gpus: int, present: int) -> None:
    with pytest.raises(PlacementError, match=f"{gpus}"):
        places((Role.DRAFT, Role.TARGET), gpus, present)
