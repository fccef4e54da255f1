"""Tiny random models of many architectures, as configurations; their weights are seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from pearl.actors.runners.graphs import recorder_for
from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.actors.runners.interface import Feed

VOCAB = 97
POSITIONS = 160
WINDOW = 8

_SHAPE: dict[str, Any] = {
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
_NARROW: dict[str, Any] = {"hidden_size": 32, "vocab_size": VOCAB, "eos_token_id": 1}
_ENDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**_SHAPE),
    "qwen2": lambda: Qwen2Config(**_SHAPE),
    "qwen2-half-sliding": lambda: Qwen2Config(
        **_SHAPE, use_sliding_window=True, max_window_layers=1, sliding_window=WINDOW
    ),
    "qwen3": lambda: Qwen3Config(**_SHAPE, head_dim=8),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=POSITIONS, **_ENDS
    ),
    "gemma": lambda: GemmaConfig(**_SHAPE, head_dim=8),
    "gemma2": lambda: Gemma2Config(
        **_SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=WINDOW
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **_SHAPE | {"num_hidden_layers": 7}, head_dim=8, sliding_window=WINDOW
    ),
    "mistral": lambda: MistralConfig(**_SHAPE, sliding_window=None),
    "mistral-sliding": lambda: MistralConfig(**_SHAPE, sliding_window=WINDOW),
    # Position biases made from the shape alone: rows cannot share a pass.
    "bloom": lambda: BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=2, n_head=4, **_ENDS),
    # A window kept in a table of its own, wider than what a new runner tries: nor can these.
    "gpt-neo": lambda: GPTNeoConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=2 * WINDOW,
        max_position_embeddings=POSITIONS,
        **_ENDS,
    ),
}

RECURRENT: dict[str, Callable[[], Any]] = {
    "mamba": lambda: MambaConfig(**_NARROW, num_hidden_layers=2),
}

SHARING = [name for name in CONFIGS if name not in {"bloom", "gpt-neo"}]
"""Those whose rows share a pass."""


@cache
def model_of(architecture: str, device: str = "cpu") -> Any:
    """A model with weights large enough that every layer matters."""
    torch.manual_seed(7)
    config = (CONFIGS | RECURRENT)[architecture]()
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0.0, 0.15)
    return model.eval().to(device)


def runner_of(architecture: str, device: str = "cpu", **options: Any) -> HuggingFaceRunner:
    """A runner that the library runs, recorded where passes are, unless told otherwise."""
    model = model_of(architecture, device)
    usual = {"recorder": recorder_for(model.device), "spare": False}
    return HuggingFaceRunner(model, **usual | options)


def plain(model: Any, tokens: Sequence[int]) -> Tensor:
    """Logits (tokens, vocab) of the model's own forward over everything, without a cache."""
    with torch.no_grad():
        ids = torch.tensor([list(tokens)], device=model.device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return logits


def text(length: int, seed: int) -> list[int]:
    """Tokens without a pattern."""
    return torch.randint(
        0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)
    ).tolist()


def feed(row: int, start: int, tokens: Sequence[int], logits: int | None = None) -> Feed:
    """A feed that wants all its logits, unless told otherwise."""
    wanted = len(tokens) if logits is None else logits
    return Feed(row=row, start=start, tokens=tokens, logits=wanted)


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal but for rounding, measured by the spread of the logits."""
    spread = float(expected.std()) if expected.numel() else 1.0
    torch.testing.assert_close(got, expected, atol=tolerance * spread, rtol=tolerance)


def check_feeds_at_will(
    runner: HuggingFaceRunner, model: Any, data: st.DataObject, tolerance: float = 1e-5
) -> None:
    """Three rows that grow, any subset of them a call, any start up to the end: plain logits."""
    held: dict[int, list[int]] = {runner.allocate(1): [] for _ in range(3)}
    for _ in range(data.draw(st.integers(1, 6), label="calls")):
        rows = data.draw(st.sets(st.sampled_from(sorted(held)), min_size=1), label="rows")
        feeds = []
        for row in sorted(rows):
            start = data.draw(st.integers(0, len(held[row])), label="start")
            tokens = data.draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20))
            feeds.append(feed(row, start, tokens, data.draw(st.integers(0, len(tokens)))))
            held[row] = held[row][:start] + tokens

        for got, fed in zip(runner.forward(feeds), feeds, strict=True):
            whole = plain(model, held[fed.row])
            close(got, whole[len(whole) - fed.logits :], tolerance)
