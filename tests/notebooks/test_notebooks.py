"""The notebooks say what happens: they run, and what is stored of them is what they print now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from tools import notebooks
from tools.notebooks import FIGURE, Notebook

REMEDY: Final = "run `make notebooks`"
FIGURE_CELL: Final = """
from pearl.analysis import figures
figures.picture(lambda axes: axes.plot([1, 2]))
"""


@dataclass(frozen=True, slots=True)
class Pair:
    """A notebook as its source gives it today, and as it is stored."""

    fresh: Notebook
    stored: Notebook


@pytest.fixture(scope="module", params=notebooks.sources(), ids=lambda source: source.stem)
def notebook(request: pytest.FixtureRequest) -> Pair:
    """Executed once, within its limit of time, in its own folder: for all that is claimed of it."""
    source: Path = request.param
    stored = nbformat.read(source.with_suffix(".ipynb"), as_version=nbformat.NO_CONVERT)
    return Pair(fresh=notebooks.execute(source), stored=stored)


@pytest.mark.slow
def test_what_is_stored_is_made_of_its_source(notebook: Pair) -> None:
    """And of nothing else: no time, no version, no path of a machine."""

    def without_outputs(page: Notebook) -> Notebook:
        cells = [(cell.id, cell.cell_type, cell.metadata, cell.source) for cell in page.cells]
        return page.metadata, cells

    assert without_outputs(notebook.stored) == without_outputs(notebook.fresh), REMEDY


@pytest.mark.slow
def test_the_text_that_is_stored_is_printed_now(notebook: Pair) -> None:
    """A figure has to be there; its strokes may differ from machine to machine."""

    def shown(page: Notebook) -> list[list[str]]:
        outputs = [cell.outputs for cell in page.cells if cell.cell_type == "code"]
        return [[text_of(output) for output in of_cell] for of_cell in outputs]

    assert shown(notebook.stored) == shown(notebook.fresh), REMEDY


def text_of(output: Notebook) -> str:
    """What a reader of this output sees, where it is text."""
    data = output.get("data", {})
    return "a figure" if FIGURE in data else output.get("text", data.get("text/plain"))


@pytest.mark.slow
def test_a_notebook_ends_with_what_it_claims(notebook: Pair) -> None:
    last = [cell.source for cell in notebook.fresh.cells if cell.cell_type == "code"][-1]

    assert "assert" in last


def test_every_source_is_stored_and_nothing_else() -> None:
    stored = {file.stem for file in notebooks.FOLDER.glob("*.ipynb")}

    assert stored == {source.stem for source in notebooks.sources()}, REMEDY


@pytest.mark.slow
def test_a_claim_that_does_not_hold_is_an_error(tmp_path: Path) -> None:
    """Or a notebook could claim anything."""
    source = tmp_path / "wrong.py"
    source.write_text("# %%\nassert 1 + 1 == 3\n", encoding="utf-8")

    with pytest.raises(CellExecutionError, match="1 \\+ 1 == 3"):
        notebooks.execute(source)


@pytest.mark.slow
def test_a_notebook_that_goes_on_too_long_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "long.py"
    source.write_text("# %%\nwhile True:\n    pass\n", encoding="utf-8")
    monkeypatch.setattr(notebooks, "LONGEST_S", 0.0)

    with pytest.raises(CellTimeoutError, match="timed out"):
        notebooks.execute(source)


@pytest.mark.slow
def test_the_same_source_is_stored_in_the_same_bytes(tmp_path: Path) -> None:
    """Figures, too, and wherever it is run: else every `make notebooks` would be a change."""
    text = f"# %%\n{FIGURE_CELL}\n# %%\nprint(1)\n"
    pages = [tmp_path / name / "page.py" for name in ("here", "there")]
    for page in pages:
        page.parent.mkdir()
        page.write_text(text, encoding="utf-8")

    here, there = (nbformat.writes(notebooks.execute(page)) for page in pages)

    assert here == there
    assert FIGURE in here
