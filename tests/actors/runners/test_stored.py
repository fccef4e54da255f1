"""Weights are read a tensor at a time, when they are wanted, and somebody hears how far that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from pearl.actors.runners.describing import describe
from pearl.actors.runners.loading import load_model, loading_bytes
from pearl.actors.runners.stored import stored
from tests.actors.runners.saved import edit, save

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.arange(2.0)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose weights are stored in two bytes a number."""
    folder = save(tmp_path_factory.mktemp("models") / "halves", width=4096)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def test_a_tensor_is_what_the_file_holds(file: Path) -> None:
    """All of it, or the part that a library asks for."""
    found = stored([file], 32, heard=lambda _: None)

    assert torch.equal(found["a"][...], TENSORS["a"])
    assert torch.equal(found["b"][1:], TENSORS["b"][1:])


def test_a_tensor_is_read_when_it_is_wanted_and_the_share_is_heard(file: Path) -> None:
    """24 of 32 bytes, then the others."""
    heard: list[float] = []
    found = stored([file], 32, heard.append)
    assert heard == []

    found["a"][...], found["b"][...]

    assert heard == [0.75, 1.0]


def test_a_model_is_the_one_that_the_library_would_load(halves: Path) -> None:
    """Weights, buffers that no file holds, and what is tied."""
    model = load_model(str(halves), dtype="float32")
    library: Any = AutoModelForCausalLM.from_pretrained(halves, dtype=torch.float32)

    expected = dict(library.named_buffers()) | library.state_dict()
    found = dict(model.named_buffers()) | model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_tied_head_stays_tied(tmp_path: Path) -> None:
    """One matrix, not two that are equal."""
    folder = save(tmp_path / "tied", width=64)
    edit(folder, tie_word_embeddings=True)
    weights = {
        k: v for k, v in load_model(str(folder)).state_dict().items() if k != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    model = load_model(str(folder))

    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reading_takes_one_copy_of_the_weights_and_one_tensor_more(
    halves: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much as `check_memory` asks for, counted in bytes that were taken and given back."""
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # the count is of this thread alone
    described = describe(str(halves))

    with counted() as peak:
        load_model(str(halves), dtype=dtype)

    weights = described.parameters * getattr(torch, dtype).itemsize
    assert weights <= peak() <= loading_bytes(described, device="cpu", dtype=dtype)


@contextmanager
def counted() -> Iterator[Any]:
    """The most bytes that torch held at once, of those taken meanwhile."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        yield lambda: peak_of(profile)


def peak_of(profile: Any) -> int:
    held = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
