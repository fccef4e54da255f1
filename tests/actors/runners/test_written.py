"""The forward that is written out, against the library's own: the same logits but for rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any, Final

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, OPTConfig, SmolLM3Config

from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.actors.runners.library import LibraryForward
from pearl.actors.runners.masks import FEW_TOKENS
from pearl.actors.runners.shelves import BLOCK
from pearl.actors.runners.written import WrittenForward
from tests.actors.runners.models import (
    CONFIGS,
    SHARING,
    VOCAB,
    check_feeds_at_will,
    close,
    feed,
    plain,
    text,
)

TOLERANCE: Final = 3e-5

POSITIONS: Final = 400
TRAINED: Final = 32  # positions, before a rotation is stretched

_SHAPE: Final[dict[str, Any]] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def _llama(**changes: Any) -> LlamaConfig:
    return LlamaConfig(**_SHAPE | changes)


def _turned(kind: str, **more: Any) -> LlamaConfig:
    return _llama(rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **more})


def _gemma2(**changes: Any) -> Any:
    config = CONFIGS["gemma2"]()
    config.update(changes)
    return config


def _gemma3(**changes: Any) -> Any:
    config = CONFIGS["gemma3"]()
    config.update(changes)
    return config


KNOWN: Final[dict[str, Callable[[], Any]]] = {
    "llama": _llama,
    "llama-one-shared-head": lambda: _llama(num_key_value_heads=1),
    "llama-no-shared-heads": lambda: _llama(num_key_value_heads=4),
    "llama-wide-heads": lambda: _llama(head_dim=16),
    "llama-tied": lambda: _llama(tie_word_embeddings=True),
    "llama-large-epsilon": lambda: _llama(rms_norm_eps=0.5),
    "llama-eager": lambda: _llama(attn_implementation="eager"),
    "llama-linear": lambda: _turned("linear"),
    "llama-llama3": lambda: _turned(
        "llama3",
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=TRAINED,
    ),
    "llama-yarn": lambda: _turned("yarn", original_max_position_embeddings=TRAINED),
    "llama-biases": lambda: _llama(attention_bias=True),
    "llama-biases-inside": lambda: _llama(mlp_bias=True),
    "smollm3": lambda: SmolLM3Config(**_SHAPE | {"num_hidden_layers": 5}),
    "gemma2-capped": lambda: _gemma2(attn_logit_softcapping=1.0, final_logit_softcapping=2.0),
    "gemma3-capped": lambda: _gemma3(final_logit_softcapping=2.0),
    **{name: CONFIGS[name] for name in sorted(SHARING) if name != "llama"},
}
"""Written out; heads are shared two by two where nothing is said."""

UNKNOWN: Final[dict[str, Callable[[], Any]]] = {
    "bloom": CONFIGS["bloom"],
    "gpt-neo": CONFIGS["gpt-neo"],
    "opt": lambda: OPTConfig(**_SHAPE | {"ffn_dim": 48}),
    "llama-gelu": lambda: _llama(hidden_act="gelu"),
    "llama-dynamic": lambda: _turned("dynamic"),
    "llama-longrope": lambda: _turned(
        "longrope",
        short_factor=[1.0] * 4,
        long_factor=[2.0] * 4,
        original_max_position_embeddings=TRAINED,
    ),
}

every_known = pytest.mark.parametrize("name", KNOWN)


def _model(config: Any) -> Any:
    """Weights, norms and biases that all matter."""
    torch.manual_seed(11)
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.dim() > 1 or name.endswith("bias"):
                weights.normal_(0.0, 0.15)
            else:
                weights.uniform_(0.5, 1.5)
    return model.eval()


@cache
def _known(name: str) -> Any:
    return _model(KNOWN[name]())


def _runner(name: str, **options: Any) -> HuggingFaceRunner:
    runner = HuggingFaceRunner(_known(name), **options)
    assert isinstance(runner._network, WrittenForward)
    return runner


# -- where it is used ------------------------------------------------------------------------------


@every_known
def test_what_the_table_knows_is_written_out(name: str) -> None:
    runner = HuggingFaceRunner(_known(name))

    assert isinstance(runner._network, WrittenForward)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_written_out_the_library_runs(name: str) -> None:
    """Another architecture, activation or rotation."""
    model = _model(UNKNOWN[name]())
    tokens = text(20, seed=1)

    runner = HuggingFaceRunner(model)

    assert isinstance(runner._network, LibraryForward)
    close(
        runner.forward([feed(runner.allocate(20), 0, tokens)])[0], plain(model, tokens), TOLERANCE
    )


def test_of_half_precision_the_shorter_one_is_left_to_the_library() -> None:
    runner = HuggingFaceRunner(_model(_llama()).to(torch.float16))

    assert isinstance(runner._network, LibraryForward)
    assert "its weights are torch.float16" in runner.statistics().slower


def test_without_memory_to_spare_the_weights_are_not_copied() -> None:
    runner = HuggingFaceRunner(_known("llama"), spare=False)

    assert isinstance(runner._network, LibraryForward)
    assert "no memory for a second copy" in runner.statistics().slower


def test_that_the_library_runs_a_model_is_said_in_one_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runner = HuggingFaceRunner(_model(UNKNOWN["opt"]()))

    assert caplog.messages == [runner.statistics().slower]
    assert caplog.messages[0].startswith(
        "OPTForCausalLM runs by the library, which is slower: its layers are not among"
    )


@pytest.mark.parametrize("part", ["model.layers.1.mlp", "model.norm", "lm_head"])
def test_a_model_that_somebody_changed_is_left_to_the_library(part: str) -> None:
    """It still has the class and the configuration of one that is known: so it is compared."""
    model = _model(_llama())
    model.get_submodule(part).register_forward_hook(lambda _module, _inputs, output: 1.1 * output)
    tokens = text(20, seed=1)

    runner = HuggingFaceRunner(model)

    assert isinstance(runner._network, LibraryForward)
    close(
        runner.forward([feed(runner.allocate(20), 0, tokens)])[0], plain(model, tokens), TOLERANCE
    )


def test_a_forward_that_cannot_be_made_is_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever goes wrong in the copy, there is still the model."""

    def refuse(*_: Any) -> Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(WrittenForward, "_write", refuse)

    runner = HuggingFaceRunner(_model(_llama()))

    assert isinstance(runner._network, LibraryForward)


# -- what it computes ------------------------------------------------------------------------------


@every_known
def test_a_prompt_has_the_librarys_logits(name: str) -> None:
    runner, tokens = _runner(name), text(90, seed=2)

    logits = runner.forward([feed(runner.allocate(90), 0, tokens)])[0]

    close(logits, plain(_known(name), tokens), TOLERANCE)


@every_known
def test_a_prompt_read_in_pieces_has_them(name: str) -> None:
    """Pieces of nearly all lengths, the last one of a single token."""
    runner, tokens = _runner(name), text(43, seed=3)
    expected = plain(_known(name), tokens)
    for piece in (1, 3, 6, 7, 42):
        runner._network.piece = piece

        logits = runner.forward([feed(runner.allocate(43), 0, tokens)])[0]

        close(logits, expected, TOLERANCE)


@every_known
@pytest.mark.parametrize("count", [FEW_TOKENS - 1, FEW_TOKENS, FEW_TOKENS + 1, 2 * FEW_TOKENS])
def test_many_tokens_behind_others_have_them(name: str, count: int) -> None:
    """Beyond a width no mask is at hand, and one is made for the pass."""
    runner, tokens = _runner(name), text(count + 9, seed=4)
    row = runner.allocate(len(tokens))
    runner.forward([feed(row, 0, tokens[:9], logits=0)])

    logits = runner.forward([feed(row, 9, tokens[9:])])[0]

    close(logits, plain(_known(name), tokens)[9:], TOLERANCE)


@every_known
def test_one_token_after_the_other_has_them(name: str) -> None:
    """The draft's step; the cache grows on the way."""
    runner, tokens = _runner(name), text(40, seed=5)
    row = runner.allocate(1)

    logits = [runner.forward([feed(row, at, [token])])[0] for at, token in enumerate(tokens)]

    close(torch.cat(logits), plain(_known(name), tokens), TOLERANCE)


@every_known
@pytest.mark.parametrize("width", [2, 3, 8])
def test_windows_have_them(name: str, width: int) -> None:
    """The target's pass. Only the last rows are asked for, as it does."""
    runner, tokens = _runner(name), text(1 + 6 * width, seed=6)
    row, found = runner.allocate(len(tokens)), []
    runner.forward([feed(row, 0, tokens[:1])])
    for start in range(1, len(tokens), width):
        window = tokens[start : start + width]
        found += runner.forward([feed(row, start, window, logits=width - 1)])

    expected = plain(_known(name), tokens)
    for index, logits in enumerate(found):
        end = 1 + (index + 1) * width
        close(logits, expected[end - width + 1 : end], TOLERANCE)


@every_known
def test_rows_read_together_have_them(name: str) -> None:
    """Padding on the left, an idle row between that holds a text, and one that holds nothing."""
    runner, model = _runner(name), _known(name)
    texts = {0: text(20, seed=7), 2: text(9, seed=8), 4: text(33, seed=9)}
    idle = text(13, seed=10)
    rows = [runner.allocate(40) for _ in range(5)]
    runner.forward([feed(rows[1], 0, idle[:12])])
    ends = {0: 1, 2: 7, 4: 4}
    runner.forward([feed(rows[i], 0, tokens[: -ends[i]]) for i, tokens in texts.items()])
    before = runner.statistics().passes

    together = runner.forward(
        [feed(rows[i], len(t) - ends[i], t[-ends[i] :]) for i, t in texts.items()]
    )

    assert runner.statistics().passes == before + 1
    for (i, tokens), logits in zip(texts.items(), together, strict=True):
        close(logits, plain(model, tokens)[-ends[i] :], TOLERANCE)
    close(runner.forward([feed(rows[1], 12, idle[12:])])[0], plain(model, idle)[12:], TOLERANCE)


@every_known
def test_after_a_rollback_only_what_stands_is_seen(name: str) -> None:
    runner, tokens = _runner(name), text(24, seed=11)
    row = runner.allocate(40)
    runner.forward([feed(row, 0, tokens[:20])])
    runner.forward([feed(row, 20, text(12, seed=12))])
    runner.forward([feed(row, 9, text(3, seed=13))])

    again = runner.forward([feed(row, 9, tokens[9:20])])[0]
    after = runner.forward([feed(row, 20, tokens[20:])])[0]

    close(torch.cat([again, after]), plain(_known(name), tokens)[9:], TOLERANCE)


@every_known
def test_growing_keeps_what_the_rows_hold(name: str) -> None:
    """More rows, then longer ones."""
    runner, tokens = _runner(name), text(100, seed=14)
    row = runner.allocate(8)
    runner.forward([feed(row, 0, tokens[:8])])
    for _ in range(3):
        runner.allocate(8)
    kept = runner.forward([feed(row, 8, tokens[8:12])])[0]

    longer = runner.forward([feed(row, 12, tokens[12:])])[0]

    close(torch.cat([kept, longer]), plain(_known(name), tokens)[8:], TOLERANCE)


@pytest.mark.slow
@every_known
@settings(max_examples=10)
@given(data=st.data())
def test_whatever_is_fed_and_rolled_back_the_logits_are_the_librarys(
    name: str, data: st.DataObject
) -> None:
    """Three rows, any subset of them a call, any start up to the end, any number of tokens."""
    model, runner = _known(name), _runner(name)
    check_feeds_at_will(runner, model, data, tolerance=TOLERANCE)


@pytest.mark.parametrize("count", [1, 3, FEW_TOKENS + 1])
def test_without_logits_a_feed_is_read_all_the_same(count: int) -> None:
    """Alone and beside others."""
    runner, tokens = _runner("qwen2"), text(count + 2, seed=15)
    rows = [runner.allocate(len(tokens)) for _ in range(2)]
    runner.forward([feed(row, 0, tokens[:1]) for row in rows])

    none = runner.forward([feed(rows[0], 1, tokens[1:-1], logits=0)])
    none += runner.forward([feed(row, 1, tokens[1:-1], logits=0) for row in rows])

    assert [tuple(logits.shape) for logits in none] == [(0, VOCAB)] * 3
    for row in rows:
        last = runner.forward([feed(row, len(tokens) - 1, tokens[-1:])])[0]
        close(last, plain(_known("qwen2"), tokens)[-1:], TOLERANCE)


def test_logits_are_cut_to_the_vocabulary_of_the_pair() -> None:
    runner, tokens = _runner("llama", vocab_size=90), [3, 89, 4]

    logits = runner.forward([feed(runner.allocate(3), 0, tokens)])[0]

    close(logits, plain(_known("llama"), tokens)[:, :90], TOLERANCE)


# -- what it holds ---------------------------------------------------------------------------------


def test_the_model_it_is_made_from_keeps_its_weights() -> None:
    """Norms and scales go into the copies."""
    model, tokens = _model(_llama()), text(10, seed=16)
    before = {name: weights.clone() for name, weights in model.state_dict().items()}
    expected = plain(model, tokens)

    HuggingFaceRunner(model)

    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    close(plain(model, tokens), expected, TOLERANCE)


def test_memory_is_that_of_what_is_written_and_goes_with_the_row() -> None:
    layers, keys_and_values, heads, width, number = 2, 2, 2, 8, 4
    position = layers * keys_and_values * heads * width * number
    runner, found = _runner("llama"), []
    rows = [runner.allocate(POSITIONS) for _ in range(2)]

    for row, length in ((rows[0], 1), (rows[1], BLOCK - 1), (rows[0], BLOCK), (rows[0], 20)):
        runner.forward([feed(row, 0, text(length, seed=17), logits=1)])
        found.append(runner.statistics().cache_bytes / position / BLOCK)
    runner.release(rows[0])
    found.append(runner.statistics().cache_bytes / position / BLOCK)

    assert found == [1, 2, 3, 3, 1]


# -- bfloat16 --------------------------------------------------------------------------------------


@cache
def _rounded(name: str) -> Any:
    return _model(KNOWN[name]()).to(torch.bfloat16)


@every_known
def test_in_bfloat16_the_logits_are_nearer_to_the_exact_ones_than_the_librarys(name: str) -> None:
    """Nothing but weights, and what is multiplied with them, is rounded."""
    model, tokens = _rounded(name), text(60, seed=20)
    exact = copy.deepcopy(model).float()
    runner = HuggingFaceRunner(model)
    assert isinstance(runner._network, WrittenForward)

    logits = runner.forward([feed(runner.allocate(60), 0, tokens)])[0]

    assert logits.dtype == torch.float32
    expected = plain(exact, tokens)
    ours, theirs = logits - expected, plain(model, tokens) - expected
    assert ours.square().mean() < theirs.square().mean()


# -- the same rounding -----------------------------------------------------------------------------


def _same(name: str, dtype: str) -> HuggingFaceRunner:
    model = _known(name) if dtype == "float32" else _rounded(name)
    runner = HuggingFaceRunner(model, same_rounding=True)
    assert runner.statistics().same_rounding
    return runner


def _singly(runner: HuggingFaceRunner, tokens: list[int]) -> Tensor:
    """Logits of tokens that are read one after the other, alone."""
    row = runner.allocate(len(tokens))
    found = [runner.forward([feed(row, at, [token])])[0] for at, token in enumerate(tokens)]
    runner.release(row)
    return torch.cat(found)


every_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])


def test_bfloat16_rounds_alike_unless_told_otherwise() -> None:
    model = _rounded("llama")

    assert HuggingFaceRunner(model).statistics().same_rounding
    assert not HuggingFaceRunner(model, same_rounding=False).statistics().same_rounding


@pytest.mark.slow
@every_known
@every_dtype
def test_windows_of_all_widths_give_a_token_the_same_bits(name: str, dtype: str) -> None:
    runner, tokens = _same(name, dtype), text(152, seed=21)
    expected = _singly(runner, tokens)
    row, at = runner.allocate(len(tokens)), 0
    for width in range(1, 17):
        window = tokens[at : at + width]

        logits = runner.forward([feed(row, at, window)])[0]

        assert torch.equal(logits, expected[at : at + width]), width
        at += width


@pytest.mark.slow
@every_known
@every_dtype
@pytest.mark.parametrize("pieces", [[152], [100, 52], [64, 64, 24], [7] * 21])
def test_a_prompt_gets_the_same_bits_however_it_is_cut(
    name: str, dtype: str, pieces: list[int]
) -> None:
    """A device that was restarted reads at once what was written token by token."""
    runner, tokens = _same(name, dtype), text(sum(pieces), seed=22)
    expected = _singly(runner, tokens)
    row, at = runner.allocate(len(tokens)), 0
    for count in pieces:
        logits = runner.forward([feed(row, at, tokens[at : at + count])])[0]

        assert torch.equal(logits, expected[at : at + count])
        at += count


@pytest.mark.slow
@every_known
@every_dtype
@pytest.mark.parametrize("rows", [2, 3, 8])
def test_rows_beside_a_token_do_not_change_its_bits(name: str, dtype: str, rows: int) -> None:
    """Texts of different lengths, windows of different widths."""
    runner = _same(name, dtype)
    texts = [text(20 + 16 * i, seed=30 + i) for i in range(rows)]
    expected = [_singly(runner, tokens) for tokens in texts]
    numbers = [runner.allocate(len(tokens)) for tokens in texts]
    ends = [1 + i % 5 for i in range(rows)]
    for number, tokens, end in zip(numbers, texts, ends, strict=True):
        runner.forward([feed(number, 0, tokens[:-end], logits=0)])

    together = runner.forward(
        [
            feed(number, len(tokens) - end, tokens[-end:])
            for number, tokens, end in zip(numbers, texts, ends, strict=True)
        ]
    )

    for logits, single, end in zip(together, expected, ends, strict=True):
        assert torch.equal(logits, single[-end:])


@pytest.mark.slow
@every_known
@every_dtype
def test_after_a_rollback_the_bits_are_the_same(name: str, dtype: str) -> None:
    """What was refused still lies behind the end of the text."""
    runner, tokens = _same(name, dtype), text(40, seed=23)
    expected = _singly(runner, tokens)
    row = runner.allocate(100)
    runner.forward([feed(row, 0, tokens[:20])])
    runner.forward([feed(row, 20, text(60, seed=24))])

    again = runner.forward([feed(row, 13, tokens[13:])])[0]

    assert torch.equal(again, expected[13:])


@pytest.mark.slow
@every_dtype
def test_across_the_lengths_at_which_ranges_are_cut_the_bits_are_the_same(dtype: str) -> None:
    """Windows over every border of a range, up to several chunks."""
    model = _model(_llama(max_position_embeddings=2048))
    if dtype == "bfloat16":
        model = model.to(torch.bfloat16)
    runner, tokens = HuggingFaceRunner(model, same_rounding=True), text(1100, seed=25)
    assert runner.statistics().same_rounding
    expected = _singly(runner, tokens)
    row = runner.allocate(len(tokens))

    found = [
        runner.forward([feed(row, at, tokens[at : at + 11])])[0] for at in range(0, len(tokens), 11)
    ]

    assert torch.equal(torch.cat(found), expected)
