"""A runner's forward beside what it could be at best, at the same shape.

    python benchmarks/runner.py --model actors/pair/target --tokens 1,4,8
    python benchmarks/runner.py --model shapes/8b --device cuda

On a CPU that is a bare forward, written by hand in plain torch: what somebody would write to see
how fast a model can be, with a static cache, the weights as they come, the attention kernel of
torch, nothing around it. All run on one thread.

On a GPU it is the memory: a pass reads all weights, so it lasts at least as long as a copy that
moves as many bytes. The model's weights are random there, and no trained ones are needed.

It is timed in turns with our runner and with the library's own forward; reported are ratios to it,
medians over rounds, with quartiles.
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
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from pearl.actors.runners.graphs import Recorder, recorder_for
from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.actors.runners.interface import Feed
from pearl.actors.runners.loading import choose_device, choose_dtype, load_model
from pearl.actors.threads import available_cores, stay_on

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


def on_a_cpu(name: str, prompt: list[int], read: list[int]) -> dict[str, Callable[[], object]]:
    """Forwards over the same tokens at the same place; the first is what could be."""
    bare = Bare(load_model(name))
    bare(prompt, 0)
    return {
        "bare forward": lambda: bare(read, len(prompt)),
        "runner": of_the_runner(load_model(name), prompt, read),
        "library": of_the_library(load_model(name), prompt, read),
    }


def on_a_gpu(model: Any, prompt: list[int], read: list[int]) -> dict[str, Callable[[], object]]:
    """The same; a copy reads and writes every byte, so half as many are copied as weights are."""
    looked_up, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    weights = sum(each.nbytes for each in model.parameters())
    if head is not looked_up:
        weights -= looked_up.nbytes
    source = torch.zeros(weights // 2, dtype=torch.uint8, device=model.device)
    target = torch.zeros_like(source)
    forwards = {
        "copy of as many bytes": lambda: target.copy_(source),
        "runner": of_the_runner(model, prompt, read, recorder_for(model.device)),
        "not recorded": of_the_runner(model, prompt, read),
        "library": of_the_library(model, prompt, read),
    }
    return {name: waited(forward) for name, forward in forwards.items()}


def waited(forward: Callable[[], object]) -> Callable[[], object]:
    """A forward until its end, not until it has begun."""

    def until_the_end() -> None:
        forward()
        torch.cuda.synchronize()

    return until_the_end


def of_the_runner(
    model: Any, prompt: list[int], read: list[int], recorder: Recorder | None = None
) -> Callable[[], object]:
    runner = HuggingFaceRunner(model, recorder=recorder)
    row = runner.allocate(len(prompt) + len(read))
    runner.forward([Feed(row=row, start=0, tokens=prompt, logits=0)])
    feed = Feed(row=row, start=len(prompt), tokens=read, logits=len(read))
    return lambda: runner.forward([feed])


def of_the_library(model: Any, prompt: list[int], read: list[int]) -> Callable[[], object]:
    cache: Any = DynamicCache()
    model(torch.tensor([prompt], device=model.device), past_key_values=cache)
    ids = torch.tensor([read], device=model.device)

    def forward() -> None:
        model(ids, past_key_values=cache)
        cache.crop(-len(read))  # from transformers 5 on: how many to remove

    return forward


def untrained(name: str, device: str) -> Any:
    """A model of that shape."""
    place = choose_device(device)
    config = AutoConfig.from_pretrained(name, local_files_only=True)
    with place:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=choose_dtype("auto", place))
    return model.eval()


@click.command()
@click.option("--model", required=True, help="A folder; on a CPU with a model of the Llama family.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--context", default=192, show_default=True)
@click.option("--tokens", default="1,4,8", show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(model: str, device: str, context: int, tokens: str, rounds: int) -> None:
    """Time forwards in turns."""
    on_gpu = device != "cpu"
    shaped = untrained(model, device) if on_gpu else None
    if not on_gpu:
        torch.set_num_threads(1)
        stay_on(available_cores()[-1:])
    prompt = list(range(1, context + 1))
    for count in map(int, tokens.split(",")):
        read = list(range(1, count + 1))
        with torch.inference_mode():
            compared = on_a_gpu(shaped, prompt, read) if on_gpu else on_a_cpu(model, prompt, read)
            times: dict[str, list[float]] = {each: [] for each in compared}
            for _ in range(rounds):
                for each, forward in compared.items():
                    times[each].append(seconds(forward))
        best, *others = times
        click.echo(f"{count} tokens, {best} {1e3 * statistics.median(times[best]):.2f} ms")
        for each in others:
            ratios = [a / b for a, b in zip(times[each], times[best], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            click.echo(f"  {each:12} {middle:.2f} of the {best} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
