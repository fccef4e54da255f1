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


def test_the_advice_in_the_readme_is_what_is_advised(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [line.split() for line in page.splitlines() if line.startswith(" PEARL 8")]

    assert run(["optimise", "--alpha", "0.8", "--speed-ratio", "8"]) == 0

    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == 2
    assert all(line in printed for line in shown)
