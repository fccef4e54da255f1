"""What a CUDA graph does, on a CPU: it repeats with the addresses and numbers of the first time.

Every operation on tensors is noted with its arguments, and repeated on the same memory. So what a
step took from elsewhere (a position kept in Python, a cache that has grown since) is as wrong in a
replay as it would be on a GPU; and asking a tensor for a number is refused, as it is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final
from weakref import WeakSet

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WAITS: Final = frozenset({"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"})


@final
class Noting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations while they run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITS:
            message = "operation not permitted when stream is capturing\nand a second line"
            raise RuntimeError(message)
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


@final
class Tape:
    """`Recorder`; it counts, and spoils a result when something else has been replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self._results: list[Tensor] = []
        self._replays: WeakSet[Callable[[], Tensor]] = WeakSet()
        self._reel = 0

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        if self._results and not self._replays:
            raise RuntimeError("use_count > 0")  # torch, of a pool whose graphs are gone
        step()  # as before a capture: the buffers of the cache are made when they are first needed
        noting = Noting()
        with noting:
            result = step()
        self.recorded += 1
        self._results.append(result)
        reel = self._reel

        def replay() -> Tensor:
            assert reel == self._reel, "what was forgotten is replayed"
            self.replayed += 1
            for other in self._results:
                other.fill_(torch.nan)
            for func, args, kwargs, before in noting.calls:
                _put(before, func(*args, **kwargs))
            return result

        self._replays.add(replay)
        return replay

    @property
    def holds(self) -> int:
        """Recordings that somebody could replay."""
        return len(self._replays)

    def forget(self) -> None:
        self._reel += 1
        self._results.clear()


def _put(before: Any, now: Any) -> None:
    """Have a result where the first one was; views and what is done in place are there already."""
    for old, new in zip(tree_leaves(before), tree_leaves(now), strict=True):
        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)
