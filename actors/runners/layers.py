"""What a configuration says of a model's layers: how far they reach, and whether they roll back.

May import: transformers (its cache, for the kinds of its layers).
Must never: look at weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast

from transformers.cache_utils import DynamicCache

from pearl.decoding.errors import ModelError

UNBOUNDED: Final = 1 << 24
"""Positions of a model that has no longest sequence, such as one with linear position biases."""


def positions_of(config: Any) -> int:
    """The longest sequence that a model of this configuration can hold."""
    for name in ("max_position_embeddings", "max_seq_len", "n_positions"):
        if isinstance(found := getattr(config, name, None), int) and found > 0:
            return found
    return UNBOUNDED


def refuse_state(architecture: str) -> ModelError:
    """What to say of a model that carries more than keys and values."""
    return ModelError(
        f"{architecture} carries a recurrent state, which cannot be rolled back after a rejected "
        "token; choose a model whose layers are all attention"
    )


def cache_layers(config: Any, architecture: str, *, stateful: bool) -> Iterator[Any]:
    """The library's own cache layers: which kind each is, and its window."""
    if stateful:
        raise refuse_state(architecture)
    for layer in cast("Any", DynamicCache(config=config)).layers:
        if not stores(layer) and type(layer).__name__ != "DummyLayer":
            raise refuse_state(architecture)
        yield layer


def stores(layer: Any) -> bool:
    """Whether a layer keeps keys and values, and nothing else."""
    # By exact name: subclasses of these two keep a state beside the keys and values.
    return type(layer).__name__ in {"DynamicLayer", "DynamicSlidingWindowLayer"}


def windows_of(config: Any, layers: Sequence[Any]) -> Mapping[str, int | None] | None:
    """For each kind of layer what it sees; None when its masks are not ours to make."""
    sliding = {layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)}
    # GPT-Neo keeps its windows to itself, as a table that is right when all rows end together.
    if getattr(config, "attention_types", None):
        return None
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        kinds = {"sliding_attention" if layer.is_sliding else "full_attention" for layer in layers}
        if getattr(config, "attention_chunk_size", None):
            return None
    if not kinds <= {"full_attention", "sliding_attention"} or len(sliding) > 1:
        return None
    return {kind: next(iter(sliding)) if kind.startswith("s") else None for kind in sorted(kinds)}
