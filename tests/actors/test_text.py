"""Text that streams: nothing is given out too early, nothing twice, nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from actors.text import TextStream
from decoding.stopping import before_stop
from decoding.text import Detokenizer


def _bytes(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are single bytes."""
    return bytes(tokens).decode("utf-8", errors="replace")


def _stream(chunks: Sequence[Sequence[int]], stop: Sequence[str] = ()) -> list[str]:
    stream = TextStream(Detokenizer(_bytes), stop)
    return [*(stream.push(chunk) for chunk in chunks), stream.finish()]


@given(
    text=st.text(max_size=40),
    cuts=st.lists(st.integers(0, 160), max_size=8),
    stop=st.lists(st.text(min_size=1, max_size=6), max_size=2),
)
def test_pieces_joined_are_the_text_up_to_the_first_stop_string(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    data = text.encode()
    at = [0, *sorted(cuts), len(data)]

    pieces = _stream([data[a:b] for a, b in pairwise(at)], stop)

    assert "".join(pieces) == before_stop(text, stop)


@given(data=st.binary(max_size=60), size=st.integers(1, 7))
def test_bytes_that_are_no_text_are_shown_as_the_tokenizer_shows_them(
    data: bytes, size: int
) -> None:
    """A model that is not sure writes such things."""
    pieces = _stream([data[i : i + size] for i in range(0, len(data), size)])

    assert "".join(pieces) == _bytes(data)


def test_half_a_character_is_held_back() -> None:
    pieces = _stream([b"a", "é".encode()[:1], "é".encode()[1:]])

    assert pieces == ["a", "", "é", ""]


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    pieces = _stream([b"one", b"EN", b"ergy"], stop=["END"])

    assert pieces == ["o", "ne", "ENer", "gy"]


def test_a_short_text_waits_for_a_long_stop_string() -> None:
    """The stop string is longer than all that was said so far."""
    pieces = _stream([b"abcdefgh", b"i", b"jkl"], stop=["x" * 12])

    assert pieces == ["", "", "a", "bcdefghijkl"]
