"""From a tokenizer to what the rest needs of it: prompts as tokens, tokens as text.

How a text may be put together bit by bit depends on the tokenizer's decoder, which is looked at
here, once. A decoder of parts that are known is *local* (`pearl.decoding.text`); of any other, the
text is decoded as a whole with every token, which is slow and right.

May import: transformers and tokenizers, decoding.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping
from typing import Any, Final

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pearl.decoding.messages import TokenId
from pearl.decoding.text import Detokenizer

TOKENWISE: Final = {
    "BPEDecoder",
    "ByteFallback",
    "CTC",
    "Metaspace",
    "Replace",
    "Strip",
    "WordPiece",
}
"""Decoders that look at a token, and at most at its neighbours."""
JOINING: Final = frozenset({"ByteLevel", "Fuse"})
"""Decoders that make one text of all tokens."""
TRIMMING: Final = frozenset({"Fuse", "Strip"})
"""Decoders that leave the middle of such a text alone."""


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[TokenId, ...]:
    """A prompt's tokens, with what the tokenizer puts in front of a text, but only once.

    A rendered chat template begins with it already.
    """
    tokens = tuple(map(int, tokenizer(text)["input_ids"]))
    first = str(tokenizer.convert_ids_to_tokens(tokens[0])) if tokens else ""
    if not (text.lstrip().startswith(first) and first in special_tokens(tokenizer)):
        return tokens
    own = tuple(map(int, tokenizer(text, add_special_tokens=False)["input_ids"]))
    for end in range(1, 1 + len(tokens) - len(own)):
        added, rest = tokens[:end], tokens[end:]
        if rest[: len(own)] == own and own[:end] == added:
            return rest
    return tokens


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> Mapping[str, TokenId]:
    """The tokens that are hidden from a text, by name."""
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    return {str(token): number for number, token in added.items() if token.special}


def detokenizer_of(tokenizer: PreTrainedTokenizerBase) -> Detokenizer:
    """Tokens to text as this tokenizer does it, without special tokens."""
    special = special_tokens(tokenizer)
    if not _is_plain(tokenizer):
        return Detokenizer(functools.partial(_decode, tokenizer), special=special, local=False)
    backend = tokenizer.backend_tokenizer
    parts = _parts(backend.decoder)
    bytewise = any(part["type"] == "ByteFallback" for part in parts)
    return Detokenizer(
        functools.partial(_decode_plainly, backend),
        clean=tokenizer.clean_up_tokenization if _cleans(tokenizer) else None,
        special=special,
        hidden=frozenset(special.values()) | (_gaps(backend) if bytewise else frozenset()),
        fallback=_single_bytes(backend) if bytewise else {},
        plain=_is_plain_behind_bytes(parts),
        local=_is_local(parts),
    )


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Any) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def _decode_plainly(backend: Any, tokens: Any) -> str:
    """The same without clean-up; the library's way around it takes longer than the decoding."""
    return str(backend.decode(tokens, skip_special_tokens=True))


def _is_plain(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it decodes as the library does, and in no way of its own."""
    names = ("decode", "_decode", "clean_up_tokenization")
    kind: Any = type(tokenizer)
    return isinstance(tokenizer, PreTrainedTokenizerFast) and all(
        getattr(kind, name) is getattr(PreTrainedTokenizerFast, name) for name in names
    )


def _cleans(tokenizer: Any) -> bool:
    """Whether spaces are cleaned up; with BPE the library does so only where it must."""
    name = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    forced = getattr(tokenizer, name, True)  # older versions knew no exception
    bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
    return bool(tokenizer.clean_up_tokenization_spaces and (forced or not bpe))


def _parts(decoder: Any) -> list[dict[str, Any]]:
    """A decoder's parts as its file describes them, in their order; none if there is no decoder."""
    if decoder is None:
        return []
    described = json.loads(decoder.__getstate__())
    return list(_flattened(described))


def _flattened(part: dict[str, Any]) -> list[dict[str, Any]]:
    if part["type"] != "Sequence":
        return [part]
    return list(itertools.chain.from_iterable(map(_flattened, part["decoders"])))


def _is_local(parts: list[dict[str, Any]]) -> bool:
    kinds = [part["type"] for part in parts]
    each = list(itertools.takewhile(TOKENWISE.__contains__, kinds))
    rest = kinds[len(each) :]
    joined = not rest or rest[0] in JOINING
    return joined and each.count("ByteFallback") <= 1 and set(rest[1:]) <= TRIMMING


def _is_plain_behind_bytes(parts: list[dict[str, Any]]) -> bool:
    """Whether nothing happens to a run of bytes but that it is joined to what is around it."""
    kinds = [part["type"] for part in parts]
    after = parts[kinds.index("ByteFallback") + 1 :] if "ByteFallback" in kinds else parts
    kinds = [part["type"] for part in after]
    trims_the_end = any(part.get("stop", 0) for part in after)
    return kinds[:1] in ([], ["Fuse"]) and set(kinds) <= TRIMMING and not trims_the_end


def _single_bytes(backend: Any) -> dict[TokenId, int]:
    spelled = ((f"<0x{byte:{style}}>", byte) for byte in range(256) for style in ("02X", "02x"))
    found = ((backend.token_to_id(name), byte) for name, byte in spelled)
    return {token: byte for token, byte in found if token is not None}


def _gaps(backend: Any) -> frozenset[TokenId]:
    """Numbers that are no token's: no text shows them."""
    numbers = set(backend.get_vocab(with_added_tokens=True).values())
    return frozenset(set(range(1 + max(numbers, default=0))) - numbers)
