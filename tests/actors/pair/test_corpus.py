from __future__ import annotations

from pathlib import Path

import pytest

from pearl.actors.pair.corpus import (
    Source,
    cleaned,
    documents,
    is_permissive,
    packages,
    reads_like_code,
)

FUNCTION = '''def area(width: float, height: float) -> float:
    """The area of a rectangle, in the square of the unit of its sides."""
    if width < 0 or height < 0:
        raise ValueError("a side is negative; both must be at least 0")
    return width * height
'''


@pytest.mark.parametrize(
    "licence", ["MIT", "BSD-3-Clause AND MIT", "Apache 2.0 License", "ISC License", "PSF-2.0"]
)
def test_a_permissive_licence_is_recognised(licence: str) -> None:
    assert is_permissive(licence)


@pytest.mark.parametrize("licence", ["", "MPL-2.0 AND MIT", "LGPL-3.0", "Other/Proprietary", "yes"])
def test_an_unclear_or_restrictive_licence_keeps_a_package_out(licence: str) -> None:
    """A package is used only when its own metadata says that it may be."""
    assert not is_permissive(licence)


def test_every_installed_package_is_either_used_or_listed_with_its_licence() -> None:
    used, refused = packages()

    assert all(is_permissive(source.licence) for source in used)
    assert not any(is_permissive(share.licence) for share in refused)


def test_a_licence_header_is_not_learned() -> None:
    assert cleaned("# Copyright somebody\n# Licensed under something\n\nx = 1\n") == "x = 1\n"


def test_an_ordinary_comment_at_the_top_stays() -> None:
    assert cleaned("# Geometry.\nx = 1\n") == "# Geometry.\nx = 1\n"


def test_a_table_does_not_read_like_code() -> None:
    table = "NAMES = {\n" + "".join(f'    "name {i}": "value",\n' for i in range(40)) + "}\n"

    assert reads_like_code(FUNCTION)
    assert not reads_like_code(table)


def test_a_copy_of_a_file_is_dropped(tmp_path: Path) -> None:
    """Copied code would be learned by heart, and a copy may lie on both sides of the split."""
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(FUNCTION)
    files = tuple((name, tmp_path / name) for name in ("one.py", "two.py"))
    source = Source(name="shapes", version="1", licence="MIT", files=files)

    assert len(list(documents(source, cap=None))) == 1


def test_a_package_gives_no_more_than_its_cap(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(FUNCTION)
    source = Source(
        name="shapes", version="1", licence="MIT", files=(("one.py", tmp_path / "one.py"),)
    )

    assert not list(documents(source, cap=len(FUNCTION) - 1))
