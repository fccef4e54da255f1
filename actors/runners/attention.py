"""Attention of a few tokens over the keys and values of their rows, in float32.

Two plain products a layer: scores = queries x keys, and then what the scores weigh of the values. A
pass has few tokens, so nothing larger is ever held.

Sameness of rounding. A kernel for products takes a sum in an order that may depend on the shape:
one row of queries goes another way than four, and a range of 256 positions is halved where one of
512 is cut into three. With `same_rounding` a pass takes only shapes of which it was seen, on this
machine, that they give every token the same bits:

  tokens   rounded up to a count that agrees with the largest one; what is too much is thrown away
  range    rounded up to a length that agrees, as a whole or in two parts; behind the end of a text
           weights are exactly 0, and adding 0 x value changes no sum
  chunks   a longer range is summed chunk by chunk, in the order of the positions

The search (`agreeing`) takes some tenths of a second for a shape of heads, once. The largest shape
always agrees with itself, so there is always an answer, if not always a fast one.

May import: torch, actors.runners.elementwise.
Must never: know layers, rows or feeds.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.nn import functional

from pearl.actors.runners.elementwise import serially

Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]

MOST_TOKENS: Final = 64
"""Of each row. Beyond so many a product takes as long a token as one of more."""
CHUNK: Final = 512
"""Positions that are summed at once."""
STEP: Final = 64
"""Positions. What a range is rounded up to, so that most kernels have no remainder."""
COUNTS: Final = (*range(1, 17), 24, 32, 48, MOST_TOKENS)
SEVERAL: Final = 3
"""Rows, to see whether they change what one gets."""
TRIED_HEADS: Final = 4
"""Each is a product of its own, so as many tell what more would."""


class Heads(NamedTuple):
    """Heads of keys, queries that share each of them, and the width of all."""

    shared: int
    group: int
    width: int


class Shapes(NamedTuple):
    """Shapes that give every token the same bits, each in ascending order."""

    counts: tuple[int, ...]
    """Of tokens of a row."""
    lengths: Mapping[int, tuple[int, ...]]
    """Of positions, up to `CHUNK`, and the parts that each is summed in."""


@final
class Attention:
    """How the layers of a model attend that have heads of one shape."""

    def __init__(self, heads: Heads, scale: float, cap: float | None, *, same: bool) -> None:
        """Make it.

        Args:
            scale: of the scores.
            cap: scores are bent to stay below it.
            same: a token's result does not depend on the tokens and rows beside it, to the bit.
        """
        self._heads, self._scale, self._cap = heads, scale, cap
        self._tanh = serially(torch.tanh) if same else torch.tanh
        self._nothing = torch.zeros(1, 1, 1)
        self._shapes = agreeing(heads, torch.get_num_threads()) if same else None

    def tokens(self, count: int) -> int:
        """How many tokens of each row a pass takes that has so many."""
        return count if self._shapes is None else _up(self._shapes.counts, count)

    def used(self, length: int) -> int:
        """How many positions it sees where texts have so many."""
        if self._shapes is None:
            return length
        whole, rest = divmod(length, CHUNK)
        return whole * CHUNK + (_up(self._shapes.lengths, rest) if rest else 0)

    def added(self, mask: Tensor | None, rows: int, tokens: int) -> Tensor | None:
        """A mask to add to scores, (rows x shared, group x tokens, used).

        Args:
            mask: (rows, 1, lines, used) for so many tokens of each row, with lines for all tokens.
        """
        if mask is None:
            return None
        shared, group, _ = self._heads
        taken = self.tokens(tokens)
        lines, used = mask.shape[2:]
        if lines < taken:
            mask = functional.pad(mask, (0, 0, 0, taken - lines))
        if rows == 1 and group == 1:  # a view: nothing is copied for a window of one row
            return mask[0].expand(shared, taken, used)
        wide = mask[:, :, None].expand(rows, shared, group, taken, used)
        return wide.reshape(rows * shared, group * taken, used)

    def attend(self, rows: int, tokens: int, used: int, added: Tensor | None) -> Attend:
        """What attends in a pass: (rows x tokens, heads, width), keys, values -> the same, flat.

        Keys and values are (rows, shared, used, width). `added` has `self.tokens(tokens)` lines.
        """
        return self.attend_in(rows, tokens, added, self._parts(used))

    def attend_in(
        self, rows: int, tokens: int, added: Tensor | None, parts: tuple[int, ...]
    ) -> Attend:
        """The same, with the positions summed in these parts."""
        shared, group, width = self._heads
        taken = self.tokens(tokens)
        weigh = torch.bmm if len(parts) == 1 else functools.partial(_weighed, parts=parts)
        scored = self._scored(added)

        def attend(queries: Tensor, key: Tensor, value: Tensor) -> Tensor:
            q = queries.view(rows, tokens, shared * group, width).transpose(1, 2)
            if taken > tokens:  # it is copied below all the same
                q = _longer(q, taken)
            q = q.reshape(rows * shared, group * taken, width)
            k, v = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)
            y = weigh(torch.softmax(scored(q, k), -1), v).view(rows, -1, taken, width)
            if taken > tokens:
                y = y[:, :, :tokens]
            return y.transpose(1, 2).reshape(rows * tokens, -1)

        return attend

    def _parts(self, used: int) -> tuple[int, ...]:
        if self._shapes is None:
            return (used,)
        whole, rest = divmod(used, CHUNK)
        lengths = self._shapes.lengths
        return lengths[CHUNK] * whole + (lengths[rest] if rest else ())

    def _scored(self, added: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
        """What gives the scores of queries and keys."""
        if self._cap is not None:
            return functools.partial(self._capped, cap=self._cap, added=added)
        if added is None and self._scale == 1.0:
            return torch.bmm
        if added is None:
            return functools.partial(torch.baddbmm, self._nothing, beta=0, alpha=self._scale)
        return functools.partial(torch.baddbmm, added, alpha=self._scale)

    def _capped(self, q: Tensor, k: Tensor, *, cap: float, added: Tensor | None) -> Tensor:
        scores = torch.baddbmm(self._nothing, q, k, beta=0, alpha=self._scale / cap)
        scores = self._tanh(scores.flatten(0, 1)).view_as(scores).mul_(cap)
        return scores if added is None else scores.add_(added)


def _longer(q: Tensor, taken: int) -> Tensor:
    """Queries (rows, heads, tokens, width) of more tokens; what the last ones are is no matter."""
    tokens = q.shape[2]
    if tokens == 1:
        return q.expand(-1, -1, taken, -1)
    return functional.pad(q, (0, 0, 0, taken - tokens))


def _weighed(weights: Tensor, v: Tensor, parts: tuple[int, ...]) -> Tensor:
    """Values by their weights, summed part by part."""
    first, end = parts[0], parts[0]
    y = torch.bmm(weights[..., :first], v[:, :first])
    for part in parts[1:]:
        start, end = end, end + part
        y = torch.baddbmm(y, weights[..., start:end], v[:, start:end])
    return y


def agreeing(heads: Heads, threads: int) -> Shapes:
    """The shapes that agree with the largest one, on so many threads, by trying.

    A text is tried that has just more positions than the next shorter range, so that all of the
    range is summed but the last few, which are behind its end.
    """
    return _agreeing(heads._replace(shared=min(heads.shared, TRIED_HEADS)), threads)


@functools.cache
def _agreeing(heads: Heads, _threads: int) -> Shapes:
    with torch.inference_mode():
        trial = _Trial(heads)
        lengths = {n: part for n in range(STEP, CHUNK, STEP) for part in trial.parts(n)}
        lengths[CHUNK] = (CHUNK,)
        counts = [n for n in COUNTS if all(trial.agrees(n, it) for it in lengths.values())]
    return Shapes(tuple(counts), lengths)


@final
class _Trial:
    """Queries, keys and values with which shapes are compared."""

    def __init__(self, heads: Heads) -> None:
        draw = torch.Generator().manual_seed(0)
        shared, group, width = heads
        self._queries = torch.randn(MOST_TOKENS, shared * group, width, generator=draw)
        self._held = torch.randn(2, SEVERAL, shared, CHUNK, width, generator=draw)
        self._plain = Attention(heads, width**-0.5, None, same=False)
        self._expected: dict[int, Tensor] = {}

    def parts(self, length: int) -> Iterator[tuple[int, ...]]:
        """In what parts a length agrees, if in any."""
        ways = ((length,), *((first, length - first) for first in range(STEP, length, STEP)))
        yield from itertools.islice((it for it in ways if self.agrees(MOST_TOKENS, it)), 1)

    def agrees(self, count: int, parts: tuple[int, ...]) -> bool:
        """Whether a count of tokens in a range gets the bits that the largest shape gives."""
        end = sum(parts) - STEP + 1
        if end not in self._expected:
            self._expected[end] = self._attended(MOST_TOKENS, end, (CHUNK,), 1)[0]
        expected = self._expected[end][:count]
        return all(
            torch.equal(self._attended(count, end, parts, rows)[0], expected)
            for rows in (1, SEVERAL)
        )

    def _attended(self, count: int, end: int, parts: tuple[int, ...], rows: int) -> Tensor:
        """What so many tokens of a text of some length get, (rows, tokens, all)."""
        plain, used = self._plain, sum(parts)
        mask = torch.zeros(rows, 1, count, used)
        mask[..., end:] = torch.finfo(torch.float32).min
        queries = self._queries[:count].repeat(rows, 1, 1)
        keys, values = self._held[:, :rows, :, :used]
        attend = plain.attend_in(rows, count, plain.added(mask, rows, count), parts)
        return attend(queries, keys, values).view(rows, count, -1)


def _up(sizes: Iterable[int], wanted: int) -> int:
    """The first of some sizes, the last of which is enough, that is not below a number."""
    return next(size for size in sizes if size >= wanted)
