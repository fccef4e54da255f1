"""What can be known of a model before its weights are read, and whether it can be loaded at all.

`describe` is the one reading of a model's folder: `pearl doctor` asks it, every start of an engine
asks it, and loading asks it again where the model is loaded. So what is refused is refused
everywhere in the same words, and what passes loads, unless a number in the weights is at fault.
It reads the small files and the headers of the large ones, and loads the model without weights
(`rehearsal`).

May import: torch, transformers.
Must never: read weights, print, or run a model's own code unless allowed to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, __version__
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pearl.actors.runners import folders
from pearl.actors.runners.families import obstacle
from pearl.actors.runners.folders import ModelFolder
from pearl.actors.runners.gguf_files import check_gguf
from pearl.actors.runners.layers import cache_layers, positions_of
from pearl.actors.runners.quiet import quietly, refused
from pearl.actors.runners.rehearsal import headers, is_quantised, rehearse
from pearl.decoding.errors import ModelError
from pearl.decoding.sampling import LARGEST_WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """What is known of a model before its weights are read."""

    name: str
    architecture: str
    vocab_size: int
    """Width of the logits, padding included."""
    positions: int
    """The longest sequence."""
    bos: int | None
    """The token that a text begins with."""
    eos: tuple[int, ...]
    """The tokens that end a text."""
    layers: int
    parameters: int
    largest: int
    """Numbers of its largest tensor."""
    stored_bytes: int
    """Weights on disk."""
    obstacle: str
    """Why only the library's forward runs it; empty where it is written out."""
    packed: bool
    """Whether only the library can unpack them: a GGUF file, or quantised weights."""
    dtype: str
    """What the weights are stored in, as the configuration says."""
    cache_width: int
    """Numbers that one position of one sequence takes in the cache."""
    trust_remote_code: bool

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Memory of the weights in `dtype`."""
        return self.parameters * dtype.itemsize

    def cache_bytes(self, dtype: torch.dtype, *, rows: int, length: int) -> int:
        """Memory of a cache of `rows` sequences of `length` positions."""
        return self.cache_width * dtype.itemsize * rows * length


def describe(name: str, *, trust_remote_code: bool = False) -> ModelDescription:
    """Look at a model without reading its weights.

    Raises:
        ModelError: it cannot be found, is not a decoder, cannot be rolled back, needs code of its
            own or a package that is not there, or its files are incomplete, damaged, or do not
            belong together.
    """
    with quietly():
        place = folders.find(name)
        found = _found(place, trust_remote_code=trust_remote_code)
        config = _configuration(place, trust_remote_code=trust_remote_code)
        text = config.get_text_config(decoder=True)
        _check_layers(text, found.listed, name)
        architecture = _architecture(config, found.raw, name)
        model = rehearse(config, found.tensors, name, trust_remote_code=trust_remote_code)
        bos, eos = _ends(place, config)
        return ModelDescription(
            name=name,
            architecture=architecture,
            vocab_size=int(text.vocab_size),
            positions=positions_of(text),
            bos=bos,
            eos=eos,
            layers=int(text.num_hidden_layers),
            parameters=sum(weights.numel() for weights in model.parameters()),
            largest=max(weights.numel() for weights in model.parameters()),
            stored_bytes=found.size,
            obstacle=obstacle(model),
            packed=found.tensors is None or is_quantised(config),
            dtype=str(found.raw.get("dtype") or found.raw.get("torch_dtype") or "float32"),
            cache_width=_cache_width(text),
            trust_remote_code=trust_remote_code,
        )


class ModelFiles(NamedTuple):
    """What a folder's files say."""

    raw: dict[str, Any]
    """The configuration as it was written."""
    tensors: Mapping[str, Tensor] | None
    """Names and shapes; None where the library names them as it unpacks them."""
    listed: int
    """How many tensors there are."""
    size: int
    """Bytes of all of them."""


def _found(place: ModelFolder, *, trust_remote_code: bool) -> ModelFiles:
    if place.gguf is not None:
        count = check_gguf(place)
        size = (place.folder / place.gguf).stat().st_size
        return ModelFiles(raw={"dtype": "gguf"}, tensors=None, listed=count, size=size)
    raw = folders.read_config(place.folder, place.name)
    _check_known(raw, place.name, trust_remote_code=trust_remote_code)
    tensors = headers(folders.shards(place.folder, place.name, raw), place.name)
    size = sum(tensor.nbytes for tensor in tensors.values())
    return ModelFiles(raw=raw, tensors=tensors, listed=len(tensors), size=size)


def _configuration(place: ModelFolder, *, trust_remote_code: bool) -> Any:
    file = place.gguf or folders.CONFIG
    with refused(lambda said: f"{place.name}: {file} is not valid ({said}); copy it again"):
        config: Any = AutoConfig.from_pretrained(
            place.folder,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            **place.options,
        )
        text = config.get_text_config(decoder=True)
        _ = int(text.vocab_size), int(text.num_hidden_layers)
    return config


def _check_layers(text: Any, tensors: int, name: str) -> None:
    """Before anything is made a layer at a time: a damaged number may say any number of them."""
    layers, vocab = int(text.num_hidden_layers), int(text.vocab_size)
    if layers < 1 or vocab < 1:
        raise ModelError(
            f"{name}: config.json says {layers} layers and {vocab} tokens; it needs some of both"
        )
    if layers > tensors:
        raise ModelError(
            f"{name}: config.json says {layers} layers, its weights are {tensors} tensors; "
            "check that they belong together"
        )


def _check_known(raw: dict[str, Any], name: str, *, trust_remote_code: bool) -> None:
    kind = raw.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelError(f"{name}: config.json says no model_type; check it or copy it again")
    if kind in CONFIG_MAPPING or (trust_remote_code and "auto_map" in raw):
        return
    if "auto_map" in raw:
        raise ModelError(
            f"{name} brings code of its own; pass trust_remote_code if you trust whoever wrote it"
        )
    raise ModelError(
        f"{name} is of type {kind}, which transformers {__version__} does not know; "
        "check config.json or upgrade transformers"
    )


def _architecture(config: Any, raw: dict[str, Any], name: str) -> str:
    """The class that will run the model: a decoder that can be rolled back."""
    listed = raw.get("architectures")
    named = str(listed[0]) if isinstance(listed, list) and listed else ""
    if "auto_map" in raw and config.model_type not in CONFIG_MAPPING:
        return named or str(config.model_type)
    decoders = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    mapping = cast("Any", AutoModelForCausalLM)._model_mapping  # noqa: SLF001 - no public way to ask
    unknown = type(config) not in mapping or (named and named not in decoders)
    if config.is_encoder_decoder or unknown:
        raise ModelError(
            f"{name} is a {named or config.model_type}, not a decoder that writes text; "
            "choose a causal language model"
        )
    found = mapping[type(config)]
    several = found if isinstance(found, (list, tuple)) else [found]
    chosen = next((each for each in several if each.__name__ == named), several[0])
    text = config.get_text_config(decoder=True)
    with refused(lambda said: f"{name}: config.json describes no model ({said})"):
        for _ in cache_layers(text, chosen.__name__, stateful=chosen._is_stateful):  # noqa: SLF001
            pass  # raises at the first layer that keeps a state
    return str(chosen.__name__)


def _ends(place: ModelFolder, config: Any) -> tuple[int | None, tuple[int, ...]]:
    """First and last tokens; the generation settings count more than the configuration."""
    sources = [config.get_text_config(decoder=True), config]
    if (place.folder / folders.ENDS).is_file() and place.gguf is None:
        folders.read_json(place.folder / folders.ENDS, place.name)
        with refused(lambda said: f"{place.name}: {folders.ENDS} is not valid ({said})"):
            sources.insert(0, GenerationConfig.from_pretrained(place.folder, local_files_only=True))
    eos, bos = _first(sources, "eos_token_id"), _first(sources, "bos_token_id")
    for token in (*_listed(eos), *_listed(bos)):
        if not isinstance(token, int) or isinstance(token, bool):
            raise ModelError(
                f"{place.name}: a first or last token is {token!r}; {folders.CONFIG} and "
                f"{folders.ENDS} must give token ids"
            )
    first = next(iter(_listed(bos)), None)
    # A token that is none, such as -1, is said where a model has no such token.
    return first, tuple(token for token in _listed(eos) if 0 <= token <= LARGEST_WHOLE)


def _listed(found: Any) -> list[Any]:
    return found if isinstance(found, list) else [] if found is None else [found]


def _first(sources: list[Any], name: str) -> Any:
    return next((v for s in sources if (v := getattr(s, name, None)) is not None), None)


def _cache_width(text: Any) -> int:
    """Keys and values of one position, over all layers; an upper bound where heads share them."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * int(text.num_hidden_layers) * int(heads) * int(width)
