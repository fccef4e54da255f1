"""Small tokenizers of every kind there is, whose tokens make trouble at each other's borders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

SPECIAL: Final = ("<s>", "</s>", "<|user|>")
"""Hidden from a text."""
EMOJI: Final = "👩‍👩‍👧"  # three that are joined
WORDS: Final = ("a", "b", "ab", "Hi", " ", "  ", ".", "!", "'", "n't", "'s", "ve", "'ve", "\n", "é")
"""Among them what clean-up of spaces looks for."""
SYMBOLS: Final = ("\ufffd", "❤", "世界", "👩", "\u200d", EMOJI)


def _byte_letters() -> list[str]:
    """The letter that stands for each byte in byte-level tokens."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]


BYTE_LETTERS: Final = _byte_letters()


def _spelled(text: str) -> str:
    return "".join(BYTE_LETTERS[byte] for byte in text.encode())


def _fast(
    tokens: Sequence[str], decoder: Any, model: Callable[[dict[str, int]], Any], **settings: Any
) -> PreTrainedTokenizerFast:
    vocabulary = {token: n for n, token in enumerate(dict.fromkeys((*SPECIAL, *tokens, "<unk>")))}
    tokenizer = Tokenizer(model(vocabulary))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken("<shown>", special=False)])
    settings = {"bos_token": "<s>", "eos_token": "</s>"} | settings
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def _bpe(vocabulary: dict[str, int]) -> Any:
    return models.BPE(vocabulary, [])


def _words(vocabulary: dict[str, int]) -> Any:
    return models.WordLevel(vocabulary, "<unk>")


def _unigram(vocabulary: dict[str, int]) -> Any:
    return models.Unigram([(token, -1.0) for token in vocabulary], unk_id=0)


def _pieces(vocabulary: dict[str, int]) -> Any:
    return models.WordPiece(vocabulary, unk_token="<unk>")  # noqa: S106 - no password


BYTES: Final = [f"<0x{byte:02X}>" for byte in range(256)]
BYTE_LEVEL: Final = [*BYTE_LETTERS, *map(_spelled, (*WORDS, *SYMBOLS, " Hi", " '"))]
SPACED: Final = [*(w.replace(" ", "▁") for w in WORDS), "▁Hi", "▁a", "▁'", "▁n't", *SYMBOLS]
PIECED: Final = [*WORDS, "##s", "##a", "##'", "##.", *SYMBOLS]
ENDED: Final = [*WORDS, "Hi</w>", "a</w>", ".</w>", *SYMBOLS]

LLAMA: Final = [
    decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
]  # fmt: skip
CLEANED: Final = {"clean_up_tokenization_spaces": True}
FORCED: Final = CLEANED | {
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True
}


def _own_way(tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    tokenizer = _fast(tokens, decoders.ByteLevel(), _bpe)
    tokenizer.__class__ = Shouting
    return tokenizer


class Shouting(PreTrainedTokenizerFast):  # type: ignore[misc] # untyped here
    """Decodes in a way of its own."""

    def _decode(self, *args: Any, **kwargs: Any) -> str:
        return str(super()._decode(*args, **kwargs)).upper()


def _metaspace(scheme: str) -> Any:
    return decoders.Metaspace(prepend_scheme=scheme)


KINDS: Final[dict[str, PreTrainedTokenizerFast]] = {
    "byte-level": _fast(BYTE_LEVEL, decoders.ByteLevel(), _bpe),
    "byte-level, cleaned": _fast(BYTE_LEVEL, decoders.ByteLevel(), _bpe, **FORCED),
    "byte-level, cleaned in vain": _fast(BYTE_LEVEL, decoders.ByteLevel(), _bpe, **CLEANED),
    "bytes as in Llama": _fast([*BYTES, *SPACED], decoders.Sequence(LLAMA), _bpe),
    "bytes as in Gemma": _fast([*BYTES, *SPACED], decoders.Sequence(LLAMA[:3]), _bpe),
    "bytes, not fused": _fast([*BYTES, *SPACED], decoders.Sequence(LLAMA[:2]), _bpe),
    "bytes, trimmed": _fast(
        [*BYTES, *SPACED],
        decoders.Sequence([*LLAMA[:3], decoders.Strip(" ", 2, 0), decoders.Strip(" ", 0, 1)]),
        _bpe,
    ),
    "bytes, cleaned": _fast([*BYTES, *SPACED], decoders.Sequence(LLAMA), _words, **CLEANED),
    "spaces, first": _fast(SPACED, _metaspace("first"), _unigram),
    "spaces, always": _fast(SPACED, _metaspace("always"), _unigram),
    "spaces, never": _fast(SPACED, _metaspace("never"), _unigram),
    "spaces, cleaned": _fast(SPACED, _metaspace("always"), _unigram, **CLEANED),
    "pieces": _fast(PIECED, decoders.WordPiece(cleanup=False), _pieces),
    "pieces, cleaned": _fast(PIECED, decoders.WordPiece(cleanup=True), _pieces),
    "pieces, cleaned twice": _fast(PIECED, decoders.WordPiece(cleanup=True), _pieces, **CLEANED),
    "ends of words": _fast(ENDED, decoders.BPEDecoder(), _bpe),
    "said twice": _fast([*WORDS, "|", "<pad>"], decoders.CTC(), _words),
    "no decoder": _fast(PIECED, None, _words),
    "replaced at last": _fast(
        SPACED, decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")]), _bpe
    ),
    "in its own way": _own_way(BYTE_LEVEL),
}
"""A tokenizer of each kind."""


def before_stop(text: str, strings: Sequence[str]) -> str:
    """The text up to the first stop text."""
    return min((text.partition(string)[0] for string in strings), key=len, default=text)
