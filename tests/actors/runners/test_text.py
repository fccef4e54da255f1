"""Every kind of tokenizer: a text put together bit by bit is the text of the whole.

The reference is the library's own `decode` of all tokens, after every token: slow, and right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pearl.actors import pair
from pearl.actors.runners.text import detokenizer_of, encode
from pearl.decoding.stopping import FinishReason, StopRules, TextStream
from pearl.decoding.text import GrowingText
from tests.actors.tokenizers import BYTE_LETTERS, BYTES, KINDS, SPECIAL, before_stop

MADE = {kind: detokenizer_of(tokenizer) for kind, tokenizer in KINDS.items()}
GUESSED = {"replaced at last", "in its own way"}
"""Decoders of which nothing is known."""
kinds = pytest.mark.parametrize("kind", list(KINDS))


def _whole(kind: str, tokens: Sequence[int]) -> str:
    return str(KINDS[kind].decode(list(tokens), skip_special_tokens=True))


def _byte(kind: str, byte: int) -> list[int]:
    known = KINDS[kind].get_vocab()
    return [known[name] for name in (f"<0x{byte:02X}>", BYTE_LETTERS[byte]) if name in known][:1]


@st.composite
def texts(draw: st.DrawFn, kind: str) -> list[int]:
    """Words, hidden tokens, characters in single bytes, and bytes that are none."""
    known = KINDS[kind].get_vocab()
    words = sorted(n for name, n in known.items() if name not in BYTE_LETTERS + BYTES)
    spelled = st.sampled_from([*"👩❤世 '\n", "\ufffd"]).map(str.encode)
    raw = st.one_of(spelled, st.binary(min_size=1, max_size=2), st.just("❤".encode()[:2]))
    token = st.one_of(
        st.sampled_from(words).map(lambda n: [n]),
        st.sampled_from(SPECIAL).map(lambda name: [known[name]]),
        raw.map(lambda data: [n for byte in data for n in _byte(kind, byte)]),
    )
    # The library itself cannot trim an empty text.
    begun = [known["Hi"]] if kind == "bytes, trimmed" else []
    return begun + [n for part in draw(st.lists(token, max_size=30)) for n in part]


cuts = st.lists(st.integers(1, 5), min_size=1, max_size=8)


def _cut(tokens: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """The tokens in parts of these sizes, over and over."""
    at = [0]
    while at[-1] < len(tokens):
        at.append(at[-1] + sizes[(len(at) - 1) % len(sizes)])
    return [list(tokens[a:b]) for a, b in pairwise(at)]


@kinds
def test_known_decoders_are_local(kind: str) -> None:
    assert MADE[kind].local == (kind not in GUESSED)


def test_runs_of_bytes_are_known_for_what_they_are() -> None:
    byte = {kind for kind, made in MADE.items() if made.fallback}

    assert byte == {kind for kind in KINDS if kind.startswith("bytes")}
    assert {kind for kind in byte if not MADE[kind].plain} == {"bytes, trimmed"}
    assert all(sorted(MADE[kind].fallback.values()) == list(range(256)) for kind in byte)


@pytest.mark.slow
@kinds
@settings(max_examples=40)
@given(data=st.data())
def test_a_growing_text_is_at_every_step_what_the_library_decodes(
    kind: str, data: st.DataObject
) -> None:
    tokens, sizes = data.draw(texts(kind)), data.draw(cuts)
    growing, whole = GrowingText(MADE[kind]), _whole(kind, tokens)
    for part in _cut(tokens, sizes):
        growing.push(part)

        assert growing.text == _whole(kind, growing.tokens)
        if kind not in GUESSED:
            assert whole.startswith(growing.text[: growing.sure])


@pytest.mark.slow
@kinds
@settings(max_examples=40)
@given(data=st.data())
def test_pieces_joined_are_what_the_library_decodes(kind: str, data: st.DataObject) -> None:
    """So no piece can show a replacement character that is not in the text."""
    tokens, sizes = data.draw(texts(kind)), data.draw(cuts)
    stream = TextStream(MADE[kind])
    pieces = [*(stream.push(part) for part in _cut(tokens, sizes)), stream.finish()]

    assert "".join(pieces) == stream.text == _whole(kind, tokens)


@st.composite
def stops(draw: st.DrawFn, text: str) -> tuple[str, ...]:
    """Parts of the text, more often than not."""
    starts = st.integers(0, max(0, len(text) - 1))
    part = st.tuples(starts, st.integers(1, 5)).map(lambda at: text[at[0] : sum(at)])
    other = st.sampled_from([" '", "a '", "n't", " ", "\n", "👩", "ab"])
    # A replacement character may be half of another one: it has a test of its own.
    usable = st.one_of(part, other).filter(lambda stop: stop and "\ufffd" not in stop)
    return tuple(draw(st.lists(usable, min_size=1, max_size=2)))


@pytest.mark.slow
@kinds
@settings(max_examples=40)
@given(data=st.data())
def test_a_text_ends_at_the_first_token_with_which_it_contains_a_stop_text(
    kind: str, data: st.DataObject
) -> None:
    """And before the stop text, whatever the verdicts were."""
    tokens, sizes = data.draw(texts(kind)), data.draw(cuts)
    strings = data.draw(stops(_whole(kind, tokens)))
    rules = StopRules(limit=max(1, len(tokens)), strings=strings, text=MADE[kind])
    stream, pieces = TextStream(MADE[kind], strings), list[str]()
    committed, reason = list[int](), None
    for part in _cut(tokens, sizes):
        if reason is None:
            admitted, reason = rules.admit(committed, part)
            committed += admitted
            pieces.append(stream.push(admitted))
    pieces.append(stream.finish())

    prefixes = (tokens[:count] for count in range(1, len(tokens) + 1))
    first = next((p for p in prefixes if any(s in _whole(kind, p) for s in strings)), None)
    assert committed == (tokens if first is None else first)
    assert (reason is FinishReason.STOP) == (first is not None)
    assert "".join(pieces) == before_stop(_whole(kind, committed), strings)


# -- hidden tokens ---------------------------------------------------------------------------------


def test_the_name_of_a_hidden_token_stops_at_the_token() -> None:
    user, hi = (KINDS["bytes as in Llama"].get_vocab()[name] for name in ("<|user|>", "▁Hi"))
    rules = StopRules(limit=9, strings=("<|user|>",), text=MADE["bytes as in Llama"])

    assert rules.admit([hi], [hi, user, hi]) == ((hi, user), FinishReason.STOP)


def test_the_name_of_a_hidden_token_stops_where_it_is_spelled_too() -> None:
    tokens = [n for byte in b"<|user|>!" for n in _byte("byte-level", byte)]
    rules = StopRules(limit=99, strings=("<|user|>",), text=MADE["byte-level"])

    assert rules.admit([], tokens) == (tuple(tokens[:-1]), FinishReason.STOP)


def test_a_token_that_is_shown_is_no_hidden_one() -> None:
    assert "<shown>" not in MADE["byte-level"].special
    assert set(SPECIAL) <= set(MADE["byte-level"].special)


# -- prompts ---------------------------------------------------------------------------------------


def _prefixed(*prefix: str) -> PreTrainedTokenizerFast:
    """A tokenizer that puts special tokens in front of a text."""
    names = dict.fromkeys([*prefix, "a", "b", "<unk>"])
    tokenizer = Tokenizer(models.WordLevel({name: n for n, name in enumerate(names)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(prefix))
    known = tokenizer.get_vocab()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*prefix, "$A"]), special_tokens=[(name, known[name]) for name in prefix]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.mark.parametrize(
    ("prefix", "prompt", "tokens"),
    [
        (("<s>",), "a b", (0, 1, 2)),
        (("<s>",), "<s>a b", (0, 1, 2)),
        (("<s>",), "<s> a", (0, 1)),
        (("<s>",), "<s>", (0,)),
        (("<s>",), "", (0,)),
        (("<s>",), "<s><s>a", (0, 0, 1)),
        (("<s>",), "a<s>", (0, 1, 0)),
        (("[M]", "<sop>"), "a", (0, 1, 2)),
        (("[M]", "<sop>"), "[M]<sop>a", (0, 1, 2)),
        (("[M]", "<sop>"), "[M]a", (0, 1, 0, 2)),
        ((), "a b", (0, 1)),
        ((), "", ()),
    ],
)
def test_what_begins_a_text_is_put_before_it_once(
    prefix: tuple[str, ...], prompt: str, tokens: tuple[int, ...]
) -> None:
    """A chat template that was rendered has it already."""
    assert encode(_prefixed(*prefix), prompt) == tokens


def test_a_prompt_is_otherwise_what_the_library_makes_of_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(pair.TARGET)
    for prompt in ("def f(x):", " a", "", "\n", "x <|endoftext|> y"):
        assert encode(tokenizer, prompt) == tuple(tokenizer(prompt)["input_ids"])
