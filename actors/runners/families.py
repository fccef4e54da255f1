"""How the families of models differ, as one table: what is written out, and for whom.

A decoder of any of them is the same walk: tokens become vectors, and each layer adds to them what
its attention found, and what its inner layer made of that. They differ in where the library keeps
the parts (`Names`), and in a few functions. Llama is the entry in which nothing is said; every
other one says only what is not as in Llama:

  norms        by the root mean square; Gemma multiplies by 1 + weight; GPT-2 centres, with a bias
  head norms   Qwen 3 and Gemma 3 norm the queries and keys of each head
  around       Gemma 2 and 3 also norm what a half of a layer gives, before it is added
  rotation     Gemma 3 turns its sliding layers by a base of their own; SmolLM 3 does not turn
               some of its layers; GPT-2 turns none, and adds learned positions to its tokens
  caps         Gemma 2 bends scores and logits under a cap, and Gemma 3 may its logits
  matrices     GPT-2 stores them by input, queries, keys and values as one, and has no gate

Windows, activation, scale of the scores and biases are in every model's own configuration and
modules, so no entry says them. A new family is a new entry. Whether it is right is not believed:
what is made from it is compared with the library's forward (`HuggingFaceRunner`).

May import: torch.
Must never: compute a pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

Activation: TypeAlias = Callable[[Tensor], Tensor]

FIXED_ROTATIONS: Final = frozenset({"default", "linear", "llama3", "yarn"})
"""They turn a position alike in texts of every length."""

_gelu_tanh: Final = functools.partial(functional.gelu, approximate="tanh")
ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "silu": functional.silu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
}
DTYPES: Final = frozenset({torch.float32, torch.bfloat16})


class NormWeights(NamedTuple):
    """What a norm multiplies by, in float32, and adds."""

    weight: Tensor
    epsilon: float
    bias: Tensor | None = None
    """With one it also takes the mean away (layer norm); without, it does not (RMS norm)."""


def root_norm(module: Any) -> NormWeights:
    """A norm by the root mean square."""
    return NormWeights(module.weight.detach().float(), module.variance_epsilon)


def one_more_norm(module: Any) -> NormWeights:
    """The same, whose weights are stored less 1."""
    return NormWeights(1.0 + module.weight.detach().float(), module.eps)


def layer_norm(module: Any) -> NormWeights:
    """A norm that takes the mean away."""
    return NormWeights(module.weight.detach().float(), module.eps, module.bias.detach().float())


def one_rotation(body: Any, _kind: str, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine by which positions are turned, alike in all layers."""
    found: tuple[Tensor, Tensor] = body.rotary_emb(torch.empty(1, 1), places)
    return found


def rotation_by_kind(body: Any, kind: str, places: Tensor) -> tuple[Tensor, Tensor]:
    """The same, for each kind of layer its own."""
    found: tuple[Tensor, Tensor] = body.rotary_emb(torch.empty(1, 1), places, kind)
    return found


def _all_layers(_attention: Any) -> bool:
    return True


def _no_cap(_config: Any) -> float | None:
    return None


def _score_cap(config: Any) -> float | None:
    found: float | None = config.attn_logit_softcapping
    return found


def _logit_cap(config: Any) -> float | None:
    found: float | None = config.final_logit_softcapping
    return found


def _as_it_is(_embedding: Any) -> float:
    return 1.0


def _scaled(embedding: Any) -> float:
    """As the library scales: by a number that was rounded to the dtype of the weights."""
    return float(embedding.embed_scale.to(embedding.weight.dtype))


class Names(NamedTuple):
    """Where the library's model keeps its parts; an empty name: it has none."""

    body: str = "model"
    tokens: str = "embed_tokens"
    places: str = ""
    """Learned positions."""
    layers: str = "layers"
    last: str = "norm"
    attention: str = "self_attn"
    into: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    heads: tuple[str, ...] = ()
    """Norms of the queries and of the keys of each head."""
    out: str = "o_proj"
    mlp: str = "mlp"
    raised: tuple[str, ...] = ("gate_proj", "up_proj")
    """Gate and up; or up alone."""
    lowered: str = "down_proj"
    before: str = "input_layernorm"
    after: str = ""
    between: str = "post_attention_layernorm"
    behind: str = ""


class ModelFamily(NamedTuple):
    """How the models of a family differ from Llama."""

    names: Names = Names()
    norm: Callable[[Any], NormWeights] = root_norm
    rotation: Callable[[Any, str, Tensor], tuple[Tensor, Tensor]] = one_rotation
    turns: Callable[[Any], bool] = _all_layers
    """Whether a layer turns its queries and keys, by its attention."""
    score_cap: Callable[[Any], float | None] = _no_cap
    logit_cap: Callable[[Any], float | None] = _no_cap
    scale: Callable[[Any], float] = _as_it_is
    """What the vectors of tokens are multiplied by, by their embedding."""
    by_input: bool = False
    """Matrices are stored (in, out)."""


_NORMS_AROUND: Final = Names(
    after="post_attention_layernorm",
    between="pre_feedforward_layernorm",
    behind="post_feedforward_layernorm",
)
_HEAD_NORMS: Final = ("q_norm", "k_norm")

FAMILIES: Final[Mapping[str, ModelFamily]] = {
    "LlamaForCausalLM": ModelFamily(),
    "MistralForCausalLM": ModelFamily(),
    "Qwen2ForCausalLM": ModelFamily(),
    "Qwen3ForCausalLM": ModelFamily(names=Names(heads=_HEAD_NORMS)),
    "SmolLM3ForCausalLM": ModelFamily(turns=lambda attention: bool(attention.use_rope)),
    "GemmaForCausalLM": ModelFamily(norm=one_more_norm, scale=_scaled),
    "Gemma2ForCausalLM": ModelFamily(
        names=_NORMS_AROUND,
        norm=one_more_norm,
        scale=_scaled,
        score_cap=_score_cap,
        logit_cap=_logit_cap,
    ),
    "Gemma3ForCausalLM": ModelFamily(
        names=_NORMS_AROUND._replace(heads=_HEAD_NORMS),
        norm=one_more_norm,
        rotation=rotation_by_kind,
        scale=_scaled,
        logit_cap=_logit_cap,
    ),
    "GPT2LMHeadModel": ModelFamily(
        names=Names(
            body="transformer",
            tokens="wte",
            places="wpe",
            layers="h",
            last="ln_f",
            attention="attn",
            into=("c_attn",),
            out="c_proj",
            raised=("c_fc",),
            lowered="c_proj",
            before="ln_1",
            between="ln_2",
        ),
        norm=layer_norm,
        turns=lambda _attention: False,
        by_input=True,
    ),
}
"""By the name of the library's class."""


def obstacle(model: Any) -> str:
    """Why a library's model is not written out here; empty where it is."""
    config, name = model.config, type(model).__name__
    dtypes = {weights.dtype for weights in model.parameters()}
    if name not in FAMILIES:
        return f"its layers are not among those written out ({', '.join(sorted(FAMILIES))})"
    if not dtypes <= DTYPES or len(dtypes) > 1:
        return f"its weights are {', '.join(sorted(map(str, dtypes)))}"
    if activation_of(config) not in ACTIVATIONS:
        return f"its activation is {activation_of(config)}"
    changing = set(_rotations(config)) - FIXED_ROTATIONS
    if changing:
        return f"its rotation is {', '.join(sorted(changing))}"
    return ""


def activation_of(config: Any) -> str:
    """The name of a model's activation."""
    names = ("hidden_activation", "hidden_act", "activation_function")
    return next((str(it) for it in (getattr(config, name, None) for name in names) if it), "")


def _rotations(config: Any) -> Iterator[str]:
    """The types of a model's rotations; one for all layers, or one for each kind of them."""
    found = getattr(config, "rope_parameters", None) or {}
    each = found.values() if all(isinstance(it, dict) for it in found.values()) else [found]
    yield from (str(it.get("rope_type", "default")) for it in each)
