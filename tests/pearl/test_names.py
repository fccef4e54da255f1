"""Folders of a user's own, named like ours, beside a script or where a command runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("actors", "analysis", "decoding", "simulator")

USES = """
import asyncio, pearl
import actors, decoding
from pearl.simulator.parallel import spread

async def main() -> None:
    settings = pearl.EngineSettings(devices=pearl.Devices.LOCAL)
    async with await pearl.Engine.start(settings) as engine:
        result = await engine.generate("def f(", pearl.Settings(max_new_tokens=4)).wait()
    print(len(result.token_ids), *spread(abs, [-1, -2], workers=2))

if __name__ == "__main__":
    assert actors.mine and decoding.mine
    asyncio.run(main())
"""


@pytest.fixture(params=["package", "module"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One that has all four names in it."""
    for name in FOLDERS:
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
def test_a_script_beside_such_a_folder_has_theirs_and_ours(folder: Path) -> None:
    (folder / "run.py").write_text(USES)

    done = _run(folder, "run.py")

    assert (done.stdout, done.stderr) == ("4 1 2\n", "")


@pytest.mark.slow
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

    done = _run(folder, "-W", "error", *verb, **environment)

    assert done.returncode == 0, done.stderr


def test_a_wheel_has_each_folder_where_a_checkout_has_its_link() -> None:
    """And no other, so that both have the same modules."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    built = project["tool"]["hatch"]["build"]
    linked = {
        link.resolve().name: link.relative_to(ROOT).as_posix()
        for link in (ROOT / "pearl").iterdir()
        if link.is_symlink()
    }

    assert linked == built["targets"]["wheel"]["sources"]
    assert {f"/{place}" for place in linked.values()} <= set(built["exclude"])
