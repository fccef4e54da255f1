"""Tokens a second of a model's forward alone, beside those of llama.cpp.

    pip install llama-cpp-python gguf
    python benchmarks/llamacpp.py --threads 1,2 --weights float32,bfloat16,int8

Both read the same weights and decode greedily, a token a pass: ours from a folder, llama.cpp from
a GGUF file that is written here (int8 is Q8_0 there, with a scale for 32 weights instead of one
for a row). Each is a process of its own, on the same cores, with as many threads; they take turns,
and while one works the other waits. The prompt is read before the clock starts. Without --model the
weights are random, in the shape of SmolLM2-135M.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import multiprocessing
import operator
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import accumulate
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from pearl.actors.runners.interface import Feed
from pearl.actors.runners.loading import load_runner
from pearl.actors.threads import available_cores, stay_on
from pearl.decoding.estimates import of_median, of_ratio

SHAPE: Final[dict[str, Any]] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    "tie_word_embeddings": True,
}


class Weights(NamedTuple):
    """One way to keep weights, here and there."""

    ours: dict[str, Any]
    """Settings of `load_runner`."""
    theirs: str
    """A type of GGML."""


WEIGHTS: Final = {
    "float32": Weights({"dtype": "float32"}, "F32"),
    "bfloat16": Weights({"dtype": "bfloat16"}, "BF16"),
    "int8": Weights({"dtype": "bfloat16", "quantize": "int8"}, "Q8_0"),
}

NAMES: Final = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
"""Matrices of a layer, by their names in a folder, and in a GGUF file."""

Decoded = tuple[float, list[int]]
"""Seconds, and tokens."""
Decode = Callable[[list[int], int], Decoded]
"""A prompt and a number of tokens -> these."""


def untrained(folder: pathlib.Path) -> None:
    """A model with random weights."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)


def write_gguf(folder: pathlib.Path, path: pathlib.Path, kind: str) -> None:
    """The same model as a GGUF file without a tokenizer."""
    import gguf  # noqa: PLC0415 - said in one line if it is missing

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    wanted = gguf.GGMLQuantizationType[kind]
    for name, weight in load_file(folder / "model.safetensors").items():
        values: NDArray[np.float32] = weight.to(torch.float32).numpy()
        for part, count in (("q_proj", heads), ("k_proj", shared)):
            if part in name:
                values = interleaved(values, count)
        if values.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
        else:
            data = gguf.quants.quantize(values, wanted)
            writer.add_tensor(gguf_name(name), data, raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    """Of a tensor of the Llama family."""
    parts = name.removeprefix("model.").split(".")
    if parts[0] != "layers":
        first = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
        return f"{first[parts[0]]}.weight"
    return f"blk.{parts[1]}.{NAMES['.'.join(parts[2:-1])]}.weight"


def interleaved(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head in the order 0, h/2, 1, h/2 + 1, ..., as llama.cpp turns them."""
    halves = values.reshape(heads, 2, -1, values.shape[1])
    return halves.swapaxes(1, 2).reshape(values.shape)


def ours(folder: str, threads: int, kind: str) -> Decode:
    """This project's forward."""
    runner = load_runner(folder, threads=threads, **WEIGHTS[kind].ours)
    said = runner.statistics().slower
    if said:
        raise click.ClickException(said)

    def decode(prompt: list[int], count: int) -> Decoded:
        row = runner.allocate(len(prompt) + count)
        runner.forward([Feed(row=row, start=0, tokens=prompt[:-1], logits=0)])
        text, began = prompt[-1:], time.perf_counter()
        for position in range(len(prompt) - 1, len(prompt) - 1 + count):
            feed = Feed(row=row, start=position, tokens=text[-1:], logits=1)
            text.append(int(runner.forward([feed])[0].argmax()))
        seconds = time.perf_counter() - began
        runner.release(row)
        return seconds, text[1:]

    return decode


def theirs(path: str, threads: int, length: int) -> Decode:
    """llama.cpp's, by the calls that its Python package passes through."""
    import llama_cpp  # noqa: PLC0415 - as above

    model = llama_cpp.Llama(
        path, n_ctx=length, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    vocab_size = model.n_vocab()

    def read(tokens: list[int]) -> None:
        array = (ctypes.c_int * len(tokens))(*tokens)
        if llama_cpp.llama_decode(model.ctx, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise click.ClickException("llama.cpp could not decode")

    def decode(prompt: list[int], count: int) -> Decoded:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(model.ctx), True)  # noqa: FBT003
        read(prompt[:-1])
        text, began = prompt[-1:], time.perf_counter()
        for _ in range(count):
            read(text[-1:])
            logits = llama_cpp.llama_get_logits_ith(model.ctx, -1)
            text.append(int(np.ctypeslib.as_array(logits, (vocab_size,)).argmax()))
        return time.perf_counter() - began, text[1:]

    return decode


def serve(end: Connection, cores: list[int], make: Callable[..., Decode], *what: Any) -> None:
    """In a process of its own: decode whatever is asked for."""
    stay_on(cores)
    decode = make(*what)
    end.send(None)
    while (asked := end.recv()) is not None:
        end.send(decode(*asked))


class Side:
    """One of the two, in its process."""

    def __init__(self, cores: list[int], make: Callable[..., Decode], *what: Any) -> None:
        """Start it, and wait until it has loaded."""
        spawning = multiprocessing.get_context("spawn")
        self._end, end = spawning.Pipe()
        self._process = spawning.Process(target=serve, args=(end, cores, make, *what), daemon=True)
        self._process.start()
        end.close()
        self._end.recv()

    def decode(self, prompt: list[int], count: int) -> Decoded:
        """As the other side of the pipe does."""
        self._end.send((prompt, count))
        seconds, text = self._end.recv()
        return float(seconds), text

    def close(self) -> None:
        """Let it end."""
        self._end.send(None)
        self._process.join()


def in_turns(
    sides: tuple[Side, Side], prompt: list[int], count: int, rounds: int
) -> Iterator[tuple[Decoded, Decoded]]:
    """What both did, the first of a round being the second of the next."""
    for number in range(rounds + 1):
        order = (0, 1) if number % 2 else (1, 0)
        found = {side: sides[side].decode(prompt, count) for side in order}
        if number:  # the first round warms up
            yield found[0], found[1]


def compare(
    folder: pathlib.Path, gguf_file: pathlib.Path, kind: str, threads: int, asked: tuple[int, ...]
) -> str:
    """One line: tokens a second of both, their ratio, and whether they say the same."""
    context, count, rounds = asked
    cores = available_cores()[-threads:]
    prompt = [1 + token % 1000 for token in range(context + 1)]
    sides = (
        Side(cores, ours, str(folder), threads, kind),
        Side(cores, theirs, str(gguf_file), threads, context + count + 1),
    )
    pairs = list(in_turns(sides, prompt, count, rounds))
    for side in sides:
        side.close()
    seconds = np.array([[one[0], other[0]] for one, other in pairs])
    (_, text), (_, other_text) = pairs[-1]
    alike = sum(accumulate(map(operator.eq, text, other_text), operator.and_))
    speeds = [of_median(count / each) for each in seconds.T]
    spreads = [statistics.quantiles(count / each, n=4) for each in seconds.T]
    one, other = (
        f"{speed.value:.1f} tokens/s (quartiles {low:.1f} to {high:.1f})"
        for speed, (low, _, high) in zip(speeds, spreads, strict=True)
    )
    ratio = of_ratio(seconds[:, 1], seconds[:, 0])
    return (
        f"{kind}, {threads} threads: ours {one}, llama.cpp {other}, ratio {ratio}; "
        f"the first {alike} of {count} tokens are the same"
    )


@click.command()
@click.option("--model", help="A folder with a model of the Llama family, in one safetensors file.")
@click.option("--weights", default="float32,bfloat16,int8", show_default=True)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--context", default=200, show_default=True, help="Tokens before the first pass.")
@click.option("--tokens", default=64, show_default=True)
@click.option("--rounds", default=10, show_default=True)
def main(
    model: str | None, weights: str, threads: str, context: int, tokens: int, rounds: int
) -> None:
    """Decode in turns, here and with llama.cpp."""
    for package in ("gguf", "llama_cpp"):
        if importlib.util.find_spec(package) is None:
            raise click.ClickException(
                f"{package} is not installed; pip install llama-cpp-python gguf"
            )
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(model or place)
        if model is None:
            untrained(folder)
        for kind in weights.split(","):
            file = pathlib.Path(place, f"{kind}.gguf")
            write_gguf(folder, file, WEIGHTS[kind].theirs)
            for count in map(int, threads.split(",")):
                click.echo(compare(folder, file, kind, count, (context, tokens, rounds)))


if __name__ == "__main__":
    main()
