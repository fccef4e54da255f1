"""Imports go down only, and each heavy library has one home."""

from __future__ import annotations

import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from tests.architecture.sources import ROOT


def test_the_import_contracts_are_kept() -> None:
    """The contracts themselves are in pyproject.toml, each with a sentence for a name."""
    command = Path(sys.executable).with_name("lint-imports")
    checked = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Imports for types count too: who reads one file of a circle has to read them all."""
    graph = grimp.build_graph("pearl", cache_dir=None)
    imports = {file: graph.find_modules_directly_imported_by(file) for file in graph.modules}

    in_order = TopologicalSorter(imports).static_order()  # a CycleError names the circle

    assert set(in_order) == graph.modules


@pytest.mark.parametrize("floor", ["pearl.decoding", "pearl.simulator", "pearl.analysis", "pearl"])
def test_a_floor_opens_without_torch_and_ray(floor: str) -> None:
    """Planners and readers of the theory install neither, and `pearl --help` waits for neither."""
    loaded = heavy_libraries_loaded_by_every_module_of(floor)

    assert loaded == []


def heavy_libraries_loaded_by_every_module_of(package: str) -> list[str]:
    """In a fresh interpreter, because this one has loaded everything already."""
    script = """
import importlib, json, pathlib, sys
root = pathlib.Path(importlib.import_module(sys.argv[1]).__file__).parent
for file in root.rglob("*.py"):
    name = ".".join((sys.argv[1], *file.relative_to(root).with_suffix("").parts))
    # The home of matplotlib, and the page that is full of figures: imported late by all others.
    if not name.startswith(("pearl.analysis.figures", "pearl.analysis.report")):
        importlib.import_module(name.removesuffix(".__init__"))
print(json.dumps(sorted({"matplotlib", "ray", "torch", "transformers"} & sys.modules.keys())))
"""
    finished = subprocess.run(
        [sys.executable, "-c", script, package],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded: list[str] = json.loads(finished.stdout)
    return loaded
