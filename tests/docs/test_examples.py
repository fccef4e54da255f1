"""What the pages show is what happens."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from pearl.__main__ import run

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_first_what_if_of_the_guide_prints_what_the_guide_shows() -> None:
    page = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    code, shown = re.findall(r"```(?:python)?\n(.*?)```", page, re.DOTALL)[:2]
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/simulator.md", "exec"), {})  # noqa: S102 - our own page

    assert printed.getvalue() == shown


@pytest.mark.slow
def test_the_first_example_of_the_readme_prints_what_the_readme_shows() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```\n\n^```\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    printed = io.StringIO()

    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "README.md", "exec"), {})  # noqa: S102 - our own page

    assert printed.getvalue() == found[2]


def test_the_advice_in_the_readme_is_what_is_advised(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [line.split() for line in page.splitlines() if line.startswith(" PEARL 8")]

    assert run(["optimise", "--alpha", "0.8", "--speed-ratio", "8"]) == 0

    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == 2
    assert all(line in printed for line in shown)


def test_the_speeds_in_the_readme_are_those_of_the_page_on_speed() -> None:
    """Rows of the first are columns of the second: its best of every family."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    speeds = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    tables = re.findall(
        r"^\| system \| over AR \| over SD.*?\n\n", speeds, re.DOTALL | re.MULTILINE
    )

    for row, table in zip(("greedy", "temperature 1"), tables, strict=True):
        summary = re.search(rf"^\| {row} \| (.*) \|$", page, re.MULTILINE)
        assert summary is not None
        measured = re.findall(r"^\| (?!system|---)[^|]+ \| ([\d.]+)", table, re.MULTILINE)
        assert set(summary[1].split(" | ")) <= set(measured)
