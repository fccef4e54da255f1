"""Tests are read one by one: what several of them need stands in files that are no tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.architecture.sources import ROOT, imported

TESTS: Final = ROOT / "tests"
GROUND_FLOOR: Final = ("pearl.decoding", "tests.decoding")
OUR_OWN: Final = ("benchmarks", "pearl", "tests")


def test_nobody_imports_from_a_test() -> None:
    """Who reads a test would have to read the other too."""
    assert [said for said, name in imports(TESTS) if ".test_" in name] == []


def test_the_ground_floor_is_tested_without_the_upper_ones() -> None:
    """So the protocol can be read, run and changed alone."""
    ours = [(said, name) for said, name in imports(TESTS / "decoding") if within(name, OUR_OWN)]

    assert ours
    assert [said for said, name in ours if not within(name, GROUND_FLOOR)] == []


def imports(folder: Path) -> Iterator[tuple[str, str]]:
    """What the files below a folder import, each also as `file: name`."""
    for file in folder.rglob("*.py"):
        for name in imported(file):
            yield f"{file.relative_to(ROOT)}: {name}", name


def within(name: str, packages: tuple[str, ...]) -> bool:
    return f"{name}.".startswith(tuple(f"{package}." for package in packages))
