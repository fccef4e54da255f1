"""Execute the notebooks, and write each one beside its source with what it shows.

    make notebooks

A source is a file of `notebooks/` in py:percent; the `.ipynb` beside it is made from it, outputs
included, so that it can be read where nothing runs. It holds no time, no version and no path of
the machine that made it, so a second run changes nothing.

A notebook runs in a kernel of its own, in its own folder: what it imports is the installed
package, as for anybody who opens it. Kernel and client talk through files in a temporary
folder, not through ports of the machine.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, Final, TypeAlias

import jupytext
import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

FOLDER: Final = Path(__file__).resolve().parent.parent / "notebooks"
FIGURE: Final = "image/svg+xml"
LONGEST_S: Final = 60.0  # more is too long for an essay, and for a test
SOON_S: Final = 1e-3  # 0 would be without end
# All that a page which shows the file wants to know; versions would change from machine to machine.
METADATA: Final = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "pygments_lexer": "ipython3"},
}

Notebook: TypeAlias = Any  # nbformat's node: a dict with dots


def sources() -> list[Path]:
    """The sources, in the order in which they are to be read."""
    return sorted(FOLDER.glob("*.py"))


def read_source(source: Path) -> Notebook:
    """The notebook of a source, not executed; the same source gives the same cells."""
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id, cell.metadata = f"cell-{number:02}", nbformat.from_dict({})
    return notebook


def execute(source: Path) -> Notebook:
    """The same with its outputs.

    Raises:
        CellExecutionError: a cell raised an exception.
        CellTimeoutError: after `LONGEST_S` one was still running.
    """
    notebook = read_source(source)
    asyncio.run(_run(notebook, source.parent))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _shorten(output)
    return notebook


async def _run(notebook: Notebook, folder: Path) -> None:
    ends = time.monotonic() + LONGEST_S
    with tempfile.TemporaryDirectory() as scratch:
        kernel = {"transport": "ipc", "connection_file": f"{scratch}/kernel.json"}
        client = NotebookClient(
            notebook,
            config=Config(KernelManager=kernel),
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            coalesce_streams=True,  # how much is printed at once depends on the machine
            timeout_func=lambda _: max(ends - time.monotonic(), SOON_S),
        )
        # Nobody's start-up files, and no entry in anybody's history.
        env = {**os.environ, "IPYTHONDIR": scratch}
        await client.async_execute(env=env)


def _shorten(output: Notebook) -> None:
    """A figure is stored once, not also as its object's text, and without its maker's version."""
    data = output.get("data", {})
    if FIGURE in data:
        data.pop("text/plain", None)
        data[FIGURE] = re.sub(r"\s*<metadata>.*?</metadata>", "", data[FIGURE], flags=re.DOTALL)


def main() -> None:
    """Write every notebook; the first that fails ends it."""
    for source in sources():
        nbformat.write(execute(source), source.with_suffix(".ipynb"))
        print(source.with_suffix(".ipynb").name)


if __name__ == "__main__":
    main()
