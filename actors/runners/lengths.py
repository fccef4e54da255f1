"""Models whose rotation depends on how long the text is: each text is read as the model reads it.

LongRoPE (of Phi-3, say) turns queries and keys by one set of frequencies while a text is no
longer than the model was first trained for, and by another when it is longer; and then *all* of its
positions, the early ones too. The library decides that once a pass, by the largest position in it.
So a neighbour in the batch, a window that crosses the border, or keys that were cached on the other
side of it would change what a request computes.

The rule here: the logits of a position are those of the model's own forward over the text up to
that position, alone and without a cache. That depends on nothing but the text. It is what the
model was trained for, what `generate` of Phi-3 does (it reads the text again when it crosses), and
what `generate` of any model does with a text that stays on one side. Keys of both sides side by
side, which a cache would give, is what no model was trained on.

What follows from it:

  one pass, one side    A feed whose logits lie on both sides is read in two passes, and rows that
                        share a pass are on one side.
  crossing reads again  Keys in the cache are of one side. When a text crosses, or is rolled back,
                        it is read again from its beginning; a prompt beyond the border is read
                        once. A runner remembers the tokens of its rows for that.
  one position more     One more position goes into each rotation, the first beyond the border
                        below, and its result is thrown away.

Where the borders are is not looked up but found: by asking the rotations, which is cheap.

May import: torch.
Must never: know rows or caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, final

import torch
from torch import Tensor

from pearl.decoding.errors import ModelError

LOOKED_AT: Final = 3
"""Positions whose rotation is compared; a distant one says how long the text is."""
MOST_BORDERS: Final = 8

Turned: TypeAlias = tuple[Tensor, ...]


class Call:
    """How a model calls one of its rotations."""

    def __init__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.module = module
        # Compared as they are computed: rounded to 16 bits, many would look alike.
        self._args = (args[0].float(), *args[1:]) if args else args
        self._kwargs = kwargs

    def turned(self, length: int) -> Turned:
        """What the first positions of a text of that length are turned by."""
        first = _positions(self._args, self._kwargs)
        assert first is not None
        places = torch.tensor([*range(LOOKED_AT), length - 1], device=first.device)
        args, kwargs = _with_positions(
            self._args, self._kwargs, places.expand(*first.shape[:-1], LOOKED_AT + 1)
        )
        return tuple(
            each[..., :LOOKED_AT, :].clone() for each in _all(self.module(*args, **kwargs))
        )


@final
class LengthBorders:
    """The borders of a model, and a way to say between which of them a pass is."""

    def __init__(
        self, modules: Iterable[Any], borders: Sequence[int], device: torch.device
    ) -> None:
        self.borders = tuple(borders)
        self._beyond = torch.zeros(1, dtype=torch.long, device=device)
        self._told = 0
        for module in modules:
            module.register_forward_pre_hook(self._one_more, with_kwargs=True)
            module.register_forward_hook(_one_less, with_kwargs=True)

    def side(self, length: int) -> int:
        """Between which borders a text of that length is: 0 is below the first."""
        return sum(length > border for border in self.borders)

    def tell(self, side: int) -> None:
        """The passes that follow are on that side.

        The number is written where the rotations read it, so recorded passes get it too.
        """
        if side != self._told:
            self._beyond.fill_(self.borders[side - 1] if side else 0)
            self._told = side

    def parts(self, end: int, logits: int) -> Iterator[tuple[int, int, int]]:
        """How a text of `end` tokens whose last positions are wanted is read.

        Returns: for each side in turn, the side, where the text is cut, and how many logits of
            the last positions there are wanted.
        """
        wanted = end - logits
        for side in range(self.side(wanted + 1 if logits else end), self.side(end) + 1):
            cut = min([end, *self.borders[side : side + 1]])
            yield side, cut, cut - wanted
            wanted = cut

    def _one_more(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        places = _positions(args, kwargs)
        if places is None:
            return args, kwargs
        more = self._beyond.expand(*places.shape[:-1], 1).to(places.dtype)
        return _with_positions(args, kwargs, torch.cat([places, more], -1))


def lengths_of(
    model: Any, positions: int, name: str, forward: Callable[[], object]
) -> LengthBorders | None:
    """What is to be known of a model whose rotation depends on the length of the text.

    Args:
        positions: the longest text.
        forward: a pass of the model, in which it calls its rotations.
    Returns: None for a model that turns a position alike in every text.
    Raises:
        ModelError: there is no saying between which lengths the rotation is one.
    """
    with _noted(model) as calls:
        forward()

    def turned(length: int) -> list[Turned]:
        return [call.turned(length) for call in calls.values()]

    shortest = LOOKED_AT + 1
    if not calls or positions <= shortest:
        return None
    found = _borders(turned, (shortest, turned(shortest)), (positions, turned(positions)))
    borders = []
    for border in found:
        borders.append(border)
        if len(borders) > MOST_BORDERS:
            raise ModelError(
                f"{name} turns positions otherwise at more than {MOST_BORDERS} lengths of the "
                f"text, {', '.join(map(str, borders[:3]))} and others, so tokens cannot be cached; "
                "choose a model whose rotation is fixed"
            )
    modules = {call.module for call in calls.values()}
    return LengthBorders(modules, borders, model.device) if borders else None


def _borders(
    turned: Callable[[int], list[Turned]],
    low: tuple[int, list[Turned]],
    high: tuple[int, list[Turned]],
) -> Iterator[int]:
    """The lengths after which the rotation is another one, by halving."""
    if _same(low[1], high[1]):
        return
    if high[0] == low[0] + 1:
        yield low[0]
        return
    middle = (low[0] + high[0]) // 2
    between = middle, turned(middle)
    yield from _borders(turned, low, between)
    yield from _borders(turned, between, high)


def _same(some: list[Turned], others: list[Turned]) -> bool:
    return all(
        torch.equal(one, other)
        for ones, twos in zip(some, others, strict=True)
        for one, other in zip(ones, twos, strict=True)
    )


@contextmanager
def _noted(model: Any) -> Iterator[dict[str, Call]]:
    """How the model calls its rotations, which are the modules that own frequencies."""
    calls: dict[str, Call] = {}

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _positions(args, kwargs) is not None:
            calls[str((id(module), args[2:], kwargs.get("layer_type")))] = Call(
                module, args, kwargs
            )

    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True)
        for module in model.modules()
        if any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _positions(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The positions that a rotation is called with: its second argument."""
    found = kwargs.get("position_ids", args[1] if len(args) > 1 else None)
    whole = isinstance(found, Tensor) and not found.is_floating_point() and found.dim() > 0
    return found if whole else None


def _with_positions(
    args: tuple[Any, ...], kwargs: dict[str, Any], places: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "position_ids" in kwargs:
        return args, {**kwargs, "position_ids": places}
    return (args[0], places, *args[2:]), kwargs


def _one_less(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], turned: Any) -> Any:
    """Of what a rotation returned, all but the position that was added."""
    if _positions(args, kwargs) is None:
        return turned
    less = [each[..., :-1, :] for each in _all(turned)]
    return less[0] if isinstance(turned, Tensor) else type(turned)(less)


def _all(turned: Any) -> Turned:
    return (turned,) if isinstance(turned, Tensor) else tuple(turned)
