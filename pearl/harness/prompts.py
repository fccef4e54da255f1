"""Prompts: those of a file, or our own where none is named.

Our own are beginnings of Python files, which the embedded pair can go on. Files are JSON lines as
HumanEval, GSM8K, MGSM and MT-bench are published: the field is found by itself.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pearl.decoding import files
from pearl.decoding.errors import PromptError, SettingError

FIELDS: Final = ("prompt", "question", "turns", "text")

PROMPTS: Final = (
    "def read_lines(path, encoding='utf-8'):",
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):",
    "import os\nimport sys\n\n\ndef main():",
    "def quicksort(items):\n    if len(items) < 2:\n        return items",
    "def test_an_empty_list_has_no_first_item():\n    with",
    "import unittest\n\n\nclass TestCounter(unittest.TestCase):\n    def setUp(self):",
    'class Connection:\n    """A line to a server."""\n\n    def send(self, message):',
    "def parse_header(line):\n    name, _, value = line.partition(':')",
    "import argparse\n\nparser = argparse.ArgumentParser()\nparser.add_argument('--output',",
    "async def fetch(reader, writer):\n    while True:\n        data = await",
    "class Cache(dict):\n    def __missing__(self, key):",
    "def walk(node, depth=0):\n    for child in node.children:",
)


def read_prompts(given: Mapping[str, Any]) -> list[str]:
    """The prompts that `options.PROMPTS` name, at most `count` of them.

    Raises:
        SettingError: none is asked for.
        PromptError: the file cannot be read, or has no such field.
    """
    file, field, count = given["prompts_file"], given["field"], given["count"]
    if count < 1:
        raise SettingError(f"count is {count}; it must be 1 or more")
    if file is None:
        return list(PROMPTS[:count])
    rows = list(itertools.islice(_rows(file), count))
    if not rows:
        raise PromptError(f"{file} has no prompts; it must have one JSON object a line")
    return [_prompt(f"{file}, line {line}", row, field) for line, row in rows]


def _rows(file: str) -> Iterator[tuple[int, Any]]:
    """The values in a file, as they are asked for, each with its line; blank lines say nothing."""
    try:
        with files.opened(pathlib.Path(file)) as opened:
            for number, line in enumerate(files.lines(opened), start=1):
                if line.strip():
                    yield number, _parsed(file, number, line)
    except OSError as error:
        message = f"the prompts cannot be read from {file}: {files.reason(error)}"
        raise PromptError(message) from None


def _parsed(file: str, number: int, line: bytes) -> Any:
    try:
        return files.parsed(line)
    except ValueError as error:
        message = f"the prompts cannot be read from {file}, line {number}: {error}"
        raise PromptError(message) from None


def _prompt(where: str, row: Any, field: str | None) -> str:
    """The text of one row; of several turns the first."""
    names = FIELDS if field is None else (field,)
    found = next((row[name] for name in names if isinstance(row, dict) and name in row), None)
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, str) or not found:
        wanted = " or ".join(names)
        raise PromptError(f"{where}: no text in field {wanted}")
    if any("\ud800" <= character <= "\udfff" for character in found):
        raise PromptError(f"{where}: half a character, which no text in UTF-8 has")
    return found
