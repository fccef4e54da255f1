"""Prompts of published layouts are found by themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from pearl.decoding.errors import PromptError, SettingError
from pearl.harness.prompts import PROMPTS, read_prompts

SHARED: Final = Path(__file__).resolve().parents[3] / "shared/data/prompts"


def asked(file: Path | None, field: str | None = None, count: int = 12) -> list[str]:
    name = None if file is None else str(file)
    return read_prompts({"prompts_file": name, "field": field, "count": count})


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


@pytest.mark.parametrize(
    "row",
    [
        {"task_id": "HumanEval/0", "prompt": "a b", "test": "x"},
        {"question": "a b", "answer": "x"},
        {"question_id": 7, "question": "a b"},
        {"question_id": 81, "turns": ["a b", "c"]},
        {"text": "a b"},
    ],
)
def test_the_field_of_a_published_layout_is_found(file: Path, row: dict[str, Any]) -> None:
    assert asked(lines(file, row)) == ["a b"]


def test_a_field_that_is_named_is_taken(file: Path) -> None:
    assert asked(lines(file, {"prompt": "no", "mine": "yes"}), field="mine") == ["yes"]


def test_empty_lines_are_no_prompts_and_no_more_than_asked_are_taken(file: Path) -> None:
    rows = [{"prompt": str(number)} for number in range(5)]

    assert asked(lines(file, *rows), count=3) == ["0", "1", "2"]


@pytest.mark.parametrize("character", "\u2028\u2029\x85")
def test_a_line_ends_at_a_line_feed_and_not_inside_a_text(file: Path, character: str) -> None:
    file.write_text(f'{{"prompt": "a{character}b"}}\r\n{{"prompt": "c"}}', encoding="utf-8")

    assert asked(file) == [f"a{character}b", "c"]


def test_a_mark_of_utf_8_is_no_error(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\n')

    assert asked(file) == ["a"]


def test_no_more_is_read_than_asked_for(file: Path) -> None:
    """What follows is broken, and more than any memory holds."""
    lines(file, *({"prompt": str(number)} for number in range(3)))
    with file.open("ab") as more:
        more.truncate(1 << 34)

    assert asked(file, count=3) == ["0", "1", "2"]


def test_without_a_file_there_are_our_own() -> None:
    assert asked(None) == list(PROMPTS)
    assert len(set(PROMPTS)) == 12


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no prompts; it must have one JSON object a line"),
        ('{"prompt": 3}', "line 1: no text in field prompt or question or turns or text"),
        ('{"turns": []}', "line 1: no text in field"),
        ("[1]", "line 1: no text in field"),
        ("{", "the prompts cannot be read from"),
        ('{"prompt": "a"}\n{"prompt": ', "line 2: Expecting value"),
        ('{"prompt": "a", "prompt": "b"}', "line 1: the name 'prompt' is there twice"),
        ('{"prompt": "\\ud800"}', "line 1: half a character"),
        ("[" * 100_000, "line 1: it is nested too deep"),
    ],
)
def test_a_file_without_prompts_is_refused_in_one_line(
    file: Path, content: str, words: str
) -> None:
    file.write_text(content, encoding="utf-8")

    with pytest.raises(PromptError, match=words) as refused:
        asked(file)

    assert "\n" not in str(refused.value)


def test_no_prompt_at_all_is_refused() -> None:
    with pytest.raises(SettingError, match="count is 0; it must be 1 or more"):
        asked(None, count=0)


@pytest.mark.skipif(not SHARED.exists(), reason="the published prompts are not here")
@pytest.mark.parametrize("name", ["humaneval", "gsm8k", "mgsm", "mt_bench"])
def test_the_published_files_are_read(name: str) -> None:
    found = asked(SHARED / f"{name}.jsonl", count=30)

    assert len(found) == 30
    assert all(len(prompt) > 20 for prompt in found)
