"""Buffers for keys and values: zeros that take memory where they are written, and give it back.

On Linux a buffer of a CPU is a mapping of addresses with nothing behind them. A page of zeros comes
when it is first written, and goes when a row is cleared; the addresses stay. So every row can have
room for the longest text, and takes only what its own text needs.

Elsewhere (a GPU, another system, a limit on addresses) a buffer is plain zeros, all of it taken.

May import: torch, psutil.
Must never: know which row belongs to whom.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, final

import psutil
import torch
from torch import Tensor

from pearl.decoding.errors import PlacementError

NO_RESERVE: Final = {"x86_64": 0x4000, "aarch64": 0x4000}.get(platform.machine())
"""MAP_NORESERVE, which Python's mmap does not name: take addresses only, however many."""
TRIED: Final = 1 << 40
"""Bytes of addresses that a process which may have as many as it likes can map."""
TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
"""As glibc's `mallopt` names them."""
CGROUP: Final = Path("/sys/fs/cgroup")


def can_map(device: torch.device) -> bool:
    """Whether buffers can be mappings there."""
    if device.type != "cpu" or sys.platform != "linux" or NO_RESERVE is None:
        return False
    try:
        _map(TRIED).close()
    except OSError:
        return False
    return True


def free_bytes(device: torch.device) -> int:
    """Memory that this process could still take on a device, as far as one can know."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    free = int(psutil.virtual_memory().available)
    return free if (limit := _left_in_container()) is None else min(free, limit)


@contextlib.contextmanager
def given_back() -> Iterator[None]:
    """Have what is freed in here given back to the system, where glibc manages memory.

    It keeps what is smaller than the largest piece that was ever freed, up to 32 MB, for the next
    one that fits; while one order of a model's weights turns into another, little fits.
    """
    _option(MMAP_THRESHOLD, 1 << 18)
    try:
        yield
    finally:
        # What glibc finds by itself, when a large piece has been freed: passes want theirs at once.
        _option(MMAP_THRESHOLD, 32 << 20)
        _option(TRIM_THRESHOLD, 64 << 20)
        give_back()


def give_back() -> None:
    """Give unused memory back to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _option(which: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        mallopt(which, value)


def size(count: int) -> str:
    """Bytes as people read them."""
    for unit, name in ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


@final
class Buffer:
    """Rows of zeros: `tensor` has the shape (parts, rows, heads, length, width).

    Zeros, not whatever was there: hidden positions get weight 0, but 0 times NaN is NaN.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, mapped: bool
    ) -> None:
        """Make it.

        Args:
            mapped: as a mapping; a head of a row is then a whole number of pages.
        Raises:
            PlacementError: there is no memory for it.
        """
        self._mapping: mmap.mmap | None = None
        count, head_bytes = math.prod(shape), math.prod(shape[3:]) * dtype.itemsize
        # Heads a power of two apart would all want the same lines of a processor's caches.
        apart = head_bytes + mmap.PAGESIZE
        self._row_bytes = shape[2] * apart
        try:
            if mapped:
                assert head_bytes % mmap.PAGESIZE == 0
                self._mapping = _map(math.prod(shape[:2]) * self._row_bytes)
                whole = torch.frombuffer(self._mapping, dtype=dtype)
                heads = whole.view(*shape[:3], apart // dtype.itemsize)
                used = heads[..., : head_bytes // dtype.itemsize]
                self.tensor = used.view(shape)
            else:
                self.tensor = torch.zeros(shape, dtype=dtype, device=device)
        except (OSError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
            raise PlacementError(
                f"no memory on {device} for a cache of {shape[1]} rows of {shape[3]} positions, "
                f"{size(count * dtype.itemsize)} of its keys or values; serve fewer requests at "
                "once, or shorter ones"
            ) from error

    def clear(self, row: int, written: int) -> None:
        """Make a row zeros again, of which at most the first positions were written."""
        if self._mapping is None:
            self.tensor[:, row, :, :written].zero_()
            return
        parts, rows = self.tensor.shape[:2]
        for part in range(parts):
            start = (part * rows + row) * self._row_bytes
            self._mapping.madvise(mmap.MADV_DONTNEED, start, self._row_bytes)

    def keep(self, old: Buffer, kept: Sequence[int]) -> None:
        """Take over the first positions of each row of a smaller buffer."""
        with torch.inference_mode():
            for row, length in enumerate(kept):
                self.copy(row, old.tensor, row, length)

    def copy(self, row: int, source: Tensor, source_row: int, length: int) -> None:
        """Take over the first positions of a row of another buffer."""
        self.tensor[:, row, :, :length] = source[:, source_row, :, :length]


def _map(count: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (NO_RESERVE or 0)
    mapping = mmap.mmap(-1, count, flags=flags)
    # Large pages would come by two megabytes for every head of every layer of a row.
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    # A child of a fork has no use for it, and the dump of a crash would be as long as it is wide.
    mapping.madvise(mmap.MADV_DONTDUMP)
    return mapping


def _left_in_container() -> int | None:
    """What the limit of a container leaves; None where there is none."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = (CGROUP / "memory.current").read_text().strip()
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else None
