"""The library in a process of its own: the same text, and one line when something is wrong."""

from __future__ import annotations

import os
from typing import Final

import pytest

from pearl.actors.pair import DRAFT, TARGET
from pearl.actors.runners.reference import Assistance, Reference, ReferenceRequest, ReferenceSpec
from pearl.decoding.errors import ModelError, PeerError
from pearl.harness import reference_process
from pearl.harness.reference_process import ReferenceProcess

SPEC: Final = ReferenceSpec(target=str(TARGET), draft=str(DRAFT))
ASKED: Final = ReferenceRequest(
    prompt=(0, 300, 301, 302),
    max_new_tokens=12,
    assistance=Assistance(tokens=3, threshold=0.0),
)


@pytest.mark.slow
async def test_a_process_of_its_own_writes_the_same() -> None:
    async with await ReferenceProcess.start(SPEC) as process:
        there = await process.generate(ASKED)

    assert there.tokens == Reference(SPEC).generate(ASKED).tokens


@pytest.mark.slow
async def test_what_cannot_be_loaded_is_told_by_the_process() -> None:
    spec = ReferenceSpec(target="/no/such/model", draft="/no/such/model")

    with pytest.raises(ModelError, match="there is no folder /no/such/model"):
        await ReferenceProcess.start(spec)


@pytest.mark.slow
async def test_a_process_that_ends_is_an_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with await ReferenceProcess.start(SPEC) as process:
        monkeypatch.setattr(reference_process, "_write", _end)
        with pytest.raises(PeerError, match="the process of the reference ended"):
            await process.generate(ASKED)


def _end(_: ReferenceRequest) -> None:
    os._exit(3)
