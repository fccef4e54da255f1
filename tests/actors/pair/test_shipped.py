from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging

from pearl.actors.pair import DRAFT, TARGET
from pearl.actors.training import measure, models

PROMPTS = (
    'def greatest_common_divisor(a, b):\n    """Return the largest divisor of both."""',
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, x):",
    "import os\nimport sys\n\n\ndef main(argv=None):\n    args = argv or sys.argv[1:]\n    for",
    'def read_lines(path, encoding="utf-8"):\n    with open(path, encoding=encoding) as file:',
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.mark.parametrize("folder", [TARGET, DRAFT])
def test_a_shipped_folder_loads_like_any_other_model(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    settings = GenerationConfig.from_pretrained(folder, local_files_only=True)

    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == settings.eos_token_id == tokenizer.eos_token_id == 0


def test_both_models_speak_the_same_tokens() -> None:
    """Speculative decoding compares token ids, so the two vocabularies must be one."""
    assert (TARGET / "tokenizer.json").read_bytes() == (DRAFT / "tokenizer.json").read_bytes()


def test_a_prompt_begins_with_the_token_between_documents() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TARGET, local_files_only=True)

    assert tokenizer("x = 1")["input_ids"][0] == tokenizer.bos_token_id == tokenizer.eos_token_id


@given(text=st.text())
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokens = shipped_tokenizer()(text)["input_ids"]

    assert shipped_tokenizer().decode(tokens[1:]) == text


@functools.cache
def shipped_tokenizer() -> Any:
    """Read once, for all texts."""
    return AutoTokenizer.from_pretrained(TARGET, local_files_only=True)


def test_the_pair_is_small_enough_to_be_part_of_a_package() -> None:
    files = [file for folder in (TARGET, DRAFT) for file in folder.iterdir()]

    assert sum(file.stat().st_size for file in files) < 32e6


@pytest.mark.slow
def test_the_target_keeps_most_of_what_the_draft_proposes() -> None:
    """The examples, the demo and the benchmarks rest on this; the bounds leave room for luck."""
    tokenizer = AutoTokenizer.from_pretrained(TARGET, local_files_only=True)
    rows = [tokenizer(prompt)["input_ids"][:20] for prompt in PROMPTS]
    target, draft = models.load(TARGET), models.load(DRAFT)
    texts = measure.written(target, torch.tensor(rows * 2), 96, seed=1)

    found = measure.agreement(target, draft, texts, 20)

    assert float(found.greedy.mean) > 0.7
    assert float(found.coupled.mean) > 0.6
    assert float(found.rejection.mean) > 0.65
