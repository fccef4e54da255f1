"""Attention in shapes that agree to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pearl.actors.runners.attention import CHUNK, MOST_TOKENS, STEP, Attention, Heads

HEADS = Heads(shared=2, group=3, width=16)
ONE_EACH = Heads(shared=3, group=1, width=64)


def _drawn(heads: Heads, tokens: int, used: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (tokens, heads, width), keys and values (1, shared, used, width)."""
    draw = torch.Generator().manual_seed(3)
    shared, group, width = heads
    queries = torch.randn(tokens, shared * group, width, generator=draw)
    keys, values = torch.randn(2, 1, shared, used, width, generator=draw)
    return queries, keys, values


def _mask(tokens: int, end: int, used: int) -> Tensor:
    """The last `tokens` of a text of `end` tokens, in a range that may be longer."""
    last = torch.arange(end - tokens, end)[:, None]
    hidden = torch.arange(used) > last
    return torch.zeros(1, 1, tokens, used).masked_fill_(hidden, torch.finfo(torch.float32).min)


def _attended(attention: Attention, heads: Heads, tokens: int, end: int) -> Tensor:
    """What the last tokens of a text get."""
    used = attention.used(end)
    queries, keys, values = _drawn(heads, 40, 4 * CHUNK)
    added = attention.added(_mask(tokens, end, used), 1, tokens)
    attend = attention.attend(1, tokens, used, added)
    return attend(queries[40 - tokens :], keys[:, :, :used], values[:, :, :used])


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("end", [30, 200, CHUNK + 70, 3 * CHUNK])
def test_it_is_attention(end: int, same: bool) -> None:  # noqa: FBT001
    attention = Attention(HEADS, 0.3, None, same=same)
    queries, keys, values = (it.double() for it in _drawn(HEADS, 40, 4 * CHUNK))

    found = _attended(attention, HEADS, 7, end)

    expected = functional.scaled_dot_product_attention(
        queries[33:].transpose(0, 1)[None],
        keys[:, :, :end],
        values[:, :, :end],
        attn_mask=_mask(7, end, end).double(),
        scale=0.3,
        enable_gqa=True,
    )
    expected = expected[0].transpose(0, 1).reshape(7, -1)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("heads", [HEADS, ONE_EACH])
@pytest.mark.parametrize("end", [50, 150, 250, 350, CHUNK, CHUNK + 70, 3 * CHUNK + 11])
def test_a_token_gets_the_same_bits_in_windows_of_all_widths(
    end: int, heads: Heads, cap: float | None
) -> None:
    attention = Attention(heads, heads.width**-0.5, cap, same=True)
    expected = _attended(attention, heads, 1, end)

    found = [_attended(attention, heads, tokens, end)[-1:] for tokens in range(2, 41)]

    assert all(torch.equal(each, expected) for each in found)


def test_ranges_are_rounded_up_to_lengths_that_agree() -> None:
    attention = Attention(HEADS, 0.25, None, same=True)
    wanted = range(1, 3 * CHUNK)

    taken = [attention.used(length) for length in wanted]

    assert all(used >= length for used, length in zip(taken, wanted, strict=True))
    assert all(used - length < CHUNK for used, length in zip(taken, wanted, strict=True))
    assert all(used % STEP == 0 for used in taken)


def test_where_rounding_is_free_nothing_is_rounded_up() -> None:
    attention = Attention(HEADS, 0.25, None, same=False)

    assert [attention.used(length) for length in (1, 77, 5000)] == [1, 77, 5000]
    assert [attention.tokens(count) for count in (1, 9, MOST_TOKENS)] == [1, 9, MOST_TOKENS]
