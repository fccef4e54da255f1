"""Weights as they lie in files, a tensor at a time and no sooner than it is wanted.

A library that maps a file keeps all of it in memory until the last tensor was converted: half as
much again where weights of two bytes become numbers of four. Here a tensor is read into memory of
its own when the library asks for it (`tensor[...]`, as it asks for a slice of a file), and is gone
when it was converted.

May import: torch, safetensors.
Must never: convert anything, or hold a tensor.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias, final

from safetensors import safe_open
from torch import Tensor

Heard: TypeAlias = Callable[[float], None]
"""Is told the share of the weights that was read, 0 to 1."""


@final
class StoredTensor:
    """One tensor of a file; whatever part of it is asked for, all of it is read."""

    def __init__(self, file: Any, name: str, count: Callable[[Tensor], None]) -> None:
        self._file, self._name, self._count = file, name, count

    def __getitem__(self, part: Any) -> Tensor:
        """Read it, from any thread."""
        tensor: Tensor = self._file.get_tensor(self._name)
        self._count(tensor)
        return tensor[part]


def stored(files: Iterable[Path], size: int, heard: Heard) -> dict[str, StoredTensor]:
    """The tensors of safetensors files, by name.

    Args:
        size: bytes of all of them.
        heard: hears of every tensor that was read, from whichever thread read it.
    """
    lock, read = threading.Lock(), 0

    def count(tensor: Tensor) -> None:
        nonlocal read
        with lock:
            read += tensor.nbytes
            heard(min(1.0, read / max(1, size)))

    found: dict[str, StoredTensor] = {}
    for path in files:
        # Reading, not mapping: pages of a map stay in memory as long as the file is open.
        file: Any = safe_open(path, framework="pt", backend="pread")
        found |= {name: StoredTensor(file, name, count) for name in file.keys()}  # noqa: SIM118
    return found
