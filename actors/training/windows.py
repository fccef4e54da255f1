"""Training sequences cut from a stream of tokens, addressed by number.

Window `n` of a given length is the same whoever asks and whenever, so training resumes exactly and
several processes share the work without talking. Every window begins with the token between
documents, as every prompt does, and where possible continues at the beginning of a top-level line:
that is what a prompt typed by a person looks like. The first prediction is only learned where a
document really begins there, so that what this token alone calls forth is the beginning of a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

IGNORED: Final = -100
_REACH: Final = 96


class Windows:
    """Deterministic windows over one stream; an epoch visits each stretch of the stream once.

    Args:
        stream: the corpus as tokens, (length,).
        line_ends: for each token of the vocabulary whether it ends a line, (vocab,).
        seed: of the order.
        end: the token between documents.
    """

    def __init__(
        self, stream: NDArray[np.uint16], line_ends: NDArray[np.bool_], *, seed: int, end: int
    ) -> None:
        self._stream = stream
        self._seed = seed
        self._end = end
        ends = np.flatnonzero(line_ends[stream])
        self._starts = np.append(ends + 1, len(stream))

    @classmethod
    def read(cls, folder: Path, *, seed: int, end: int) -> Windows:
        """Of a corpus in a folder: `train.npy` and `line_ends.npy`."""
        stream = np.load(folder / "train.npy", mmap_mode="r")
        return cls(stream, np.load(folder / "line_ends.npy"), seed=seed, end=end)

    def batch(
        self, first: int, count: int, length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Windows `first` to `first + count`: inputs and labels, each (count, length)."""
        rows = [self._window(number, length) for number in range(first, first + count)]
        inputs, labels = zip(*rows, strict=True)
        return np.stack(inputs), np.stack(labels)

    def _window(self, number: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        start = self._start(number, length)
        labels = self._stream[start : start + length].astype(np.int64)
        inputs = np.concatenate(([self._end], labels[:-1]))
        if self._stream[start - 1] != self._end:
            labels[0] = IGNORED
        return inputs, labels

    def _start(self, number: int, length: int) -> int:
        stretches = max(1, (len(self._stream) - length - 1) // length)
        epoch, index = divmod(number, stretches)
        generator = np.random.default_rng((self._seed, epoch, length))
        shift = int(generator.integers(length))
        wanted = 1 + int(_shuffled(self._seed + epoch, stretches)[index]) * length + shift
        line = int(self._starts[np.searchsorted(self._starts, wanted)])
        start = min(line if line - wanted <= _REACH else wanted, len(self._stream) - length - 1)
        # That token is put in front anyway.
        return start + 1 if self._stream[start] == self._end else start


_ORDERS: dict[tuple[int, int], NDArray[np.int64]] = {}


def _shuffled(seed: int, count: int) -> NDArray[np.int64]:
    # One order is asked for thousands of times before the next epoch begins.
    if (seed, count) not in _ORDERS:
        _ORDERS.clear()
        _ORDERS[seed, count] = np.random.default_rng(seed).permutation(count)
    return _ORDERS[seed, count]
