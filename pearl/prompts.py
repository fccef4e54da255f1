"""Prompts for whoever names none: beginnings of Python files, which the embedded pair can go on."""

from __future__ import annotations

from typing import Final

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
