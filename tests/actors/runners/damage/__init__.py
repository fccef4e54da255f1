"""Model folders damaged in every way that files and settings can be, by number, and who minds.

`damaged(number, at)` writes a whole tiny model and does one thing to it, always the same for the
same number. `Words` are what the check before loading says of the folder, and what loading it and
writing two tokens says; they must be the same.
"""

from __future__ import annotations

import atexit
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    Qwen2Config,
)

from pearl.actors import pair
from pearl.actors.checking import CheckedPair
from pearl.actors.engine_settings import Devices, EngineSettings
from pearl.actors.runners.interface import Feed
from pearl.actors.runners.loading import load_runner
from pearl.actors.runners.vocabulary import load_tokenizer
from pearl.decoding.errors import UsageError
from tests.actors.runners.damage import files, tokenizers, weights
from tests.actors.runners.damage.common import WIDTH

_SHAPE: Final[dict[str, Any]] = {
    "vocab_size": WIDTH,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}

SOUND: Final[dict[str, tuple[Callable[[], Any], str]]] = {
    "llama": (lambda: LlamaConfig(**_SHAPE, head_dim=4), "1GB"),
    "sharded": (lambda: LlamaConfig(**_SHAPE, head_dim=4, tie_word_embeddings=True), "40KB"),
    "qwen2": (lambda: Qwen2Config(**_SHAPE, tie_word_embeddings=True), "1GB"),
    "gemma3": (lambda: Gemma3TextConfig(**_SHAPE, head_dim=4, sliding_window=8), "1GB"),
    "gpt2": (
        lambda: GPT2Config(
            vocab_size=WIDTH, n_embd=16, n_layer=2, n_head=4, n_positions=64,
            bos_token_id=0, eos_token_id=0,
        ),
        "1GB",
    ),
    "mixtral": (
        lambda: MixtralConfig(**_SHAPE, num_local_experts=2, num_experts_per_tok=1), "1GB"
    ),
}  # fmt: skip

Damage = Callable[[Path, random.Random], str]

DAMAGE: Final[dict[str, Damage]] = {
    "bits flipped": files.flip,
    "cut": files.truncate,
    "something behind": files.append,
    "removed": files.remove,
    "another thing": files.replace,
    "not to be read": files.forbid,
    "a stray file": files.stray,
    "another value": files.retype,
    "a key less": files.drop_key,
    "another shape": files.reshape,
    "rotation": files.rotate,
    "quantised": files.quantise,
    "first and last tokens": files.ends,
    "tensors": weights.tensors,
    "header": weights.header,
    "index": weights.index,
    "tokenizer": tokenizers.tokenizer,
    "tokenizer's settings": tokenizers.tokenizer_settings,
    "tokenizer of other files": tokenizers.other_files,
}


class Words(NamedTuple):
    """What is said of a folder, before it is loaded and by loading it; nothing where it works."""

    before: str
    loading: str


def alone() -> None:
    """For a process that forks: a child has no threads to share work with."""
    torch.set_num_threads(1)
    for base in SOUND:
        sound(base)  # made once, for all children


def words(folder: Path) -> Words:
    """Ask both; an error outside of the project's own is told with its type."""
    return Words(_said(lambda: check(folder)), _said(lambda: write(folder)))


def check(folder: Path) -> None:
    """What `pearl doctor` does, and every start of an engine."""
    CheckedPair(EngineSettings(target=str(folder), devices=Devices.LOCAL, gpus=0))


def write(folder: Path) -> None:
    """Load the folder and write two tokens, as a target does."""
    runner = load_runner(str(folder), device="cpu")
    tokenizer = load_tokenizer(str(folder))
    tokens = list(tokenizer("a b")["input_ids"]) or [0]
    row = runner.allocate(len(tokens) + 2)
    for start in (0, len(tokens)):
        feed = Feed(row=row, start=start, tokens=tokens[start:], logits=1)
        tokens.append(int(runner.forward([feed])[0].argmax()))
    tokenizer.decode(tokens[-2:], skip_special_tokens=True)


def _said(do: Callable[[], None]) -> str:
    try:
        do()
    except UsageError as error:
        return str(error)
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return f"{type(error).__module__}.{type(error).__name__}: {error}"
    return ""


def damaged(number: int, at: Path) -> str:
    """Write the folder of that number; what was done to it, in words."""
    kinds = list(DAMAGE)
    kind = kinds[number % len(kinds)]
    bases = list(SOUND)
    base = bases[(number // len(kinds)) % len(bases)]
    shutil.copytree(sound(base), at)
    # A text as the seed: the same draws wherever and whenever it runs.
    chance = random.Random(f"{kind} {number}")
    return f"{base}: {kind}: {DAMAGE[kind](at, chance)}"


@cache
def sound(base: str) -> Path:
    """A whole model of that shape, with the tokenizer of the embedded pair."""
    config, shard = SOUND[base]
    folder = Path(tempfile.mkdtemp(prefix="pearl-sound-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    at = folder / base
    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_config(config())
    model.save_pretrained(at, max_shard_size=shard)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(pair.TARGET / name, at / name)
    return at
