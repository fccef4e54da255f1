"""Folders of a user's own, named like our packages, beside a script or where a command runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pearl.names import PACKAGES

USES = """
import asyncio, pearl
from simulator.parallel import spread

async def main() -> None:
    settings = pearl.EngineSettings(devices=pearl.Devices.LOCAL)
    async with await pearl.Engine.start(settings) as engine:
        result = await engine.generate("def f(", pearl.Settings(max_new_tokens=4)).wait()
    print(len(result.token_ids), *spread(abs, [-1, -2], workers=2))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture(params=["package", "module"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One that has all four names in it."""
    for name in PACKAGES:
        if request.param == "package":
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("mine = True\n")
        else:
            (tmp_path / f"{name}.py").write_text("mine = True\n")
    return tmp_path


def _run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


@pytest.mark.slow
def test_a_script_beside_such_a_folder_works_and_the_folder_is_named(folder: Path) -> None:
    (folder / "run.py").write_text(USES)

    done = _run(folder, "run.py")

    assert done.stdout == "4 1 2\n"
    for name in PACKAGES:
        assert f"not {folder / name}" in done.stderr


@pytest.mark.parametrize(
    ("start", "environment"),
    [
        (["-m", "pearl"], {}),
        (["-P", "-m", "pearl"], {"PYTHONPATH": "."}),
        (["-m", "pearl"], {"PYTHONSAFEPATH": "1"}),
    ],
)
def test_a_verb_works_in_such_a_folder(
    folder: Path, start: list[str], environment: dict[str, str]
) -> None:
    verb = [*start, "simulate", "--tokens", "20", "--json"]

    done = _run(folder, "-W", "ignore", *verb, **environment)

    assert done.returncode == 0, done.stderr


def test_whoever_imported_theirs_first_is_told_which_folder_it_is(folder: Path) -> None:
    done = _run(folder, "-c", "import actors, pearl")

    *_, line = done.stderr.splitlines()
    assert line.startswith(f"ImportError: {folder / 'actors'} was imported before pearl")


def test_a_folder_without_init_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "decoding").mkdir()

    done = _run(tmp_path, "-W", "error", "-c", "import pearl; print(pearl.Settings().gamma)")

    assert done.stderr == ""
