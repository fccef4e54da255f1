"""Prompts, and text that streams: nothing is given out too early or twice, nothing is lost."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pearl.actors.text import check_ids, check_stop
from pearl.decoding.errors import PromptError, SettingError
from pearl.decoding.stopping import TextStream
from pearl.decoding.text import Detokenizer
from tests.actors.tokenizers import before_stop


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

    assert pieces == ["one", "", "ENergy", ""]


def test_of_several_stop_strings_the_one_that_holds_back_most_counts() -> None:
    pieces = _stream([b"xa--", b"- b"], stop=["--!", "a---!"])

    assert pieces == ["x", "a--- b", ""]


def test_a_replacement_character_stops_a_text_only_where_it_is_no_half_of_another() -> None:
    stream = TextStream(Detokenizer(_bytes), stop=["\ufffd"])
    heart = "❤".encode()

    assert [stream.push([byte]) for byte in b"a" + heart] == ["a", "", "", "❤"]
    assert [stream.push(b"\xffb"), stream.finish(), stream.text] == ["", "", "a❤"]


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [[1, 2, 3], (1, 2, 3), range(1, 4), array("q", [1, 2, 3]), np.array([1, 2, 3]),
     np.array([1, 2, 3], np.uint16), [np.int64(1), 2, np.int8(3)], torch.tensor([1, 2, 3])],
    ids=lambda prompt: type(prompt).__name__,
)  # fmt: skip
def test_tokens_are_taken_from_any_row_of_whole_numbers(prompt: object) -> None:
    tokens = check_ids(prompt, 4)

    assert tokens == (1, 2, 3)
    assert {type(token) for token in tokens} == {int}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (None, "the prompt is of type NoneType; it must be text or a list of token ids"),
        (7, "of type int;"),
        (1.5, "of type float;"),
        (b"abc", "of type bytes;"),
        (bytearray(b"abc"), "of type bytearray;"),
        ({1, 2}, "of type set;"),
        ({1: 2}, "of type dict;"),
        (iter([1]), "of type list_iterator;"),
        (np.array([[1, 2]]), "of type ndarray;"),
        (np.array(1), "of type ndarray;"),
        ([1, True], "token 1 of the prompt is True; it must be a whole number from 0 to 3"),
        ([np.bool_(True)], "token 0"),  # noqa: FBT003 - a value like any other
        ([1, 2, 4], "token 2 of the prompt is 4"),
        ([-1], "token 0 of the prompt is -1"),
        ([1.0], "token 0 of the prompt is 1.0"),
        (np.array([1.0]), "token 0"),
        (torch.tensor([True]), "token 0 of the prompt is True"),
        (["1"], "token 0 of the prompt is '1'"),
        ([[1]], r"token 0 of the prompt is \[1\]"),
        ([None], "token 0 of the prompt is None"),
        ([10**30], "token 0 of the prompt is 1000"),
        ([10**5000], "token 0 of the prompt is an endless number"),
        (["text " * 999], "token 0 of the prompt is 'text text"),
        ([np.zeros((9, 9))], "token 0 of the prompt is array"),
    ],
)
def test_what_is_no_row_of_tokens_is_refused_in_one_line(prompt: object, words: str) -> None:
    with pytest.raises(PromptError, match=words) as refusal:
        check_ids(prompt, 4)

    assert len(str(refusal.value)) < 120
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ("\n<end>", r"stop is '\\n<end>'; the special token '<end>' in it is hidden"),
        ("<end> ", "give it alone"),
        ("a\udc80", "no text contains it"),
    ],
)
def test_a_stop_text_that_can_never_come_is_refused(stop: str, words: str) -> None:
    detokenizer = Detokenizer(_bytes, special={"<end>": 7, "<end>!": 8, "": 9})
    for fine in ("<end>", "<end>!", "<en", "text"):
        check_stop(["text", fine], detokenizer)

    with pytest.raises(SettingError, match=words):
        check_stop(["text", stop], detokenizer)
