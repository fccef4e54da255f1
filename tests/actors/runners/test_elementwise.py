"""Functions of single numbers, in pieces that kernels take alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pearl.actors.runners.elementwise import SERIAL, serially
from pearl.actors.runners.families import ACTIVATIONS

TALL = 70


@pytest.mark.parametrize("width", [48, 77, 512, 3000, SERIAL + 100])
@pytest.mark.parametrize("function", ACTIVATIONS.values())
def test_a_row_gets_the_same_bits_whatever_rows_stand_beside_it(
    function: Callable[[Tensor], Tensor], width: int
) -> None:
    x = torch.randn(TALL, width, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([serially(function)(row[None]) for row in x])

    found = [serially(function)(x[:rows]) for rows in (2, 3, 17, 64, TALL)]

    assert all(torch.equal(each, expected[: len(each)]) for each in found)
    torch.testing.assert_close(expected, function(x))


@pytest.mark.parametrize("width", [48, 77, 3000])
@pytest.mark.parametrize("function", ACTIVATIONS.values())
def test_a_half_of_a_wider_row_gets_the_same_bits(
    function: Callable[[Tensor], Tensor], width: int
) -> None:
    """Gate and up stand side by side."""
    x = torch.randn(TALL, 2 * width, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([serially(function)(row[None].chunk(2, 1)[0]) for row in x])

    found = serially(function)(x.chunk(2, 1)[0])

    assert torch.equal(found, expected)
