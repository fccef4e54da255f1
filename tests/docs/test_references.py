"""What a document points at is there."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pearl

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("actors", "analysis", "decoding", "pearl", "simulator")
PAGES: Final = sorted(
    page.relative_to(ROOT).as_posix()
    for folder in ("*.md", "docs/*.md", "actors/pair/*.md")
    for page in ROOT.glob(folder)
)
HISTORY: Final = "CHANGELOG.md"  # tells of files and modules that are gone


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_to_a_heading_of_it(page: str) -> None:
    text = read(page)
    found = re.findall(r"\]\(([^)\s]+)\)", text)

    assert [link for link in found if not _leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_every_file_and_module_that_a_page_names_is_there(page: str) -> None:
    words = re.findall(r"`([^`\n]+)`", read(page))

    assert sorted({word for word in words if not _is_there(word)}) == []


def test_every_module_that_a_docstring_or_a_comment_names_is_there() -> None:
    """As `pearl.decoding.desks`, or with a name of it: `pearl.decoding.kinds.SCHEDULES`."""
    named = {
        (file.relative_to(ROOT).as_posix(), word)
        for package in (*PACKAGES, "benchmarks", "tools")
        for file in (ROOT / package).rglob("*.py")
        for word in re.findall(r"`([^`\n]+)`", file.read_text(encoding="utf-8"))
    }

    assert sorted((file, word) for file, word in named if not _is_there(word)) == []


@pytest.mark.parametrize("room", ["actors/runners", "actors/training", "analysis", "simulator"])
def test_a_room_that_lists_its_files_lists_all_of_them_and_no_other(room: str) -> None:
    heading = ast.get_docstring(ast.parse((ROOT / room / "__init__.py").read_text("utf-8"))) or ""
    there = {file.stem for file in (ROOT / room).glob("*.py")} - {"__init__"}
    inner = {file.parent.name for file in (ROOT / room).glob("*/__init__.py")}

    assert set(re.findall(r"^ *(\w+) {2,}\S", heading, re.MULTILINE)) == there | inner


def test_no_page_speaks_of_itself_as_outdated() -> None:
    words = re.compile(r"\b(outdated|out of date|no longer true|obsolete)\b", re.IGNORECASE)

    assert [page for page in PAGES if words.search(read(page))] == []


def read(page: str) -> str:
    """The text of a page, without its blocks of code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def _leads_somewhere(page: str, link: str) -> bool:
    if re.match(r"\w+://", link):
        return True
    path, _, heading = link.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    if not heading:
        return file.exists()
    return file.is_file() and heading in _headings(file)


def _headings(file: Path) -> set[str]:
    """As GitHub makes anchors of them."""
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _is_there(word: str) -> bool:
    """Whether it names a file or a module that is there, or neither."""
    if re.fullmatch(r"[\w./-]+/[\w.-]*\.(?:py|md|json|toml|ipynb)|[\w./-]+\w/", word):
        first = word.partition("/")[0]
        return not (ROOT / first).exists() or (ROOT / word).exists()
    if re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+", word):
        return _is_module(word) or word.removeprefix("pearl.") in pearl.__all__
    return True


def _is_module(word: str) -> bool:
    """A package, a module, or a name that one of them binds."""
    path = word.replace(".", "/")
    if (ROOT / path).is_dir() or (ROOT / f"{path}.py").is_file():
        return True
    home, _, name = word.rpartition(".")
    return ("." in word and name in _bound(home)) or (home.count(".") > 1 and _is_module(home))


@functools.cache
def _bound(module: str) -> frozenset[str]:
    """The names that a module binds at its top level."""
    path = ROOT / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(name for node in tree.body for name in _names(node))


def _names(node: ast.stmt) -> Iterator[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            yield node.name
        case ast.Assign():
            yield from (part.id for t in node.targets for part in ast.walk(t)
                        if isinstance(part, ast.Name))  # fmt: skip
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name
        case ast.ImportFrom():
            yield from (alias.asname or alias.name for alias in node.names)
        case _:
            pass
