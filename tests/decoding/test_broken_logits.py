"""Logits that are no law: said with their position, and never made a token of."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import pytest
import torch

from pearl.decoding.errors import LogitsError
from pearl.decoding.messages import Drafted
from pearl.decoding.sampling import Sampling
from pearl.decoding.verification import Verifier, make_verifier

VOCAB: Final = 6
BROKEN: Final = {
    "NaN": [0.0, math.nan, 1.0, 2.0, 3.0, 4.0],
    "plus infinity": [0.0, 1.0, math.inf, 2.0, 3.0, 4.0],
    "no possible token": [-math.inf] * VOCAB,
}
SOUND: Final = [0.0, -math.inf, 1.0, 9.0, -math.inf, 2.0]
"""Masks are legal; the most likely token is 3, by far."""
FILTERS: Final = (
    Sampling(temperature=1.0),
    Sampling(temperature=1e-30),
    Sampling(temperature=0.5, top_k=2, top_p=0.9, min_p=0.01),
)


def _verifiers() -> list[Any]:
    found = [pytest.param(make_verifier("greedy", Sampling(), 0), id="greedy")]
    for name in ("coupled", "rejection"):
        for number, sampling in enumerate(FILTERS):
            verifier = make_verifier(name, sampling, 0)
            found.append(pytest.param(verifier, id=f"{name} {number}"))
    return found


def _rows(library: str, *rows: list[float]) -> Any:
    array = np.array(rows, dtype=np.float32)
    return array if library == "numpy" else torch.from_numpy(array)


def _drafted(verifier: Verifier, library: str, count: int) -> Drafted:
    """Tokens that the target agrees with, with the laws they were drawn from."""
    written = [verifier.draft(_rows(library, SOUND), position) for position in range(count)]
    return Drafted(
        tokens=tuple(token for each in written for token in each.tokens),
        laws=tuple(law for each in written for law in each.laws),
    )


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("verifier", _verifiers())
def test_a_draft_says_where_its_logits_are_broken(
    verifier: Verifier, what: str, library: str
) -> None:
    with pytest.raises(
        LogitsError, match=f"^the logits at position 7 after the prompt hold {what}$"
    ):
        verifier.draft(_rows(library, BROKEN[what]), 7)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("verifier", _verifiers())
def test_a_target_says_at_which_of_its_rows_they_are_broken(
    verifier: Verifier, at: int, what: str, library: str
) -> None:
    rows = [SOUND] * 3
    rows[at] = BROKEN[what]
    drafted = _drafted(verifier, library, 2)

    with pytest.raises(LogitsError, match=f"position {at} after the prompt hold {what}"):
        verifier.judge(_rows(library, *rows), drafted, 0, hold=False)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_rows_behind_a_refusal_are_nobodys_business(library: str) -> None:
    """The target alone would have written another token there, and never seen that row."""
    greedy = make_verifier("greedy", Sampling(), 0)
    rows = _rows(library, SOUND, BROKEN["NaN"])

    assert greedy.judge(rows, Drafted(tokens=(5,)), 0, hold=False).token == 3


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("verifier", _verifiers())
def test_masked_tokens_are_legal_and_never_drawn(verifier: Verifier, library: str) -> None:
    drawn = {verifier.draft(_rows(library, SOUND), position).tokens[0] for position in range(200)}

    assert drawn <= {0, 2, 3, 5}


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1e-308),
        Sampling(temperature=1.0, top_p=1e-60),
        Sampling(temperature=1.0, min_p=1.0),
    ],
    ids=["no temperature", "no probability", "nothing less likely"],
)
def test_laws_as_narrow_as_can_be_are_the_most_likely_token(
    sampling: Sampling, library: str
) -> None:
    """What the numbers of the logits cannot hold is not taken for a fault of the model."""
    verifier = make_verifier("coupled", sampling, 0)

    assert verifier.draft(_rows(library, SOUND), 0).tokens == (3,)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_highest_temperature_makes_all_that_is_possible_alike(library: str) -> None:
    verifier = make_verifier("coupled", Sampling(temperature=1e308), 0)
    drawn = {verifier.draft(_rows(library, SOUND), position).tokens[0] for position in range(200)}

    assert drawn == {0, 2, 3, 5}
