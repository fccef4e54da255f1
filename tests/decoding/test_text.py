"""A text that grows: at every step it is the text of all tokens, and what is sure stays.

Here with decoders of a line each; those of real tokenizers are in tests/actors/runners.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.decoding.text import CONTEXT, Detokenizer, GrowingText


def as_bytes(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def as_runs(tokens: Sequence[int]) -> str:
    """Bytes of a run are text together or not at all; from 128 to 159 stand words of a letter."""
    parts = itertools.groupby(tokens, key=lambda token: token in BYTES)
    return "".join(_run(list(run)) if is_run else "w" * len([*run]) for is_run, run in parts)


def _run(tokens: Sequence[int]) -> str:
    try:
        return bytes(tokens).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(tokens)


BYTES: Final = {token: token for token in range(256) if token not in range(128, 160)}


def as_words(tokens: Sequence[int]) -> str:
    return " ".join("abc"[token % 3] for token in tokens)


def as_lines(tokens: Sequence[int]) -> str:
    """Nothing of it is sure: a line that is whole goes to the front."""
    return "\n".join(reversed(as_words(tokens).split("c")))


def without_spaces(text: str) -> str:
    return text.replace(" b", "b")


@pytest.mark.parametrize(
    "detokenizer",
    [
        Detokenizer(as_bytes),
        Detokenizer(as_runs, fallback=BYTES),
        Detokenizer(as_runs, fallback=BYTES, plain=True),
        Detokenizer(as_words),
        Detokenizer(as_words, clean=without_spaces),
        Detokenizer(as_words, local=False),
        Detokenizer(as_lines, local=False),
        Detokenizer(as_lines),
    ],
    ids=[
        "bytes",
        "runs",
        "plain runs",
        "words",
        "cleaned",
        "as a whole",
        "turned round",
        "not what it says",
    ],
)
@given(tokens=st.binary(max_size=60), size=st.integers(1, 5))
def test_the_text_is_that_of_all_tokens(detokenizer: Detokenizer, tokens: bytes, size: int) -> None:
    """Also of a decoder that is said to be local and is found out not to be."""
    growing = GrowingText(detokenizer)
    for end in range(0, len(tokens) + size, size):
        growing.push(list(tokens[end - size : end] if end else b""))

        assert growing.text == detokenizer(tokens[:end])
        assert 0 <= growing.sure <= len(growing.text)


@given(tokens=st.binary(max_size=40), more=st.binary(max_size=10))
def test_what_is_sure_stays_whatever_comes(tokens: bytes, more: bytes) -> None:
    growing = GrowingText(Detokenizer(as_bytes))
    growing.push(list(tokens))

    assert as_bytes(tokens + more).startswith(growing.text[: growing.sure])
    assert len(growing.text) - growing.sure <= 1


@pytest.mark.parametrize(
    "repeated",
    [b"letters", b"\xe2", "❤".encode()],
    ids=["letters", "no text at all", "thirds of a character"],
)
def test_a_token_of_a_long_text_costs_what_one_of_a_short_text_costs(repeated: bytes) -> None:
    decoded = []

    def counted(tokens: Sequence[int]) -> str:
        decoded.append(len(tokens))
        return as_bytes(tokens)

    growing, count = GrowingText(Detokenizer(counted)), 2000
    for at in range(count):
        growing.push([repeated[at % len(repeated)]])

    assert max(decoded) <= 5 * CONTEXT
    assert sum(decoded) <= 5 * CONTEXT * count


def test_nor_does_a_byte_of_a_long_run() -> None:
    decoded = []

    def counted(tokens: Sequence[int]) -> str:
        decoded.append(len(tokens))
        return as_runs(tokens)

    growing = GrowingText(Detokenizer(counted, fallback=BYTES, plain=True))
    for token in [128, *b"abc" * 999, 128]:
        growing.push([token])

    assert growing.text == "w" + "abc" * 999 + "w"
    assert decoded == [1, 2999, CONTEXT]


def test_a_run_is_sure_when_it_is_over() -> None:
    """A byte that is none makes no text of all that were before it."""
    growing = GrowingText(Detokenizer(as_runs, fallback=BYTES))
    found = []
    for token in (128, *b"ab", 128, *b"ab", 0xFF, 128):
        growing.push([token])
        found.append((growing.text, growing.sure))

    assert found[2:4] == [("wab", 1), ("wabw", 4)]
    assert found[5:] == [("wabwab", 4), ("wabw" + 3 * "\ufffd", 4), ("wabw\ufffd\ufffd\ufffdw", 8)]


def test_hidden_tokens_are_no_context() -> None:
    """Any number of them may stand between two halves of a character."""
    one, two = "é".encode()
    growing = GrowingText(Detokenizer(as_bytes, hidden=frozenset({0})))
    growing.push([one, *[0] * 50])
    growing.push([0] * 50)
    growing.push([two])

    assert growing.text == "é"


def test_half_a_character_is_not_finished_and_a_whole_one_that_looks_like_it_is() -> None:
    growing = GrowingText(Detokenizer(as_bytes))
    growing.push([97, 0xE2])
    half = growing.finished
    growing.push([98])

    assert half == 1
    assert growing.text == "a\ufffdb"
    assert growing.finished == growing.sure == 3
