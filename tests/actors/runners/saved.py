"""A tiny model with a tokenizer of words, as `save_pretrained` leaves them in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

WORDS = 90
"""Tokens of the tokenizer; the logits of the models are wider."""


def save(
    at: Path,
    *,
    width: int,
    words: int = WORDS,
    renamed: dict[int, str] | None = None,
    seed: int = 1,
    end: str = "word0",
    swap: tuple[int, int] | None = None,
    special: str | None = None,
) -> Path:
    """A tiny Llama and a tokenizer where "word5" is 5, and so on, but for those named."""
    numbers = {(renamed or {}).get(i, f"word{i}"): i for i in range(words)}
    if swap:
        left, right = swap
        numbers |= {f"word{left}": right, f"word{right}": left}
    tokenizer = Tokenizer(WordLevel(numbers, unk_token="word0"))  # noqa: S106 - a token of text
    tokenizer.pre_tokenizer = Whitespace()
    # The same three words are special in every tokenizer, whichever of them ends a text.
    named = ["word0", "word1", "word2", *([special] if special else [])]
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in named])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end).save_pretrained(at)
    config = LlamaConfig(
        vocab_size=width,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=[0, 2],
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(at)
    return at


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of the configuration."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
