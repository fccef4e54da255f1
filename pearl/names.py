"""The import names of this project are this project's, also beside a folder of the same name.

The five packages stand side by side under names that others use as well: a user's own `actors/`
beside a script, or in a folder on PYTHONPATH, comes first in the search and would be taken for
ours. So ours are put in place before anything is imported from them, and a warning names the
folder that is hidden by it. Where theirs has been imported already, nothing can be put right.

May import: the standard library.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from typing import Final

ROOT: Final = pathlib.Path(__file__).resolve().parent.parent
PACKAGES: Final = ("actors", "analysis", "decoding", "simulator")


def claim() -> None:
    """See to it that each name means our package.

    Raises:
        ImportError: another package of that name has been imported already.
    """
    for name in PACKAGES:
        there = _place(_found(name))
        if there is None or there == ROOT:
            continue
        if name in sys.modules:
            message = (
                f"{there / name} was imported before pearl and hides the package {name} that "
                "pearl needs; rename it, or import pearl first"
            )
            raise ImportError(message)
        warnings.warn(
            f"import {name} means the package that pearl needs, not {there / name}; "
            "rename yours if you need it beside pearl",
            stacklevel=3,
        )
        _put(name)


def _found(name: str) -> ModuleSpec | None:
    """What an import would take, or has taken."""
    if name in sys.modules:
        return sys.modules[name].__spec__
    return importlib.util.find_spec(name)


def _place(spec: ModuleSpec | None) -> pathlib.Path | None:
    """The folder that it stands in; None of one that stands in no file."""
    if spec is None or spec.origin is None:
        return None
    file = pathlib.Path(spec.origin).resolve()
    return file.parent.parent if spec.submodule_search_locations is not None else file.parent


def _put(name: str) -> None:
    """Import our package of this name, whatever stands before it."""
    home = ROOT / name
    spec = importlib.util.spec_from_file_location(
        name, home / "__init__.py", submodule_search_locations=[str(home)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
