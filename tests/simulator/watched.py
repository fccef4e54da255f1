"""Arrays that tell which of numpy's functions went over their elements."""

from __future__ import annotations

import collections
from typing import Any, Final

import numpy as np

FEW: Final = 64  # a power of so many elements costs nothing


class Watched(np.ndarray[Any, Any]):
    """An array that counts the functions called on it and on all that is computed from it."""

    calls: Final[collections.Counter[str]] = collections.Counter()  # with more than a few elements

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **given: Any) -> Any:
        """Count, compute, and watch what comes of it."""
        if max(np.size(value) for value in inputs) > FEW:
            Watched.calls[ufunc.__name__] += 1
        bare = [v.view(np.ndarray) if isinstance(v, Watched) else v for v in inputs]
        return watched(getattr(ufunc, method)(*bare, **given))

    def __array_function__(self, *given: Any) -> Any:
        """Functions that are none of those above: what comes of them is watched, too."""
        return watched(super().__array_function__(*given))


def watched(found: Any) -> Any:
    """An array, watched from now on; anything else as it is."""
    return found.view(Watched) if isinstance(found, np.ndarray) else found
