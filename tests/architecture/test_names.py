"""One name, one thing: no class is called as another one is."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("actors", "analysis", "benchmarks", "decoding", "pearl", "simulator", "tools")
STILL_TWICE: Final = frozenset(
    {
        *("Answer", "Asked", "DraftHost", "Fault", "Host", "Job", "Line", "Link", "Luck"),
        *("Measured", "Mixture", "Pair", "Plan", "Point", "Purpose", "Row", "Run", "RunLength"),
        *("System", "TargetHost", "Times", "Verdict", "Window", "_Line"),
    }
)
"""Names that are yet to be given to one thing only; none comes in any more."""


def test_a_class_name_means_one_thing() -> None:
    """Who reads a name in one file has not to ask which of two is meant."""
    files = (file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text())))
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))

    assert {name for name, count in names.items() if count > 1} <= STILL_TWICE
