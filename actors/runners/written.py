"""The forward of the families in `families`, written out for a CPU.

Theory of operation. A small model's pass is over in a millisecond or two, and half of the time that
a library's forward takes then is spent around the arithmetic: modules, hooks, views, small kernels.
Here a layer is some twenty calls:

    y = norm(x) @ [queries | keys | values]
    turn queries and keys by their positions        one complex product, in place
    write keys and values, attend                   views of one buffer, made once a pass
    x = x + heads @ output
    y = norm(x) @ [gate | up]
    x = x + silu(gate) * up @ down

How a family differs is in the functions that a `Layer` holds; the walk is the same for all.

What is computed. x, norms and scores are float32. Keys and values are kept in the dtype of the
weights: where they no longer fit a cache, half as many bytes weigh more than to widen them. In
float32 the weights of a norm go into the matrix behind it. In bfloat16 that would round the matrix
once more, so norms multiply; products take weights and rows rounded to bfloat16 and sum in float32.
So there the logits are not the library's, which rounds to bfloat16 after every step, but nearer to
those of float32.

With `same_rounding` a token's logits are the same bits whatever stands beside it in a pass:
products (`products`) and attention (`attention`) take only shapes that agree, norms only functions
that are rounded correctly, and an activation never so many numbers that threads would share them,
since at the borders of their shares kernels go another way.

It is made from a loaded model of the library and is compared with it before it is used
(`HuggingFaceRunner`); whatever it does not know (`families.obstacle`), the library runs.

May import: torch.
Must never: be used without that comparison, or know rows and feeds beyond a `Passage`.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, final

import torch
from torch import Tensor
from torch.nn import functional

from pearl.actors.runners.attention import CHUNK, MOST_TOKENS, Attend, Attention, Heads
from pearl.actors.runners.cache import Passage
from pearl.actors.runners.elementwise import serially
from pearl.actors.runners.families import (
    ACTIVATIONS,
    FAMILIES,
    ModelFamily,
    NormWeights,
    activation_of,
)
from pearl.actors.runners.masks import MaskArgument, Masks
from pearl.actors.runners.memory import Buffer
from pearl.actors.runners.orders import rounded
from pearl.actors.runners.products import Product, Products

Rows: TypeAlias = Callable[[Tensor], Tensor]
Onto: TypeAlias = Callable[[Tensor, Tensor], Tensor]

SAME_ROWS: Final = 64
"""Tokens of a pass, all rows together, with the same rounding; beyond so many nothing is gained."""
FREE_ROWS: Final = 512


class Layer(NamedTuple):
    """One layer, as functions of rows of numbers."""

    kind: str
    """Which earlier positions it sees, and how it turns."""
    before: Rows
    into: Rows
    """(rows, width) -> (rows, heads x head width of queries, keys and values)"""
    heads: Rows
    """In place, the norm of queries and keys."""
    turns: bool
    attention: Attention
    out: Onto
    """(rows, heads x head width) -> (rows, width), added to what the layers before gave."""
    between: Rows
    raised: Rows
    """(rows, width) -> (rows, inner width), or twice that: gate and up."""
    activate: Rows
    lowered: Onto

    def at(self, count: int) -> Layer:
        """The same for exactly so many rows."""
        return self._replace(
            into=_at(self.into, count),
            out=_at(self.out, count),
            raised=_at(self.raised, count),
            lowered=_at(self.lowered, count),
        )


@final
class WrittenCache:
    """Keys and values of all layers, in one buffer for each shelf."""

    def __init__(
        self, layers: int, heads: int, width: int, *, dtype: torch.dtype, multiple: int
    ) -> None:
        """Make it; a row has a multiple of so many positions."""
        self.position_bytes = 2 * layers * heads * width * dtype.itemsize
        self.held: dict[int, Tensor] = {}
        """By shelf, (layers, 2, rows, heads, length, width)."""
        self._layers, self._heads, self._width = layers, heads, width
        self._dtype, self._multiple = dtype, multiple
        self._buffers: dict[int, Buffer] = {}

    def open(
        self, shelf: int, rows: int, length: int, *, mapped: bool, kept: Sequence[int] = ()
    ) -> None:
        """Have so many rows of so many positions; of each that was there, keep the first.

        Raises:
            PlacementError: there is no memory for it; nothing was changed.
        """
        length = -(-length // self._multiple) * self._multiple
        shape = (2 * self._layers, rows, self._heads, length, self._width)
        new = Buffer(shape, self._dtype, torch.device("cpu"), mapped=mapped)
        if old := self._buffers.get(shelf):
            new.keep(old, kept)
        self._buffers[shelf] = new
        self.held[shelf] = new.tensor.view(self._layers, 2, *shape[1:])

    def close(self, shelf: int) -> None:
        """Give a shelf back."""
        self._buffers.pop(shelf, None)
        self.held.pop(shelf, None)

    def clear(self, shelf: int, slot: int, written: int) -> None:
        """Make a row zeros again."""
        with torch.inference_mode():
            self._buffers[shelf].clear(slot, written)

    def move(self, source: tuple[int, int], target: tuple[int, int], length: int) -> None:
        """Copy what a row (shelf, slot) holds to another."""
        with torch.inference_mode():
            old = self._buffers[source[0]].tensor
            self._buffers[target[0]].copy(target[1], old, source[1], length)

    def drop(self) -> None:
        """Forget everything and give the memory back."""
        self._buffers.clear()
        self.held.clear()


@final
class WrittenForward:
    """A model's passes; `store` has the keys and values of its rows.

    `passage`: where the next pass reads and writes.
    `piece`: how many tokens of a row a pass takes.
    `most`: how many it takes of several rows together.
    """

    score_dtype: Final = torch.float32

    def __init__(
        self, model: Any, *, same_rounding: bool, in_bytes: bool = False, take: bool = False
    ) -> None:
        """Take the weights, most of them as copies; the model is not needed any more.

        Args:
            same_rounding: see above.
            in_bytes: keep the matrices as bytes with a scale for each row.
            take: empty the model on the way, so that there is never more than a layer twice.
        """
        reading = _Reading(model, same=same_rounding, in_bytes=in_bytes)
        self.piece = MOST_TOKENS
        self.most = SAME_ROWS if same_rounding else FREE_ROWS
        self._width, self._heads = reading.width, reading.heads
        self._layers = [reading.layer(i, take=take) for i in range(reading.count)]
        self._tokens, self._scale = reading.tokens, reading.scale  # (vocab, width)
        self._learned = reading.learned  # (positions, width)
        self._last, self._logits, self._cap = reading.last()
        self._tanh = serially(torch.tanh) if same_rounding else torch.tanh
        self._turned = reading.turned
        self._bound: dict[int, list[Layer]] = {}
        self._attentions = {layer.kind: layer.attention for layer in self._layers}
        self._attention = self._layers[0].attention
        self._turning = sorted({layer.kind for layer in self._layers if layer.turns})
        self._turns: dict[str, Tensor] = {}
        self.passage = Passage()
        # A range that attention sees may be rounded up.
        multiple = CHUNK if same_rounding else 1
        shared, _, width = self._heads
        self.store = WrittenCache(
            reading.count, shared, width, dtype=self._tokens.dtype, multiple=multiple
        )

    def reach(self, length: int) -> None:
        """Know how to turn the positions below a length."""
        self._turns = {kind: self._turned(kind, length) for kind in self._turning}

    def sees(self, length: int) -> int:
        """How many positions a pass sees where texts have so many."""
        return self._attention.used(length)

    def mask(self, masks: Masks, start: int, tokens: int) -> MaskArgument | None:
        """The mask of one row, whose `passage` is told."""
        taken = self._attention.tokens(tokens)
        return masks.window(start, taken, self.passage.used)

    def __call__(
        self, ids: Tensor, places: Tensor, mask: MaskArgument | None, logits: int
    ) -> Tensor:
        """One pass.

        Args:
            ids: tokens, (rows, tokens).
            places: the position of each, (1 or rows, tokens).
            mask: as `Masks` gives it, with at least as many lines as tokens.
            logits: how many of the last tokens of each row need theirs.
        Returns: (rows, logits, vocab).
        """
        at, held = self.passage, self.store.held[self.passage.shelf]
        rows, tokens = ids.shape
        count = rows * tokens
        if at.write is None:
            end = at.start + tokens
            turns = {kind: table[at.start : end] for kind, table in self._turns.items()}
            written = held[:, :, at.first, :, at.start : end].unbind(0)
        else:
            flat = places.reshape(-1)
            turns = {kind: table[flat] for kind, table in self._turns.items()}
            written = held[:, :, at.first : at.first + rows].unbind(0)
        seen = held[:, :, at.first : at.first + rows, :, : at.used]
        keys, values = seen[:, 0].unbind(0), seen[:, 1].unbind(0)
        attend = self._attending(mask, rows, tokens)
        wide = _as_it_is if held.dtype == torch.float32 else Tensor.float
        shared, group, width = self._heads
        turned, heads = shared * (group + 1), shared * (group + 2)
        x = self._embedded(ids, places)  # (rows x tokens, width)
        for layer, write, key, value in zip(self._at(count), written, keys, values, strict=True):
            y = layer.into(layer.before(x)).view(count, heads, width)
            both = layer.heads(y[:, :turned])
            if layer.turns:
                pairs = both.view(count, turned, width // 2, 2)
                torch.view_as_complex(pairs).mul_(turns[layer.kind])
            self._write(write, y[:, turned - shared :], rows, tokens)
            y = attend[layer.kind](both[:, : turned - shared], wide(key), wide(value))
            x = layer.out(y, x)
            x = layer.lowered(layer.activate(layer.raised(layer.between(x))), x)
        x = x.view(rows, tokens, self._width)[:, tokens - logits :].reshape(-1, self._width)
        y = self._logits(self._last(x))
        if self._cap is not None:
            y = self._tanh(y.div_(self._cap)).mul_(self._cap)
        return y.view(rows, logits, y.shape[1])

    def _embedded(self, ids: Tensor, places: Tensor) -> Tensor:
        x = self._tokens.index_select(0, ids.view(-1))
        if x.dtype != torch.float32:
            x = x.to(torch.float32)
        if self._scale != 1.0:
            x *= self._scale
        if self._learned is not None:
            x += self._learned.index_select(0, places.reshape(-1))
        return x

    def _at(self, count: int) -> list[Layer]:
        """The layers, for so many rows."""
        if count not in self._bound:
            self._bound[count] = [layer.at(count) for layer in self._layers]
        return self._bound[count]

    def _attending(self, mask: MaskArgument | None, rows: int, tokens: int) -> dict[str, Attend]:
        """What attends in this pass, in the layers of each kind."""
        found = {}
        for kind, attention in self._attentions.items():
            of_kind = mask[kind] if isinstance(mask, dict) else mask
            added = attention.added(of_kind, rows, tokens)
            found[kind] = attention.attend(rows, tokens, self.passage.used, added)
        return found

    def _write(self, into: Tensor, new: Tensor, rows: int, tokens: int) -> None:
        """Store keys and values (rows x tokens, 2 x shared heads, head) of a layer."""
        at, (shared, _, width) = self.passage, self._heads
        if at.write is None:
            into.copy_(new.transpose(0, 1).view(2, shared, tokens, width))
        else:
            # Indices around a slice put their dimensions first: (rows, tokens, 2, heads, head).
            row, position = at.write
            into[:, row, :, position] = new.view(rows, tokens, 2, shared, width).to(into.dtype)


def shapes_of(model: Any) -> Counter[tuple[int, int]]:
    """(out, in) of the matrices of a model, and how many there are of each.

    A model of another family has none. The weights may be on no device: what is measured for the
    shapes takes memory, and is best over before the weights take theirs.
    """
    found = Counter[tuple[int, int]]()
    for modules in _multiplied(model):
        shapes = [tuple(_by_output(model, it).shape) for it in modules]
        found[sum(int(out) for out, _ in shapes), int(shapes[0][1])] += 1
    return found


def round_to_bytes(model: Any) -> None:
    """Give a library's model the weights that are left of them when they are kept as bytes."""
    for modules in _multiplied(model):
        for module in modules:
            weight = _by_output(model, module)
            weight.copy_(rounded(weight))


def _multiplied(model: Any) -> Iterator[list[Any]]:
    """The modules of each product; of one that is written out."""
    family = FAMILIES.get(type(model).__name__)
    if family is None:
        return
    names = family.names
    for layer in getattr(getattr(model, names.body), names.layers):
        attention, mlp = getattr(layer, names.attention), getattr(layer, names.mlp)
        yield [getattr(attention, it) for it in names.into]
        yield [getattr(attention, names.out)]
        yield [getattr(mlp, it) for it in names.raised]
        yield [getattr(mlp, names.lowered)]
    yield [model.lm_head]


def _by_output(model: Any, module: Any) -> Tensor:
    """A module's weights, (out, in)."""
    weight: Tensor = module.weight.detach()
    by_input = FAMILIES[type(model).__name__].by_input and module is not model.lm_head
    return weight.t() if by_input else weight


@final
class _Reading:
    """A model of the library, read as its family says."""

    def __init__(self, model: Any, *, same: bool, in_bytes: bool) -> None:
        self._family: ModelFamily = FAMILIES[type(model).__name__]
        names = self._family.names
        self._model, self._config, self._same = model, model.config, same
        self._body = getattr(model, names.body)
        self._layers = getattr(self._body, names.layers)
        self.count = len(self._layers)
        self._kinds = getattr(model.config, "layer_types", None) or [""] * self.count
        attention = getattr(self._layers[0], names.attention)
        queries = int(model.config.num_attention_heads)
        shared = int(getattr(model.config, "num_key_value_heads", queries))
        self.heads = Heads(shared, queries // shared, int(attention.head_dim))
        embedding = getattr(self._body, names.tokens)
        self.tokens: Tensor = embedding.weight.detach()
        self.width = int(self.tokens.shape[1])
        self.scale = self._family.scale(embedding)
        self.learned: Tensor | None = None
        if names.places:
            self.learned = getattr(self._body, names.places).weight.detach().float()
        self._dtype = torch.int8 if in_bytes else self.tokens.dtype
        self._folds = self._dtype == torch.float32
        self._products = Products(shapes_of(model), dtype=self._dtype, same_rounding=same)

    def layer(self, index: int, *, take: bool) -> Layer:
        """A layer, written out."""
        names, layer = self._family.names, self._layers[index]
        attention, mlp = getattr(layer, names.attention), getattr(layer, names.mlp)
        turns = self._family.turns(attention)
        before, into = self._normed(
            getattr(layer, names.before), self._projections(attention, turns=turns)
        )
        between, raised = self._normed(
            getattr(layer, names.between), [self._matrix(getattr(mlp, it)) for it in names.raised]
        )
        written = Layer(
            kind=self._kinds[index],
            before=before,
            into=into,
            heads=self._head_norms(attention, turns=turns),
            turns=turns,
            attention=Attention(
                self.heads,
                1.0 if self._folds else float(attention.scaling),
                self._family.score_cap(self._config),
                same=self._same,
            ),
            out=self._onto(getattr(attention, names.out), getattr(layer, names.after, None)),
            between=between,
            raised=raised,
            activate=self._activation(gated=len(names.raised) > 1),
            lowered=self._onto(getattr(mlp, names.lowered), getattr(layer, names.behind, None)),
        )
        for weights in layer.parameters() if take else ():
            weights.data = weights.data.new_empty(0)
        return written

    def last(self) -> tuple[Rows, Rows, float | None]:
        """The last norm, what gives the logits, and their cap."""
        norm = getattr(self._body, self._family.names.last)
        head = self._model.lm_head
        # The norm is not folded in: the largest matrix would be there once more meanwhile.
        logits = self._product([_Matrix(head.weight.detach(), head.bias)])
        return self._norm(norm), logits, self._family.logit_cap(self._config)

    def turned(self, kind: str, length: int) -> Tensor:
        """For each position the complex numbers that turn queries and keys, (length, 1, head/2)."""
        cos, sin = self._family.rotation(self._body, kind, torch.arange(length)[None])
        half = self.heads.width // 2
        return torch.complex(cos[0, :, :half], sin[0, :, :half]).unsqueeze(1)

    def _normed(self, module: Any, matrices: list[_Matrix]) -> tuple[Rows, Rows]:
        """A norm, and the product behind it."""
        norm = self._family.norm(module)
        if self._folds and norm.bias is None:
            by = norm.weight * math.sqrt(len(norm.weight))
            return self._root(norm, None), self._product(matrices, by)
        return self._norm(module), self._product(matrices)

    def _norm(self, module: Any) -> Rows:
        norm = self._family.norm(module)
        if norm.bias is None:
            return self._root(norm, norm.weight * math.sqrt(len(norm.weight)))
        shape = norm.weight.shape
        return functools.partial(
            _layer_norm, shape=shape, weight=norm.weight, bias=norm.bias, epsilon=norm.epsilon
        )

    def _root(self, norm: NormWeights, weight: Tensor | None) -> Rows:
        """An RMS norm; `weight` is to have the root of the width in it."""
        squared = len(norm.weight) * norm.epsilon
        lengths = _exact_lengths(squared) if self._same else _lengths(squared)
        if weight is not None:
            return lambda x: (x / lengths(x)).mul_(weight)
        return lambda x: x / lengths(x)

    def _head_norms(self, attention: Any, *, turns: bool) -> Rows:
        if not self._family.names.heads:
            return _as_it_is
        shared, group, width = self.heads
        norms = [self._family.norm(getattr(attention, it)) for it in self._family.names.heads]
        each = [self._interleaved(it.weight) if turns else it.weight for it in norms]
        if self._folds:
            each[0] = each[0] * float(attention.scaling)
        weight = torch.cat([each[0].expand(shared * group, -1), each[1].expand(shared, -1)])
        weight = weight * math.sqrt(width)  # (heads of queries and keys, width)
        squared = width * norms[0].epsilon
        lengths = _exact_lengths(squared) if self._same else _lengths(squared)
        return lambda both: both.div_(lengths(both)).mul_(weight)

    def _projections(self, attention: Any, *, turns: bool) -> list[_Matrix]:
        found = [self._matrix(getattr(attention, it)) for it in self._family.names.into]
        if turns:
            found[:2] = [it.rows(self._interleaved) for it in found[:2]]
        if self._folds and not self._family.names.heads:
            # Queries come first, whether or not they have a matrix of their own.
            shared, group, width = self.heads
            queries = shared * group * width
            found[0] = found[0].rows(
                lambda rows: torch.cat([rows[:queries] * attention.scaling, rows[queries:]])
            )
        return found

    def _interleaved(self, weight: Tensor) -> Tensor:
        """Rows of each head in the order 0, h/2, 1, h/2 + 1, ..."""
        halves = weight.view(-1, 2, self.heads.width // 2, *weight.shape[1:])
        return halves.transpose(1, 2).reshape(weight.shape)

    def _matrix(self, module: Any) -> _Matrix:
        weight = module.weight.detach()
        bias = None if module.bias is None else module.bias.detach()
        return _Matrix(weight.t() if self._family.by_input else weight, bias)

    def _product(self, matrices: list[_Matrix], by: Tensor | None = None) -> Rows:
        """One product with several matrices, whose results stand side by side."""
        weight = torch.cat([it.weight for it in matrices]) if matrices[1:] else matrices[0].weight
        product = self._products.of(weight if by is None else weight * by)
        biases = [it.bias for it in matrices if it.bias is not None]
        if not biases:
            return product
        bias = torch.cat(biases).float()

        def biased(x: Tensor) -> Tensor:
            return product(x).add_(bias)

        return biased

    def _onto(self, module: Any, norm: Any) -> Onto:
        """A product that is added, behind a norm if there is one."""
        matrix = self._matrix(module)
        if norm is None and matrix.bias is None:
            return self._products.of(matrix.weight)
        product = self._product([matrix])
        normed = _as_it_is if norm is None else self._norm(norm)
        return lambda y, x: x.add_(normed(product(y)))

    def _activation(self, *, gated: bool) -> Rows:
        function = ACTIVATIONS[activation_of(self._config)]
        if self._same:
            function = serially(function)
        if not gated:
            return function

        def activate(y: Tensor) -> Tensor:
            gate, up = y.chunk(2, dim=1)
            return function(gate).mul_(up)

        return activate


class _Matrix(NamedTuple):
    weight: Tensor
    """(out, in)"""
    bias: Tensor | None

    def rows(self, change: Callable[[Tensor], Tensor]) -> _Matrix:
        """With the rows of the matrix, and of the bias, changed."""
        bias = None if self.bias is None else change(self.bias)
        return _Matrix(change(self.weight), bias)


def _at(function: Callable[..., Tensor], count: int) -> Callable[..., Tensor]:
    return function.at(count) if isinstance(function, Product) else function


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _lengths(squared: float) -> Rows:
    """The length of each row, with a little added to its square."""
    root = torch.tensor(math.sqrt(squared))
    return lambda x: torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), root)


def _exact_lengths(squared: float) -> Rows:
    """The same, of functions that have one right result; a hypotenuse differs by the kernel."""

    def lengths(x: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return length.mul_(length).add_(squared).sqrt_()

    return lengths


def _layer_norm(
    x: Tensor, *, shape: Sequence[int], weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    return functional.layer_norm(x, shape, weight, bias, epsilon)
