"""The drawings of the layout are true, and every room is in its place."""

from __future__ import annotations

import re

import pytest

import pearl
from pearl.__main__ import VERBS
from tests.architecture.sources import ROOT, imported

PACKAGES = ("actors", "analysis", "decoding", "pearl", "simulator")


def test_the_drawing_in_contributing_has_every_room_once_and_no_other() -> None:
    rooms = [
        f"{file.parent.relative_to(ROOT)}/"
        for package in PACKAGES
        for file in (ROOT / package).rglob("__init__.py")
    ]

    assert sorted(drawn("CONTRIBUTING.md")) == sorted(rooms)


def test_what_the_drawing_in_the_readme_names_is_there() -> None:
    found = drawn("README.md")

    assert {f"{package}/" for package in PACKAGES} <= set(found)
    assert all((ROOT / folder).is_dir() for folder in found)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_files_that_a_drawing_names_are_there(page: str) -> None:
    named = re.findall(r"[\w/]+\.py\b", drawing(page))

    assert all((ROOT / file).is_file() for file in named)


def test_every_verb_is_one_file_and_every_file_of_their_room_a_verb() -> None:
    files = {file.stem for file in (ROOT / "pearl" / "verbs").glob("*.py")} - {"__init__"}

    assert files == set(VERBS)


def test_benchmarks_and_notebooks_need_no_verb() -> None:
    """What several of them share stands in the harness, which knows no command line."""
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "notebooks").glob("*.py")]

    assert [
        f"{script.name}: {module}"
        for script in scripts
        for module in imported(script)
        if module.startswith("pearl.verbs")
    ] == []


def test_the_readme_has_every_public_name_once() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`pearl\.\w+`.*?) \|", page, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`pearl\.(\w+)`", row)]

    assert sorted(named) == sorted(pearl.__all__)
    assert all(getattr(pearl, name) is not None for name in named)


def drawing(page: str) -> str:
    """The block of a page that has a line for the packages."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return next(str(block) for block in blocks if block.startswith("pearl/"))


def drawn(page: str) -> list[str]:
    """The folders of a drawing, those of a package indented below it."""
    found: list[str] = []
    package = ""
    for line in drawing(page).splitlines():
        match = re.match(r"( *)(\w+/)", line)
        if match and not match[1]:
            package = match[2]
            found.append(package)
        elif match and match[1] == "  ":
            found.append(package + match[2])
    return found
