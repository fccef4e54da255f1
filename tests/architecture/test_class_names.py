"""One name, one thing: a class name occurs once in all of the code."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import Final

from tests.architecture.sources import ROOT

FOLDERS: Final = (
    "actors", "analysis", "benchmarks", "decoding", "docs", "notebooks", "pearl", "simulator",
    "tools",
)  # fmt: skip


def test_no_class_name_has_two_meanings() -> None:
    found = places_of_class_names()

    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def places_of_class_names() -> dict[str, list[str]]:
    """Where each class is defined, as `file:line`, in all code but the tests."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{file.relative_to(ROOT)}:{node.lineno}")
    return found
