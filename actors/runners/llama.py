"""The forward of the Llama family, written out for one CPU.

Theory of operation. A small model's pass is over in a millisecond or two, and half of the time that
a library's forward takes then is spent around the arithmetic: modules, hooks, views, small kernels.
Here a layer is some twenty calls:

    y = x / rms(x) @ [queries | keys | values]      the norm's weights are folded into the matrix
    turn queries and keys by their positions        one complex product, in place
    write keys and values, attend                   views of one buffer, made once a pass
    x = x + heads @ output
    y = x / rms(x) @ [gate | up]
    x = x + silu(gate) * up @ down

Weights are stored by input (in, out). A product of a few rows then reads them once, as a product of
one row does; stored the usual way (out, in) the kernels repack them first, and a pass over eight
tokens costs nearly twice a pass over one. The two halves of a rotated head, which transformers puts
side by side, are interleaved, so that they are real and imaginary part of complex numbers; queries
and keys are reordered alike, so their products do not change. The scale of attention is folded into
the queries.

It is made from a loaded model of the library and is compared with it before it is used
(`HuggingFaceRunner`); whatever it does not know (`fits`), the library runs.

May import: torch.
Must never: be used without that comparison, or know rows and feeds beyond a `Passage`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn import functional

from pearl.actors.runners.cache import Passage
from pearl.actors.runners.masks import FEW_TOKENS
from pearl.actors.runners.memory import Buffer

CLASSES: Final = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"})
FLOAT_BYTES: Final = 4
ROTATIONS: Final = frozenset({"default", "linear", "llama3", "yarn"})  # the same at every length


class Layer(NamedTuple):
    """Weights of one layer, stored by input."""

    into: Tensor
    """(width, heads x head width of queries, keys and values)"""
    bias: Tensor | None
    out: Tensor
    """(heads x head width, width)"""
    raised: Tensor
    """(width, 2 x inner width): gate and up."""
    lowered: Tensor
    """(inner width, width)"""


def fits(model: Any) -> bool:
    """Whether a library's model is one that is written out here."""
    config = model.config
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    rotation = getattr(config, "rope_parameters", None) or {}
    return (
        type(model).__name__ in CLASSES
        and model.device.type == "cpu"
        and all(weights.dtype == torch.float32 for weights in model.parameters())
        and config.hidden_act == "silu"
        and set(layers) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and rotation.get("rope_type", "default") in ROTATIONS
        and not getattr(config, "mlp_bias", False)
        and model.model.layers[0].self_attn.o_proj.bias is None
    )


@final
class LlamaCache:
    """Keys and values of all layers, in one buffer for each shelf."""

    def __init__(self, layers: int, heads: int, width: int) -> None:
        self.position_bytes = 2 * layers * heads * width * FLOAT_BYTES
        self.held: dict[int, Tensor] = {}
        """By shelf, (layers, 2, rows, heads, length, width)."""
        self._layers, self._heads, self._width = layers, heads, width
        self._buffers: dict[int, Buffer] = {}

    def open(
        self, shelf: int, rows: int, length: int, *, mapped: bool, kept: Sequence[int] = ()
    ) -> None:
        """Have so many rows of so many positions; of each that was there, keep the first.

        Raises:
            PlacementError: there is no memory for it; nothing was changed.
        """
        shape = (2 * self._layers, rows, self._heads, length, self._width)
        new = Buffer(shape, torch.float32, torch.device("cpu"), mapped=mapped)
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
class LlamaForward:
    """A model's passes; `store` has the keys and values of its rows.

    `passage`: where the next pass reads and writes.
    """

    def __init__(self, model: Any, *, take: bool = False) -> None:
        """Take the weights, most of them as copies; the model is not needed any more.

        Args:
            take: empty the model on the way, so that there is never more than a layer twice.
        """
        attention = model.model.layers[0].self_attn
        self._width = int(model.config.hidden_size)
        self._head = int(attention.head_dim)
        self._shared = int(model.config.num_key_value_heads)
        self._group = int(model.config.num_attention_heads) // self._shared
        self._layers = [self._layer(layer, take=take) for layer in model.model.layers]
        self._embedding: Tensor = model.model.embed_tokens.weight.detach()  # (vocab, width)
        norm = model.model.norm
        self._logits = _by_input(model.lm_head.weight, norm.weight, self._width)  # (width, vocab)
        self._root = torch.tensor(math.sqrt(self._width * norm.variance_epsilon))
        self._rotary = model.model.rotary_emb
        self._turns = torch.empty(0, 1, self._head // 2, dtype=torch.complex64)
        self.passage = Passage()
        self.store = LlamaCache(len(self._layers), self._shared, self._head)

    def reach(self, length: int) -> None:
        """Know how to turn the positions below a length."""
        self._turns = self._turned(length)

    def __call__(self, ids: Tensor, places: Tensor, mask: Any, logits: int) -> Tensor:
        """One pass.

        Args:
            ids: tokens, (rows, tokens).
            places: the position of each, (1 or rows, tokens).
            mask: as `Masks` gives it.
            logits: how many of the last tokens of each row need theirs.
        Returns: (rows, logits, vocab).
        """
        at, held = self.passage, self.store.held[self.passage.shelf]
        rows, tokens = ids.shape
        if at.write is None:
            turns = self._turns[at.start : at.used]  # (tokens, 1, head / 2)
            written = held[:, :, at.first, :, at.start : at.used].unbind(0)
        else:
            turns = self._turns[places.reshape(-1)]  # (rows x tokens, 1, head / 2)
            written = held[:, :, at.first : at.first + rows].unbind(0)
        seen = held[:, :, at.first : at.first + rows, :, : at.used]
        keys, values = seen[:, 0].unbind(0), seen[:, 1].unbind(0)
        attend = self._attention(rows, tokens, mask)
        turned, heads = self._shared * (self._group + 1), self._shared * (self._group + 2)
        x = self._embedding.index_select(0, ids.reshape(-1))  # (rows x tokens, width)
        for layer, write, key, value in zip(self._layers, written, keys, values, strict=True):
            y = torch.mm(self._normed(x), layer.into)
            if layer.bias is not None:
                y += layer.bias
            y = y.view(rows * tokens, heads, self._head)
            pairs = y[:, :turned].view(rows * tokens, turned, self._head // 2, 2)
            torch.view_as_complex(pairs).mul_(turns)
            self._write(write, y[:, turned - self._shared :], rows, tokens)
            y = attend(y[:, : turned - self._shared], key, value)
            x = torch.addmm(x, y, layer.out)
            y = torch.mm(self._normed(x), layer.raised)
            gate, up = y.chunk(2, dim=1)
            x = torch.addmm(x, functional.silu(gate).mul_(up), layer.lowered)
        x = x.view(rows, tokens, self._width)[:, tokens - logits :].reshape(-1, self._width)
        return torch.mm(self._normed(x), self._logits).view(rows, logits, self._logits.shape[1])

    def _normed(self, x: Tensor) -> Tensor:
        # sqrt(width) x / sqrt(|x|^2 + width eps); the root of the width is in the next matrix.
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._root)

    def _write(self, into: Tensor, new: Tensor, rows: int, tokens: int) -> None:
        """Store keys and values (rows x tokens, 2 x shared heads, head) of a layer."""
        at = self.passage
        if at.write is None:
            into.copy_(new.transpose(0, 1).view(2, self._shared, tokens, self._head))
        else:
            # Indices around a slice put their dimensions first: (rows, tokens, 2, heads, head).
            row, position = at.write
            into[:, row, :, position] = new.view(rows, tokens, 2, self._shared, self._head)

    def _attention(self, rows: int, tokens: int, mask: Tensor | None) -> Any:
        """What attends in this pass: (rows x tokens, heads, head), keys, values -> the same, flat.

        For a few tokens of each row two plain products are the fastest; for many, a kernel that
        never holds all scores.
        """
        at, head, shared, group = self.passage, self._head, self._shared, self._group
        if tokens <= FEW_TOKENS and (mask is not None or tokens == 1):
            added = None if mask is None else _added(mask, rows, shared, group)

            def products(queries: Tensor, key: Tensor, value: Tensor) -> Tensor:
                q = queries.view(rows, tokens, shared * group, head).transpose(1, 2)
                q = q.reshape(rows * shared, group * tokens, head)
                k, v = key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1)
                scores = torch.bmm(q, k) if added is None else torch.baddbmm(added, q, k)
                y = torch.bmm(torch.softmax(scores, -1), v).view(rows, -1, tokens, head)
                return y.transpose(1, 2).reshape(rows * tokens, -1)

            return products
        causal = mask is None and at.start == 0
        if mask is None and not causal:
            mask = torch.ones(tokens, at.used, dtype=torch.bool).tril_(at.start)

        def kernel(queries: Tensor, key: Tensor, value: Tensor) -> Tensor:
            q = queries.view(rows, tokens, -1, head).transpose(1, 2)
            y = functional.scaled_dot_product_attention(
                q, key, value, attn_mask=mask, is_causal=causal, scale=1.0, enable_gqa=group > 1
            )
            return y.transpose(1, 2).reshape(rows * tokens, -1)

        return kernel

    def _layer(self, layer: Any, *, take: bool) -> Layer:
        attention, mlp = layer.self_attn, layer.mlp
        scale = attention.scaling
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        into = torch.cat([
            self._interleaved(attention.q_proj.weight) * scale,
            self._interleaved(attention.k_proj.weight),
            attention.v_proj.weight,
        ])  # fmt: skip
        bias = None
        if all(each.bias is not None for each in projections):
            bias = torch.cat([
                self._interleaved(attention.q_proj.bias) * scale,
                self._interleaved(attention.k_proj.bias),
                attention.v_proj.bias,
            ]).detach()  # fmt: skip
        raised = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        written = Layer(
            into=_by_input(into, layer.input_layernorm.weight, self._width),
            bias=bias,
            out=attention.o_proj.weight.detach().t().contiguous(),
            raised=_by_input(raised, layer.post_attention_layernorm.weight, self._width),
            lowered=mlp.down_proj.weight.detach().t().contiguous(),
        )
        for weights in layer.parameters() if take else ():
            weights.data = weights.data.new_empty(0)
        return written

    def _interleaved(self, weight: Tensor) -> Tensor:
        """Rows of each head in the order 0, h/2, 1, h/2 + 1, ..."""
        halves = weight.view(-1, 2, self._head // 2, *weight.shape[1:])
        return halves.transpose(1, 2).reshape(weight.shape)

    def _turned(self, length: int) -> Tensor:
        """For each position the complex numbers that turn queries and keys, (length, 1, head/2)."""
        places = torch.arange(length)[None]
        cos, sin = self._rotary(torch.empty(1, 1, dtype=torch.float32), places)
        half = self._head // 2
        return torch.complex(cos[0, :, :half], sin[0, :, :half]).unsqueeze(1)


def _added(mask: Tensor, rows: int, shared: int, group: int) -> Tensor:
    """A mask (rows, 1, tokens, used) to add to scores, (rows x shared, group x tokens, used)."""
    tokens, used = mask.shape[2:]
    if rows == 1 and group == 1:  # a view: nothing is copied for a window of one row
        return mask[0].expand(shared, tokens, used)
    wide = mask[:, :, None].expand(rows, shared, group, tokens, used)
    return wide.reshape(rows * shared, group * tokens, used)


def _by_input(weight: Tensor, norm: Tensor, width: int) -> Tensor:
    """A matrix (out, in) behind a norm, as (in, out), with what the norm multiplies by in it."""
    return (weight * norm * math.sqrt(width)).detach().t().contiguous()
