"""The runner against the library's own forward and generate, which share none of its code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, PhiConfig

from pearl.actors.runners import library
from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.actors.runners.interface import Runner
from pearl.actors.runners.passes import passes
from pearl.actors.runners.shelves import BLOCK
from pearl.decoding.errors import ModelError, PearlError, PromptError, ProtocolError
from tests.actors.runners.models import (
    CONFIGS,
    POSITIONS,
    SHARING,
    VOCAB,
    check_feeds_at_will,
    close,
    feed,
    model_of,
    plain,
    runner_of,
    text,
)

every_architecture = pytest.mark.parametrize("architecture", CONFIGS)
every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)


@every_device
@every_architecture
def test_one_token_at_a_time_it_writes_what_generate_writes(architecture: str, device: str) -> None:
    """Longer than the sliding windows, so that what leaves a window is really forgotten."""
    model, runner = model_of(architecture, device), runner_of(architecture, device)
    prompt, length = text(11, seed=1), 30

    written = greedy(runner, prompt, length)

    assert written == generated(model, prompt, length)


@every_device
@every_architecture
def test_windows_of_different_length_read_together_are_the_plain_forward(
    architecture: str, device: str
) -> None:
    """The ragged pass of a target that judges for several requests."""
    model, runner = model_of(architecture, device), runner_of(architecture, device)
    texts = [text(20, seed=1), text(9, seed=2), text(33, seed=3)]
    windows = [1, 7, 4]
    rows = [runner.allocate(40) for _ in texts]
    for row, tokens, window in zip(rows, texts, windows, strict=True):
        runner.forward([feed(row, 0, tokens[:-window])])

    together = runner.forward(
        [
            feed(row, len(tokens) - window, tokens[-window:])
            for row, tokens, window in zip(rows, texts, windows, strict=True)
        ]
    )

    for logits, tokens, window in zip(together, texts, windows, strict=True):
        close(logits, plain(model, tokens)[-window:])


@every_architecture
def test_a_window_read_beside_others_is_the_window_read_alone(architecture: str) -> None:
    """Whoever shares the pass must not change a verdict."""
    texts = [text(18, seed=4), text(12, seed=5)]
    runner, other = runner_of(architecture), runner_of(architecture)
    rows = [runner.allocate(20), runner.allocate(20)]
    alone = other.allocate(20)
    runner.forward([feed(row, 0, tokens[:-5]) for row, tokens in zip(rows, texts, strict=True)])
    other.forward([feed(alone, 0, texts[0][:-5])])

    beside = runner.forward([feed(rows[0], 13, texts[0][-5:]), feed(rows[1], 7, texts[1][-5:])])[0]

    close(beside, other.forward([feed(alone, 13, texts[0][-5:])])[0])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mistral-sliding", "gpt2", "bloom"])
@settings(max_examples=12)
@given(data=st.data())
def test_whatever_is_fed_and_rolled_back_the_next_logits_are_the_plain_ones(
    architecture: str, data: st.DataObject
) -> None:
    """Three rows, any subset of them a call, any start up to the end, any number of tokens."""
    model, runner = model_of(architecture), runner_of(architecture)
    check_feeds_at_will(runner, model, data)


@pytest.mark.parametrize("architecture", SHARING)
def test_rows_that_can_share_a_pass_do(architecture: str) -> None:
    """A pass reads all weights: two passes where one is enough cost twice."""
    runner = runner_of(architecture)
    feeds = [feed(runner.allocate(20), 0, text(n, seed=n)) for n in (3, 5, 17)]

    runner.forward(feeds)

    assert runner.statistics().passes == 1


def test_an_idle_row_in_the_range_keeps_what_it_holds() -> None:
    """It is read along, since the range is a view, and writes behind its own end."""
    model, runner = model_of("llama"), runner_of("llama")
    tokens = text(13, seed=6)
    first, idle, last = (runner.allocate(32) for _ in range(3))
    runner.forward([feed(idle, 0, tokens[:12])])

    runner.forward([feed(first, 0, text(9, seed=7)), feed(last, 0, text(4, seed=8))])

    close(runner.forward([feed(idle, 12, tokens[12:])])[0], plain(model, tokens)[12:])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_padding_does_not_stand_beyond_the_last_position_of_the_model(architecture: str) -> None:
    """Where positions are a table, there is nothing to look up behind its end."""
    model, runner = model_of(architecture), runner_of(architecture)
    full, short = text(POSITIONS, seed=20), text(5, seed=21)
    rows = [runner.allocate(POSITIONS), runner.allocate(5)]
    runner.forward([feed(rows[0], 0, full[:-1])])

    last, other = runner.forward([feed(rows[0], POSITIONS - 1, full[-1:]), feed(rows[1], 0, short)])

    close(last, plain(model, full)[-1:])
    close(other, plain(model, short))


def test_a_released_row_is_the_next_to_be_used_and_remembers_nothing() -> None:
    """The lowest free row comes first, so that rows in use stay close together."""
    model, runner = model_of("llama"), runner_of("llama")
    rows = [runner.allocate(16) for _ in range(3)]
    runner.forward([feed(row, 0, text(16, seed=row)) for row in rows])
    runner.release(rows[2])
    runner.release(rows[1])

    again, after = runner.allocate(16), runner.allocate(16)

    assert [again, after] == rows[1:]
    fresh = text(5, seed=9)
    close(runner.forward([feed(again, 0, fresh)])[0], plain(model, fresh))


def test_growing_keeps_what_the_rows_hold() -> None:
    """More rows, then longer ones: both make new buffers."""
    model, runner = model_of("llama"), runner_of("llama")
    tokens = text(100, seed=10)
    row = runner.allocate(8)
    runner.forward([feed(row, 0, tokens[:8])])

    for _ in range(5):
        runner.allocate(8)
    runner.forward([feed(row, 8, tokens[8:12])])
    logits = runner.forward([feed(row, 12, tokens[12:])])[0]

    close(logits, plain(model, tokens)[12:])


def test_one_long_prompt_takes_memory_for_one_row() -> None:
    """Memory comes with what is written, not with the most that could come, block by block."""
    runner = runner_of("llama")
    row, other = runner.allocate(150), runner.allocate(150)

    runner.forward([feed(row, 0, text(150, seed=11), logits=1)])
    one = runner.statistics().cache_bytes
    runner.forward([feed(other, 0, [1])])

    layers, keys_and_values, heads, width, number = 2, 2, 2, 8, 4
    position = layers * keys_and_values * heads * width * number
    assert one == 2 * BLOCK * position
    assert runner.statistics().cache_bytes == 3 * BLOCK * position


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "mistral-sliding"])
def test_one_token_of_one_row_makes_no_mask(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft's step: attention gets just the positions in use, so nothing is to hide."""
    runner = runner_of(architecture, spare=False)
    row = runner.allocate(64)
    runner.forward([feed(row, 0, text(5, seed=12))])
    seen = attention_calls(monkeypatch)

    runner.forward([feed(row, 5, text(1, seed=13))])

    assert seen == [(6, None)] * len(seen)
    assert len(seen) == 2


def test_a_window_of_one_row_gets_a_slice_of_a_mask_that_exists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The target's pass: two windows at different places share the memory of their masks."""
    runner = runner_of("llama", spare=False)
    row = runner.allocate(64)
    runner.forward([feed(row, 0, text(20, seed=14))])
    runner.forward([feed(row, 20, text(4, seed=15))])
    seen = attention_calls(monkeypatch)

    runner.forward([feed(row, 21, text(4, seed=15))])
    runner.forward([feed(row, 24, text(8, seed=16))])

    memories = {mask.untyped_storage().data_ptr() for _, mask in seen if mask is not None}
    assert [length for length, _ in seen] == [25, 25, 32, 32]
    assert len(memories) == 1


def test_a_prompt_does_not_pad_the_windows_beside_it() -> None:
    """Or every request would wait as long as the longest prompt takes."""
    runner = runner_of("llama")
    rows = [runner.allocate(150) for _ in range(3)]

    runner.forward([feed(r, 0, text(n, seed=n)) for r, n in zip(rows, (1, 2, 150), strict=True)])

    assert runner.statistics().passes == 2
    assert runner.statistics().padding == 1


def test_rows_far_apart_do_not_share_a_pass() -> None:
    """All rows between them would be read along."""
    near = [feed(0, 0, [1]), feed(3, 0, [1, 2])]
    far = [feed(40, 0, [1])]

    assert passes([*far, *near]) == [near, far]


def test_a_long_prompt_read_in_pieces_has_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces bound the memory of a pass; the wanted logits may span two of them."""
    monkeypatch.setattr(library, "PIECE", 8)
    model, runner = model_of("gemma2"), runner_of("gemma2")
    tokens = text(27, seed=17)

    logits = runner.forward([feed(runner.allocate(27), 0, tokens, logits=6)])[0]

    close(logits, plain(model, tokens)[-6:])


def test_a_feed_that_wants_no_logits_gets_none() -> None:
    """A prompt that is only read."""
    runner = runner_of("llama")
    rows = [runner.allocate(8), runner.allocate(8)]

    alone = runner.forward([feed(rows[0], 0, [1, 2], logits=0)])
    together = runner.forward([feed(row, 0, [1, 2], logits=0) for row in rows])

    assert [tuple(logits.shape) for logits in alone + together] == [(0, VOCAB)] * 3


def test_logits_are_cut_to_the_vocabulary_of_the_pair() -> None:
    """What the tokenizer cannot print is not in the row, so nobody can draw it."""
    runner = runner_of("llama", vocab_size=90)
    tokens = [3, 89]

    logits = runner.forward([feed(runner.allocate(2), 0, tokens)])[0]

    assert runner.vocab_size == 90
    close(logits, plain(model_of("llama"), tokens)[:, :90])


@every_device
def test_half_precision_stays_close_and_its_logits_are_float32(device: str) -> None:
    """What is computed in bfloat16 is still compared and warped in float32."""
    config = CONFIGS["llama"]()
    torch.manual_seed(3)
    model = type(model_of("llama"))(config).eval().to(device, torch.bfloat16)
    runner = HuggingFaceRunner(model)
    texts = [text(12, seed=18), text(10, seed=19)]
    rows = [runner.allocate(16) for _ in texts]
    runner.forward([feed(r, 0, t[:-3]) for r, t in zip(rows, texts, strict=True)])

    got = runner.forward([feed(r, len(t) - 3, t[-3:]) for r, t in zip(rows, texts, strict=True)])

    for logits, tokens in zip(got, texts, strict=True):
        assert logits.dtype == torch.float32
        close(logits, plain(model, tokens)[-3:], tolerance=0.05)


def test_a_model_with_a_recurrent_state_is_refused_by_name() -> None:
    """A state that has read a rejected token cannot forget it."""
    with pytest.raises(ModelError) as refused:
        runner_of("mamba")

    assert str(refused.value) == (
        "MambaForCausalLM carries a recurrent state, which cannot be rolled back after a rejected "
        "token; choose a model whose layers are all attention"
    )


def test_a_model_that_answers_differently_the_second_time_is_refused() -> None:
    """Whatever the reason: no list of architectures would know it, so a new runner tries."""
    model = type(model_of("llama"))(CONFIGS["llama"]()).eval()
    calls = []

    def restless(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return output.roll(len(calls), dims=-1)

    model.lm_head.register_forward_hook(restless)

    with pytest.raises(ModelError, match="LlamaForCausalLM cannot be rolled back"):
        HuggingFaceRunner(model)


@pytest.mark.parametrize(
    ("feeds", "error", "message"),
    [
        ([feed(5, 0, [1])], ProtocolError, "row 5 is not in use; in use are [0, 1]"),
        ([feed(0, 4, [1])], ProtocolError, "row 0 holds 3 tokens; a feed cannot start at 4"),
        (
            [feed(0, 3, [])],
            ProtocolError,
            (
                "a feed of 0 tokens asks for 0 logits; it has at least one token and at most "
                "as many logits"
            ),
        ),
        (
            [feed(0, 3, [1], logits=2)],
            ProtocolError,
            (
                "a feed of 1 tokens asks for 2 logits; it has at least one token and at most "
                "as many logits"
            ),
        ),
        (
            [feed(0, 3, [VOCAB])],
            ProtocolError,
            f"token {VOCAB} is outside the vocabulary of {VOCAB} tokens",
        ),
        (
            [feed(0, 3, [1] * POSITIONS)],
            PromptError,
            f"a sequence of {POSITIONS + 3} tokens; LlamaForCausalLM holds at most {POSITIONS}",
        ),
        (
            [feed(0, 3, [1]), feed(0, 3, [2])],
            ProtocolError,
            "rows [0, 0]: one is fed twice in one call",
        ),
        ([feed(1, 0, [1]), feed(0, 9, [2])], ProtocolError, "row 0 holds 3 tokens"),
    ],
)
def test_a_feed_that_cannot_be_is_refused_and_changes_nothing(
    feeds: list[Any], error: type[PearlError], message: str
) -> None:
    """Everything is checked before anything is read: on a GPU a bad token ends the process."""
    runner = runner_of("llama")
    rows = [runner.allocate(8), runner.allocate(8)]
    runner.forward([feed(rows[0], 0, [4, 5, 6])])
    before = runner.statistics()

    with pytest.raises(error) as refused:
        runner.forward(feeds)

    assert str(refused.value).startswith(message)
    assert runner.statistics() == before


def test_a_row_longer_than_the_model_is_not_given() -> None:
    """Known when the row is asked for, not after thousands of tokens."""
    runner = runner_of("llama")

    with pytest.raises(PromptError, match=f"{POSITIONS + 1} positions asked for"):
        runner.allocate(POSITIONS + 1)

    assert runner.statistics().rows == 0


def test_a_row_is_released_once() -> None:
    """Or two sequences would be given the same row."""
    runner = runner_of("llama")
    row = runner.allocate(4)
    runner.release(row)

    with pytest.raises(ProtocolError, match="row 0 is not in use"):
        runner.release(row)


def test_a_runner_counts_what_it_reads() -> None:
    """Padding is counted apart: it is the price of sharing a pass."""
    runner = runner_of("llama")
    rows = [runner.allocate(8), runner.allocate(8)]

    runner.forward([feed(rows[0], 0, [1, 2, 3]), feed(rows[1], 0, [4])])
    runner.forward([feed(rows[0], 2, [5])])

    counted = runner.statistics()
    assert (counted.passes, counted.tokens, counted.padding, counted.rows) == (2, 5, 2, 2)


def greedy(runner: Runner, prompt: list[int], length: int) -> list[int]:
    row = runner.allocate(len(prompt) + length)
    written: list[int] = []
    tokens, start = prompt, 0
    while len(written) < length:
        logits = runner.forward([feed(row, start, tokens, logits=1)])[0]
        start += len(tokens)
        tokens = [int(logits[0].argmax())]
        written += tokens
    return written


def generated(model: Any, prompt: list[int], length: int) -> list[int]:
    """Greedy, to the full length: the end token is one like any other."""
    ids = torch.tensor([prompt], device=model.device)
    written = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=length,
        min_new_tokens=length,
        eos_token_id=None,
        pad_token_id=0,
    )
    tokens: list[int] = written[0, len(prompt) :].tolist()
    return tokens


def attention_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor | None]]:
    """From now on, the number of keys and the mask of every call of torch's attention."""
    seen: list[tuple[int, Tensor | None]] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.append((key.shape[2], options.get("attn_mask")))
        return attention(query, key, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    return seen


def _phi() -> Any:
    """A tiny model whose head has a bias of its own."""
    torch.manual_seed(5)
    config = PhiConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def test_a_model_that_masks_tokens_out_is_read_like_any_other() -> None:
    """Minus infinity in its logits is no difference between two ways to read it."""
    model = _phi()
    with torch.no_grad():
        model.lm_head.bias[[2, 7]] = -torch.inf
    runner, tokens = HuggingFaceRunner(model), text(9, seed=3)

    (logits,) = runner.forward([feed(runner.allocate(9), 0, tokens)])

    assert runner.statistics().slower.startswith("PhiForCausalLM runs by the library")
    assert set(logits.isneginf().nonzero()[:, 1].tolist()) == {2, 7}


def test_a_model_that_gives_no_numbers_is_told_as_such() -> None:
    model = _phi()
    with torch.no_grad():
        model.lm_head.bias.fill_(torch.nan)

    with pytest.raises(ModelError, match="PhiForCausalLM gives NaN for any text; its weights are"):
        HuggingFaceRunner(model)
