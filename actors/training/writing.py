"""Text that a model writes itself, many rows at once.

Used twice: for the rows that the draft is distilled on, and for the continuations on which the
agreement of the pair is measured.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaForCausalLM


@torch.inference_mode()
def continued(
    model: LlamaForCausalLM,
    prompts: Tensor,
    count: int,
    temperatures: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The prompts, each with `count` tokens more.

    Args:
        model: any decoder; the end of a document does not stop it.
        prompts: token ids, shape (rows, length): all prompts are equally long.
        count: how many tokens to add.
        temperatures: one for each row, shape (rows,); 0 takes the likeliest token.
        generator: where chance comes from.
    Returns: shape (rows, length + count).
    """
    rows, cache, reading = prompts, DynamicCache(config=model.config), prompts
    for _ in range(count):
        output = model(input_ids=reading, past_key_values=cache, use_cache=True, logits_to_keep=1)
        reading = drawn(output.logits[:, -1].float(), temperatures, generator)[:, None]
        rows = torch.cat((rows, reading), dim=1)
    return rows


def drawn(logits: Tensor, temperatures: Tensor, generator: torch.Generator) -> Tensor:
    """One token for each row of (rows, vocab): argmax of logits + temperature * Gumbel noise."""
    return (logits + temperatures[:, None] * gumbel(logits, generator)).argmax(dim=-1)


def gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel noise in the shape of `like`."""
    noise = torch.empty_like(like).exponential_(generator=generator)
    return -noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
