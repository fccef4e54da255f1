"""Tokenizers, the vocabulary that a pair runs on, and a draft with another one.

The vocabulary of a pair is the target's: a draft never limits what the target writes. A model's
logits may be wider than its tokenizer: they are padded to a round number, and two models with one
tokenizer may be padded differently (Qwen2.5 0.5B to 151,936, 7B to 152,064). No text was trained on
the padding and no tokenizer can print it, so the pair runs on the tokens that the target's
tokenizer has, and "the target's distribution" always means the one on these.

A draft that lacks some of these tokens, or has others in their places, never drafts them, and reads
one of its own instead where the text has one: worse guesses, the same text. Noise is shared by
token id, so its logits are laid out as the target's.

May import: torch, transformers.
Must never: let a draft decide which tokens there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final, final

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from pearl.actors.runners import folders
from pearl.actors.runners.describing import ModelDescription
from pearl.actors.runners.gguf_files import check_gguf
from pearl.actors.runners.interface import Feed, Room, Runner, RunnerStatistics
from pearl.actors.runners.quiet import first_line, quietly, translated
from pearl.decoding.errors import ModelError, PairError

ENOUGH: Final = 0.9
"""Of the target's tokens so many must be the draft's too, or it guesses for another language."""
UNUSUAL: Final = " é\u2603"
"""What a tokenizer reads that has a token for all it does not know."""
PACKAGES: Final = ("sentencepiece", "tiktoken", "protobuf")
NAMED: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The tokens that a pair runs on, and those that only its target has.

    Args:
        size: token ids below it.
        foreign: ids whose token the draft lacks, or has another one at; in order.
        instead: the draft's token that it reads in their place.
        example: one of these tokens, as the target writes it.
    """

    size: int
    foreign: tuple[int, ...] = ()
    instead: int = 0
    example: str = ""


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ModelError: there is no such model, it has no tokenizer, or needs a package that is absent.
    """
    with quietly():
        place = folders.find(name, weights=False)
        if place.gguf is not None:
            check_gguf(place)
        elif not any((place.folder / file).is_file() for file in folders.TOKENIZERS):
            raise ModelError(f"{name} has no tokenizer; it needs tokenizer.json")
        # Each tokenizer class fails in its own way on a missing or damaged file.
        with translated(lambda error: _no_tokenizer(place, error)):
            tokenizer = AutoTokenizer.from_pretrained(
                place.folder,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                **place.options,
            )
            numbers = sorted(map(int, tokenizer.get_vocab().values()))
            text = str(tokenizer.decode(numbers[:1]))
            if tokenizer.unk_token is not None:
                text += UNUSUAL
            read = list(map(int, tokenizer(text)["input_ids"]))
        if not numbers or numbers[0] < 0 or (text and not read):
            raise ModelError(f"{name} has an empty tokenizer; it needs tokenizer.json")
        return tokenizer


def _no_tokenizer(place: folders.ModelFolder, error: BaseException) -> ModelError:
    """Why there is none: a package that is absent, a file that is no JSON, or what was said."""
    said = str(error)
    absent = [package for package in PACKAGES if package in said.lower()]
    if absent and isinstance(error, (ImportError, ValueError)):
        return ModelError(
            f"{place.name}: its tokenizer needs a package that is not installed or another file; "
            f"pip install {' '.join(absent)}, or bring tokenizer.json"
        )
    for file in NAMED if place.gguf is None else ():
        try:
            if (place.folder / file).is_file():
                folders.read_json(place.folder / file, place.name)
        except ModelError as damaged:
            return damaged
    return ModelError(
        f"{place.name}: its tokenizer cannot be read ({first_line(error)}); copy it again"
    )


def check_pair(
    draft: ModelDescription,
    target: ModelDescription,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Vocabulary:
    """Whether the draft speaks the target's language, and where it does not.

    Most tokens must have the same number in both. Which of them are special, or end a text, may
    differ (a base model drafts well for its chat version): only the target's count. So may the
    width of the logits, see the top of this file.

    Args:
        tokenizer: the target's, where it is loaded already.
    Raises:
        PairError: the vocabularies have little in common.
    """
    theirs = _tokens(tokenizer or _tokenizer(target))
    size = min(1 + max(theirs), target.vocab_size)
    if draft.name == target.name:
        return Vocabulary(size=size)
    tokenizer = _tokenizer(draft)
    ours = _tokens(tokenizer)
    foreign = tuple(
        number
        for number in range(size)
        if number >= draft.vocab_size or ours.get(number) != theirs.get(number)
    )
    if not foreign:
        return Vocabulary(size=size)
    first = foreign[0]
    if size - len(foreign) < ENOUGH * size:
        raise PairError(
            f"draft {draft.name} has {size - len(foreign)} of the {size} tokens of target "
            f"{target.name} (token {first} is {_shown(ours, draft, first)} there, "
            f"{theirs.get(first)!r} here); choose a draft with the target's tokenizer"
        )
    named = (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    instead = _instead(named, frozenset(foreign), size)
    example = next((theirs[number] for number in foreign if number in theirs), "")
    return Vocabulary(size=size, foreign=foreign, instead=instead, example=example)


def _tokenizer(model: ModelDescription) -> PreTrainedTokenizerBase:
    return load_tokenizer(model.name, trust_remote_code=model.trust_remote_code)


def _tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {int(number): str(token) for token, number in tokenizer.get_vocab().items()}


def _shown(tokens: Mapping[int, str], model: ModelDescription, number: int) -> str:
    return repr(tokens[number]) if number in tokens and number < model.vocab_size else "absent"


def _instead(named: Sequence[int | None], foreign: frozenset[int], size: int) -> int:
    """A token that says little: the first of the named ones that both have, else any."""
    shared = (token for token in named if token is not None and 0 <= token < size)
    found = next((token for token in shared if token not in foreign), None)
    return next(t for t in range(size) if t not in foreign) if found is None else found


@final
class TranslatedRunner:
    """A draft behind the vocabulary of its target: see the top of this file."""

    def __init__(self, runner: Runner, vocabulary: Vocabulary) -> None:
        self._runner = runner
        self._instead = vocabulary.instead
        self._foreign = frozenset(vocabulary.foreign)
        self._columns = torch.tensor(vocabulary.foreign)
        self.vocab_size = vocabulary.size

    @property
    def positions(self) -> int:
        return self._runner.positions

    def allocate(self, length: int) -> int:
        return self._runner.allocate(length)

    def release(self, row: int) -> None:
        """As the model's."""
        self._runner.release(row)

    def room(self, length: int) -> Room:
        return self._runner.room(length)

    def statistics(self) -> RunnerStatistics:
        return self._runner.statistics()

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read the feeds in the draft's own tokens; the logits are in the target's."""
        read = self._runner.forward([self._translated(feed) for feed in feeds])
        return [self._laid_out(logits) for logits in read]

    def _translated(self, feed: Feed) -> Feed:
        if self._foreign.isdisjoint(feed.tokens):
            return feed
        tokens = [self._instead if t in self._foreign else t for t in feed.tokens]
        return dataclasses.replace(feed, tokens=tokens)

    def _laid_out(self, logits: Tensor) -> Tensor:
        """Logits (rows, the draft's tokens) as (rows, the target's), none for foreign ones."""
        rows, own = logits.shape
        with torch.inference_mode():
            wide = logits.new_full((rows, self.vocab_size), -torch.inf)
            width = min(own, self.vocab_size)
            wide[:, :width] = logits[:, :width]
            self._columns = self._columns.to(logits.device)
            return wide.index_fill_(1, self._columns, -torch.inf)
