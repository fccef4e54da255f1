"""Tiny pairs of random models with a tokenizer of their own, saved as folders.

The draft is the target without its last layers, and those say little: so the two agree often, as
a trained pair does, and disagree often enough to matter.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

POSITIONS: Final = 512
END: Final = "<|endoftext|>"
CORPUS: Final = (
    "def f(x):\n    return x\n",
    "for item in items:\n    print(item)\n",
    "import os\nimport sys\n\nclass Stack:\n    def __init__(self):\n        self.items = []\n",
)
"""What the tokenizer learns its longer tokens from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedPair:
    """Two folders."""

    target: Path
    draft: Path

    def options(self) -> list[str]:
        """As the command line takes them."""
        return ["--target", str(self.target), "--draft", str(self.draft)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    layers: int
    shared: int
    """Layers that the draft has of the target's."""
    spread: float
    """Of the random weights."""
    positions: int


def save_text_pair(folder: Path, positions: int = POSITIONS) -> SavedPair:
    """A pair that writes text: tokens of single bytes, and a few longer ones."""
    shape = _Shape(layers=4, shared=2, spread=0.08, positions=positions)
    return _save(folder, _text_tokenizer(), shape)


def save_letter_pair(folder: Path, letters: str = "abcd") -> SavedPair:
    """A pair with a token for each letter and no other, so that laws can be enumerated."""
    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(letters)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    return _save(folder, fast, _Shape(layers=3, shared=1, spread=0.2, positions=POSITIONS))


def save_pair_of(tokenizer: PreTrainedTokenizerFast, folder: Path) -> SavedPair:
    """A pair that writes any tokens of this tokenizer."""
    return _save(folder, tokenizer, _Shape(layers=2, shared=1, spread=0.08, positions=POSITIONS))


def with_end(pair: SavedPair, folder: Path, eos: int) -> SavedPair:
    """The same pair, but for the token that ends a text."""
    target = Path(shutil.copytree(pair.target, folder / "target"))
    path = target / "generation_config.json"
    settings: dict[str, Any] = json.loads(path.read_text()) | {"eos_token_id": eos}
    path.write_text(json.dumps(settings))
    return SavedPair(target=target, draft=pair.draft)


def with_short_draft(pair: SavedPair, folder: Path, positions: int) -> SavedPair:
    """The same pair, but for a draft that holds no more than so many positions."""
    draft = Path(shutil.copytree(pair.draft, folder / "draft"))
    path = draft / "config.json"
    config: dict[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"max_position_embeddings": positions}))
    return SavedPair(target=pair.target, draft=draft)


def with_hidden(pair: SavedPair, folder: Path, token: int) -> tuple[SavedPair, str]:
    """The same pair with a token made a special one, and its name."""
    name = str(Tokenizer.from_file(str(pair.target / "tokenizer.json")).id_to_token(token))
    return with_added(pair, folder, name), name


def with_added(pair: SavedPair, folder: Path, name: str) -> SavedPair:
    """The same pair, with a special token of this name in its tokenizers."""
    made = SavedPair(target=folder / "target", draft=folder / "draft")
    for old, new in ((pair.target, made.target), (pair.draft, made.draft)):
        path = Path(shutil.copytree(old, new)) / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        tokenizer.save(str(path))
    return made


def _text_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def _save(folder: Path, tokenizer: PreTrainedTokenizerFast, shape: _Shape) -> SavedPair:
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": None}  # long runs stay long
    target = _llama(len(tokenizer), shape.layers, shape, ends)
    draft = _llama(len(tokenizer), shape.shared, shape, ends)
    with torch.no_grad():
        for layer in target.model.layers[shape.shared :]:
            layer.mlp.down_proj.weight *= 0.3
            layer.self_attn.o_proj.weight *= 0.3
    draft.load_state_dict(target.state_dict(), strict=False)
    pair = SavedPair(target=folder / "target", draft=folder / "draft")
    logging.disable_progress_bar()
    for model, path in ((target, pair.target), (draft, pair.draft)):
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return pair


def _llama(vocab: int, layers: int, shape: _Shape, ends: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=shape.positions,
            tie_word_embeddings=False,
            initializer_range=shape.spread,
            **ends,
        )
    ).eval()
