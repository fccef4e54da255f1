"""Llama models of the pair: made from a shape, and saved as Hugging Face folders.

Weights are stored in bf16 and computed with in fp32: rounding them changes nothing measurable,
while computing in bf16 flips an argmax every few hundred tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pearl.actors.pair import tokenizer as tokens
from pearl.actors.pair.recipe import LlamaShape


def untrained(shape: LlamaShape, vocabulary: int, positions: int, seed: int) -> LlamaForCausalLM:
    """A freshly initialised model of this shape, in fp32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=positions,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=tokens.END_ID,
            eos_token_id=tokens.END_ID,
            pad_token_id=None,
        )
    )


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write one complete folder: configuration, bf16 weights, tokenizer."""
    shipped = LlamaForCausalLM(model.config)
    shipped.load_state_dict(model.state_dict())
    shipped.to(torch.bfloat16)
    shipped.generation_config = GenerationConfig(
        bos_token_id=tokens.END_ID, eos_token_id=tokens.END_ID, pad_token_id=tokens.END_ID
    )
    shipped.save_pretrained(folder)
    tokens.save(tokenizer, folder, model.config.max_position_embeddings)
