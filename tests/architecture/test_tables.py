"""Whoever wants to know what a kind is like asks its entry in a table, and never for its name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

import pytest

from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.policies import POLICIES
from pearl.decoding.verification import VERIFIERS
from tests.architecture.sources import ROOT

CODE: Final = ("actors", "analysis", "benchmarks", "decoding", "docs", "notebooks", "pearl",
               "simulator", "tools")  # fmt: skip
HOMES: Final = {"decoding/kinds.py", "decoding/policies.py", "decoding/verification.py"}
NAMES: Final = {*SCHEDULES, *POLICIES, *VERIFIERS}
OTHERS: Final = {
    ("actors/runners/loading.py", "dtype == 'auto'"),  # a number format
    ("actors/pair/train.py", "name != 'auto'"),  # a device of torch
}
"""Comparisons with a word that names something else there."""


def comparisons(text: str) -> Iterator[str]:
    """Every expression and every case in which a name of a table is compared with something."""
    tree = ast.parse(text)
    constants = {word for node in ast.walk(tree) for word in _bound(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue) and any(
            (isinstance(part, ast.Constant) and part.value in NAMES)
            or (isinstance(part, ast.Name) and part.id in constants)
            for part in _compared(node)
        ):
            yield ast.unparse(node)


def _bound(node: ast.AST) -> Iterator[str]:
    """Variables that are such a name: `SD = "sd"`, `AR, SD = "ar", "sd"`."""
    if not isinstance(node, ast.Assign):
        return
    for target in node.targets:
        pairs = [(target, node.value)]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = list(zip(target.elts, node.value.elts, strict=False))
        for variable, value in pairs:
            if isinstance(variable, ast.Name) and _is_name(value):
                yield variable.id


def _is_name(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value in NAMES


def _compared(node: ast.Compare | ast.MatchValue) -> Iterator[ast.expr]:
    """Both sides, and the members of what is written out: `in {"sd", "pearl"}`."""
    sides = [node.value] if isinstance(node, ast.MatchValue) else [node.left, *node.comparators]
    for side in sides:
        yield from side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]


def test_no_name_of_a_table_is_compared_outside_it() -> None:
    found = {
        (name, expression)
        for folder in CODE
        for file in sorted((ROOT / folder).rglob("*.py"))
        if (name := file.relative_to(ROOT).as_posix()) not in HOMES
        for expression in comparisons(file.read_text(encoding="utf-8"))
    }

    assert found == OTHERS


@pytest.mark.parametrize(
    "line",
    [
        'x = settings.schedule == "sd"',
        'x = "auto" != gamma',
        'x = name in {"sd", "pearl"}',
        'x = name is not ("ar")',
        'PEARL = "pearl"\nx = name == PEARL',
        'AR, SD = "ar", "sd"\nx = name in (SD, AR)',
        'match name:\n    case "greedy":\n        pass',
        'match settings:\n    case Settings(schedule="ar"):\n        pass',
    ],
)
def test_every_way_to_compare_is_seen(line: str) -> None:
    assert list(comparisons(line))


@pytest.mark.parametrize("line", ['x = Settings(schedule="sd")', 'x = {"sd": 1}', 'x = a == "b"'])
def test_a_name_may_be_used(line: str) -> None:
    assert not list(comparisons(line))
