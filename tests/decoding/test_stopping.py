"""Where a request ends: at the first of three ends, never beyond."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.decoding.stopping import FinishReason, StopRules, first_stop
from pearl.decoding.text import Detokenizer

LETTERS = ["a", "b", "ab", "ba", "é", "\n"]
HEART = "❤".encode()  # three bytes


def spelled(tokens: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in tokens)


def byte_by_byte(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("committed", "new", "admitted", "reason"),
    [
        ([], [5, 6], (5, 6), None),
        ([], [5, 2, 6], (5, 2), FinishReason.EOS),
        ([5, 5], [6, 6, 6], (6, 6), FinishReason.LENGTH),
        ([5, 5, 5], [2, 6], (2,), FinishReason.EOS),
        ([5, 5, 5], [6, 2], (6,), FinishReason.LENGTH),
        ([5], [], (), None),
    ],
    ids=[
        "nothing ends it",
        "the end of the sequence inside a verdict",
        "the limit inside a verdict",
        "the end of the sequence at the limit",
        "the end of the sequence beyond the limit",
        "a verdict without tokens",
    ],
)
def test_the_first_end_counts(
    committed: list[int], new: list[int], admitted: tuple[int, ...], reason: FinishReason | None
) -> None:
    """Limit 4, end of sequence 2. The token that ends a text is part of it."""
    stop = StopRules(limit=4, eos=frozenset({2}))

    assert stop.admit(committed, new) == (admitted, reason)


@pytest.mark.parametrize(
    ("strings", "committed", "new", "admitted"),
    [
        (("bb",), [0, 1], [1, 0], (1,)),
        (("aba",), [0], [3, 0], (3,)),
        (("aa", "bb"), [0], [1, 1, 0], (1, 1)),
        (("a\nb",), [2, 0, 5], [1], (1,)),
        (("é",), [], [0, 4, 0], (0, 4)),
    ],
    ids=["two tokens", "half a token", "either string", "three tokens", "two bytes"],
)
def test_a_stop_string_is_found_across_tokens(
    strings: tuple[str, ...], committed: list[int], new: list[int], admitted: tuple[int, ...]
) -> None:
    stop = StopRules(limit=99, strings=strings, text=Detokenizer(spelled))

    assert stop.admit(committed, new) == (admitted, FinishReason.STOP)


def test_a_character_of_several_tokens_stops_when_it_is_whole() -> None:
    """A byte is a token here; two bytes of a heart are no heart."""
    stop = StopRules(limit=99, strings=("❤",), text=Detokenizer(byte_by_byte))

    assert stop.admit([*b"I ", *HEART[:1]], HEART[1:2]) == ((HEART[1],), None)
    assert stop.admit([*b"I ", *HEART[:2]], [HEART[2], 33]) == ((HEART[2],), FinishReason.STOP)


@given(
    text=st.text(alphabet="abé❤", min_size=1, max_size=12),
    string=st.text(alphabet="abé❤", min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 5), min_size=40, max_size=40),
)
def test_a_text_ends_where_the_string_first_appears_however_verdicts_cut_it(
    text: str, string: str, cuts: list[int]
) -> None:
    """Byte tokens, verdicts of any size, against a search of the whole text."""
    stop = StopRules(limit=99, strings=(string,), text=Detokenizer(byte_by_byte))
    left, committed, reason = list(text.encode()), list[int](), None
    for cut in cuts:
        if reason is None:
            admitted, reason = stop.admit(committed, left[:cut])
            committed, left = committed + list(admitted), left[cut:]

    ended = text.find(string)
    expected = text if ended < 0 else text[: ended + len(string)]
    if reason is not None or not left:
        assert byte_by_byte(committed) == expected
        assert (reason is FinishReason.STOP) == (ended >= 0)


def test_the_first_stop_string_is_found_within_bounds() -> None:
    """The token that completes it may say more; none of that is shown."""
    assert first_stop("to be or not to be", ("or", "be"), 0, 18) == 3
    assert first_stop("to be or not to be", ("or", "be"), 4, 18) == 6
    assert first_stop("to be or not to be", ("be",), 4, 17) is None
    assert first_stop("to be", (), 0, 5) is None


def test_a_special_token_stops_a_text_that_does_not_show_it() -> None:
    text = Detokenizer(byte_by_byte, special={"<end>": 7}, hidden=frozenset({7}))
    stop = StopRules(limit=99, strings=("never", "<end>"), text=text)

    assert stop.admit([*b"<en"], [7, 65]) == ((7,), FinishReason.STOP)
    assert stop.admit([*b"<end"], [*b">", 65]) == (tuple(b">"), FinishReason.STOP)


def test_hidden_tokens_within_a_stop_string_do_not_hide_it() -> None:
    text = Detokenizer(byte_by_byte, hidden=frozenset({7}))
    stop = StopRules(limit=99, strings=("END",), text=text)

    assert stop.admit([*b"E", *[7] * 40, *b"N"], [7, *b"D!"]) == ((7, *b"D"), FinishReason.STOP)


def test_admitting_depends_on_nothing_but_what_is_given() -> None:
    """Rules remember what they read, and may still be asked about any text in any order."""
    stop = StopRules(limit=99, strings=("ab",), text=Detokenizer(byte_by_byte))
    asked = [(b"xa", b"b"), (b"xa", b"b"), (b"xb", b"b"), (b"", b"ab"), (b"a", b"b"), (b"b", b"b")]

    found = [stop.admit(tuple(committed), tuple(new))[1] for committed, new in asked]

    assert found == [*[FinishReason.STOP] * 2, None, *[FinishReason.STOP] * 2, None]


def test_a_long_text_with_a_stop_string_is_not_read_again_and_again() -> None:
    read = []

    def counted(tokens: Sequence[int]) -> str:
        read.append(len(tokens))
        return byte_by_byte(tokens)

    stop = StopRules(limit=9999, strings=("never" * 99,), text=Detokenizer(counted))
    committed: list[int] = []
    for at in range(1000):
        committed += stop.admit(committed, [65 + at % 26, 32])[0]

    assert max(read) < 50
