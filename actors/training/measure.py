"""How well a draft fits its target: how often the target keeps what the draft proposes.

The target continues some prompts, once greedily and once at temperature 1, and at every position
of its own text both models say what they would do:

    greedy      the two most likely tokens are the same
    coupled     the tokens drawn with the same Gumbel noise are the same: argmax(log p + G)
    rejection   sum of min(p, q): the chance that rejection sampling keeps a draft token

A figure is the mean over prompts, and its interval is over prompts too, because prompts differ far
more than positions do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (the name everyone reads)
from torch import Tensor
from transformers import LlamaForCausalLM

from pearl.actors.training.writing import continued, gumbel
from pearl.decoding.estimates import Estimate, of_mean

_NOISES: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class OverPrompts:
    """The mean of one value for each prompt, with its interval, and how far prompts lie apart."""

    mean: Estimate
    lowest: float
    highest: float
    prompts: int

    @classmethod
    def of(cls, values: Tensor) -> OverPrompts:
        """Of values for each prompt, shape (prompts,)."""
        return cls(
            mean=of_mean(values.numpy()),
            lowest=float(values.min()),
            highest=float(values.max()),
            prompts=len(values),
        )

    def __str__(self) -> str:
        """As people read it."""
        apart = f"{self.lowest:.2f} to {self.highest:.2f} over {self.prompts} prompts"
        return f"{self.mean}; {apart}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceRates:
    """How often the target keeps a token of the draft, by the rule that judges it."""

    greedy: OverPrompts
    coupled: OverPrompts
    rejection: OverPrompts


def prompts(files: Iterable[list[int]], count: int, length: int) -> Tensor:
    """The beginnings of the first `count` files that are long enough, shape (count, length)."""
    long_enough = (tokens[:length] for tokens in files if len(tokens) >= length)
    return torch.tensor(list(islice(long_enough, count)))


def agreement(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, texts: Mapping[str, Tensor], length: int
) -> AcceptanceRates:
    """Compare both models on the target's own texts, beyond the first `length` tokens of each."""
    greedy = _log_probabilities(target, draft, texts["greedy"], length)
    sampled = _log_probabilities(target, draft, texts["sampled"], length)
    return AcceptanceRates(
        greedy=OverPrompts.of(_same(*greedy)),
        coupled=OverPrompts.of(_coupled(*sampled)),
        rejection=OverPrompts.of(torch.minimum(*sampled).exp().sum(-1).mean(-1)),
    )


def written(
    target: LlamaForCausalLM, beginnings: Tensor, count: int, seed: int
) -> dict[str, Tensor]:
    """What the target makes of the prompts, greedily and at temperature 1."""
    texts = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        temperatures = torch.full((len(beginnings),), temperature)
        generator = torch.Generator().manual_seed(seed)
        texts[name] = continued(target, beginnings, count, temperatures, generator)
    return texts


@torch.inference_mode()
def _log_probabilities(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, rows: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    logits = (model(input_ids=rows, use_cache=False).logits for model in (target, draft))
    p, q = (F.log_softmax(each[:, length - 1 : -1].float(), dim=-1) for each in logits)
    return p, q  # (prompts, positions, vocab) each


def _same(p: Tensor, q: Tensor) -> Tensor:
    return (p.argmax(-1) == q.argmax(-1)).float().mean(-1)


def _coupled(p: Tensor, q: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noises = (gumbel(p, generator) for _ in range(_NOISES))
    return torch.stack([_same(p + noise, q + noise) for noise in noises]).mean(0)


@torch.inference_mode()
def nats_a_token(model: LlamaForCausalLM, stream: np.ndarray, length: int = 512) -> float:
    """Mean cross-entropy on a stream of tokens, read in pieces of `length`."""
    pieces = torch.from_numpy(stream[: len(stream) // length * length].astype(np.int64))
    losses = []
    for rows in torch.split(pieces.view(-1, length), 16):
        logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
        losses.append(
            F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
        )
    return float(torch.cat(losses).mean())
