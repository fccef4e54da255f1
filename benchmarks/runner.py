"""A runner's forward beside a bare one, written by hand in plain torch, at the same shape.

    python benchmarks/runner.py --model actors/pair/target --tokens 1,4,8

The bare forward is what somebody would write to see how fast a model can be: a static cache, the
weights as they come, the attention kernel of torch, nothing around it. It is timed in turns with
our runner and with the library's own forward, all on one thread; reported are ratios to the bare
one, medians over rounds, with quartiles.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Final

import click
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from actors.runners.hugging_face import HuggingFaceRunner
from actors.runners.interface import Feed
from actors.runners.loading import load_model
from actors.threads import available_cores, stay_on

FORWARDS: Final = 20  # of each in a round
MOST: Final = 1024


class Bare:
    """A Llama's forward for one sequence, and nothing else."""

    def __init__(self, model: Any) -> None:
        config, attention = model.config, model.model.layers[0].self_attn
        self.model = model
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.head, self.width = attention.head_dim, config.hidden_size
        self.eps = config.rms_norm_eps
        cos, sin = model.model.rotary_emb(torch.zeros(1, 1), torch.arange(MOST)[None])
        self.cos: Tensor = cos[0]
        self.sin: Tensor = sin[0]
        self.cache = torch.zeros(config.num_hidden_layers, 2, 1, self.shared, MOST, self.head)

    def __call__(self, tokens: list[int], start: int) -> Tensor:
        """Logits of all tokens, read at `start` and behind."""
        count, end = len(tokens), start + len(tokens)
        x = self.model.model.embed_tokens.weight[torch.tensor(tokens)]
        seen = None
        if count > 1:
            seen = torch.ones(count, end, dtype=torch.bool).tril_(start)
        for layer, (keys, values) in zip(self.model.model.layers, self.cache, strict=True):
            attention, mlp = layer.self_attn, layer.mlp
            y = self.norm(x, layer.input_layernorm.weight)
            q = self.turned(self.split(functional.linear(y, attention.q_proj.weight)), start, end)
            k = self.turned(self.split(functional.linear(y, attention.k_proj.weight)), start, end)
            keys[:, :, start:end] = k
            values[:, :, start:end] = self.split(functional.linear(y, attention.v_proj.weight))
            y = functional.scaled_dot_product_attention(
                q,
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=seen,
                enable_gqa=self.shared < self.heads,
            )
            y = y.transpose(1, 2).reshape(count, -1)
            x = x + functional.linear(y, attention.o_proj.weight)
            y = self.norm(x, layer.post_attention_layernorm.weight)
            gate = functional.silu(functional.linear(y, mlp.gate_proj.weight))
            up = functional.linear(y, mlp.up_proj.weight)
            x = x + functional.linear(gate * up, mlp.down_proj.weight)
        x = self.norm(x, self.model.model.norm.weight)
        logits: Tensor = functional.linear(x, self.model.lm_head.weight)
        return logits

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, (self.width,), weight, self.eps)

    def split(self, x: Tensor) -> Tensor:
        return x.view(1, len(x), -1, self.head).transpose(1, 2)  # (1, heads, tokens, head)

    def turned(self, x: Tensor, start: int, end: int) -> Tensor:
        one, other = x.chunk(2, dim=-1)
        turned: Tensor = torch.cat([-other, one], -1) * self.sin[start:end]
        return x * self.cos[start:end] + turned


def seconds(forward: Callable[[], object]) -> float:
    """Of one forward, the median of some."""
    found = []
    for _ in range(FORWARDS):
        began = time.perf_counter()
        forward()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def systems(name: str, context: int, tokens: int) -> dict[str, Callable[[], object]]:
    """Forwards over the same tokens at the same place."""
    prompt, read = list(range(1, context + 1)), list(range(1, tokens + 1))
    bare, library = Bare(load_model(name)), load_model(name)
    bare(prompt, 0)
    runner = HuggingFaceRunner(load_model(name))
    row = runner.allocate(context + tokens)
    runner.forward([Feed(row=row, start=0, tokens=prompt, logits=0)])
    cache: Any = DynamicCache()
    library(torch.tensor([prompt]), past_key_values=cache)
    ids = torch.tensor([read])

    def of_the_library() -> None:
        library(ids, past_key_values=cache)
        cache.crop(-tokens)  # from transformers 5 on: how many to remove

    feed = Feed(row=row, start=context, tokens=read, logits=tokens)
    return {
        "bare": lambda: bare(read, context),
        "runner": lambda: runner.forward([feed]),
        "library": of_the_library,
    }


@click.command()
@click.option("--model", required=True, help="A folder with a model of the Llama family.")
@click.option("--context", default=192, show_default=True)
@click.option("--tokens", default="1,4,8", show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(model: str, context: int, tokens: str, rounds: int) -> None:
    """Time forwards in turns."""
    torch.set_num_threads(1)
    stay_on(available_cores()[-1:])
    for count in map(int, tokens.split(",")):
        with torch.inference_mode():
            compared = systems(model, context, count)
            times: dict[str, list[float]] = {each: [] for each in compared}
            for _ in range(rounds):
                for each, forward in compared.items():
                    times[each].append(seconds(forward))
        click.echo(f"{count} tokens, bare {1e3 * statistics.median(times['bare']):.2f} ms")
        for each in list(compared)[1:]:
            ratios = [a / b for a, b in zip(times[each], times["bare"], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            click.echo(f"  {each:8} {middle:.2f} of the bare one ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
