"""What every kind of damage needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

WIDTH: Final = 4096

ODD: Final[list[Any]] = [
    None, True, -1, 0, 1, 3, 7, 10**6, 10**12, 10**30, 2.5, float("nan"), float("inf"), -1e308,
    "", "abc", "16", [], [1], {}, {"a": 1},
]  # fmt: skip


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a file of JSON."""
    read = json.loads(path.read_text())
    change(read)
    path.write_text(json.dumps(read))
