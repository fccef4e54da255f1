"""From names to models: every complaint, in one line, before the weights are read.

Whoever starts an engine calls, in this order, `describe` for both models, `check_pair`,
`check_room` for a request and `check_memory` for a device; all of it reads some kilobytes.
`load_runner` comes last and can fail only where a file lies about itself.

The vocabulary of a pair. A model's logits may be wider than its tokenizer: they are padded to a
round number, and two models with one tokenizer may be padded differently (Qwen2.5 0.5B to 151,936,
7B to 152,064). No text was trained on the padding and no tokenizer can print it, so the pair runs
on the tokens that the tokenizer has: `check_pair` returns their number, and both runners are given
it as `vocab_size`.  "The target's distribution" always means the one on these tokens.

May import: torch, transformers, psutil.
Must never: print, retry, or run a model's own code unless told to.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import psutil
import torch
from huggingface_hub import utils as hub_utils_module
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    __version__,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from actors.runners import folders
from actors.runners.graphs import recorder_for
from actors.runners.hugging_face import HuggingFaceRunner, cache_layers, positions_of
from decoding.errors import ModelError, PairError, PlacementError, PromptError, SettingError

# The hub's client does not mark these as public, though its manual names them.
hub_utils: Any = hub_utils_module

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


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
    stored_bytes: int
    """Weights on disk."""
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


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        ModelError: there is no such model, or it has no tokenizer.
    """
    with _quietly():
        folder = folders.find(name, weights=False)
        if not any((folder / file).is_file() for file in folders.TOKENIZERS):
            raise ModelError(f"{name} has no tokenizer; it needs tokenizer.json")
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
        # Each tokenizer class fails in its own way on a missing or damaged file.
        except Exception as error:  # noqa: BLE001
            raise ModelError(
                f"{name}: its tokenizer cannot be read ({_first_line(error)}); copy it again"
            ) from None
        if not len(tokenizer):
            raise ModelError(f"{name} has an empty tokenizer; it needs tokenizer.json")
        return tokenizer


def describe(name: str, *, trust_remote_code: bool = False) -> ModelDescription:
    """Look at a model without reading its weights.

    Raises:
        ModelError: it cannot be found, is not a decoder, cannot be rolled back, needs code of its
            own, or its files are incomplete.
    """
    with _quietly():
        folder = folders.find(name)
        raw = folders.read_config(folder, name)
        _check_known(raw, name, trust_remote_code=trust_remote_code)
        try:
            config = AutoConfig.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except Exception as error:  # noqa: BLE001 - each configuration validates in its own way
            raise ModelError(
                f"{name}: config.json is not valid ({_first_line(error)}); copy it again"
            ) from None
        architecture = _architecture(config, raw, name)
        weights = folders.measure(folder, name)
        text = config.get_text_config(decoder=True)
        bos, eos = _ends(folder, config)
    return ModelDescription(
        name=name,
        architecture=architecture,
        vocab_size=int(text.vocab_size),
        positions=positions_of(text),
        bos=bos,
        eos=eos,
        layers=int(text.num_hidden_layers),
        parameters=weights.parameters,
        stored_bytes=weights.bytes,
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "float32"),
        cache_width=_cache_width(text),
        trust_remote_code=trust_remote_code,
    )


def load_runner(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    vocab_size: int | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> HuggingFaceRunner:
    """Load a model behind a runner.

    Args:
        name: a folder, or a model on the hub.
        device: cpu, cuda, or cuda:N.
        dtype: float32, bfloat16, float16; auto is float32 on a CPU and bfloat16 on a GPU.
        vocab_size: as `check_pair` returns it; None for all the logits.
        threads: CPU threads of this process; None leaves them as they are.
        trust_remote_code: whether the model may bring code of its own.
    Raises:
        ModelError: as `describe`, or the weights are not those of the configuration.
        PlacementError: no such device, or too little memory on it.
        SettingError: an unknown device or dtype.
    """
    _set_threads(threads)
    model = load_model(name, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    with _quietly():
        return HuggingFaceRunner(
            model,
            vocab_size=vocab_size,
            spare=_has_spare(model),
            recorder=recorder_for(model.device),
        )


def load_model(
    name: str, *, device: str = "cpu", dtype: str = "auto", trust_remote_code: bool = False
) -> Any:
    """A model as the library has it, on its device; arguments and errors as `load_runner`."""
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    description = describe(name, trust_remote_code=trust_remote_code)
    check_memory(description, device=device, dtype=dtype)
    with _quietly():
        model = _load(description, precision)
        try:
            return model.to(place)
        except torch.OutOfMemoryError:
            raise PlacementError(
                f"{name} does not fit on {place}; free memory there or choose another device"
            ) from None


@functools.cache
def limits(name: str) -> tuple[int, int]:
    """Positions and tokens of a shape; arguments and errors as `load_untrained`."""
    text = _shape(name, trust_remote_code=False).get_text_config(decoder=True)
    return positions_of(text), int(text.vocab_size)


def _shape(name: str, *, trust_remote_code: bool) -> Any:
    with _quietly():
        try:
            return AutoConfig.from_pretrained(
                name, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except Exception as error:  # noqa: BLE001 - each configuration fails in its own way
            raise ModelError(f"{name} is no shape of a decoder ({_first_line(error)})") from None


def load_untrained(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int | None = None,
    trust_remote_code: bool = False,
) -> HuggingFaceRunner:
    """A model of a known shape with random weights, which is as fast as a trained one.

    Args:
        name: a folder with a config.json; the rest as `load_runner`.
    Raises:
        ModelError: the configuration is missing, wrong, or no decoder's.
        PlacementError: no such device, or too little memory on it.
        SettingError: an unknown device or dtype.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    _set_threads(threads)
    config = _shape(name, trust_remote_code=trust_remote_code)
    with _quietly():
        try:
            with place:
                model: Any = cast("Any", AutoModelForCausalLM).from_config(
                    config, dtype=precision, trust_remote_code=trust_remote_code
                )
        except torch.OutOfMemoryError:
            raise PlacementError(f"a model of the shape {name} does not fit on {place}") from None
        except Exception as error:  # noqa: BLE001 - each configuration fails in its own way
            raise ModelError(f"{name} is no shape of a decoder ({_first_line(error)})") from None
        return HuggingFaceRunner(
            model.eval(), spare=_has_spare(model), recorder=recorder_for(model.device)
        )


def _has_spare(model: Any) -> bool:
    """Whether there is memory for all weights once more."""
    weights = sum(int(parameter.nbytes) for parameter in model.parameters())
    return free_bytes(model.device) > weights


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if threads < 1:
        raise SettingError(f"threads is {threads}; it must be at least 1")
    torch.set_num_threads(threads)


def choose_device(device: str) -> torch.device:
    """The device of that name, present on this machine."""
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    if place is None or place.type not in {"cpu", "cuda"}:
        raise SettingError(f"device is {device}; it must be cpu, cuda or cuda:N")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise PlacementError(
            f"device is {device}, {torch.cuda.device_count()} GPUs are present; "
            "choose one of them, or cpu"
        )
    return place


def own_stream(device: str) -> AbstractContextManager[Any]:
    """On a GPU, have the calling thread's work queued apart from that of other threads.

    Two models in one process overlap on one GPU only so. Whatever reads their results belongs into
    the context too: nobody waits for another's queue.

    Raises:
        PlacementError, SettingError: as `choose_device`.
    """
    place = choose_device(device)
    if place.type == "cpu":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(place))  # type: ignore[no-untyped-call]


def choose_dtype(dtype: str, place: torch.device) -> torch.dtype:
    """The dtype of that name.

    auto is bfloat16 where the hardware is made for it; on a CPU it is float32, which is the faster
    one there and lets every schedule produce the same tokens to the last.
    """
    if dtype == "auto":
        return torch.bfloat16 if place.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise SettingError(f"dtype is {dtype}; it must be one of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def check_pair(draft: ModelDescription, target: ModelDescription) -> int:
    """Whether the draft's tokens are the target's.

    The same token must have the same number in both, and the same ones must be special. Which of
    them ends a text may differ (a base model drafts well for its chat version): only the target's
    end counts. A different width of the logits is no obstacle, see the top of this file.

    Returns: the number of tokens that the pair runs on, to be given to both runners.
    Raises:
        PairError: the vocabularies differ.
    """
    ours = load_tokenizer(draft.name, trust_remote_code=draft.trust_remote_code)
    theirs = load_tokenizer(target.name, trust_remote_code=target.trust_remote_code)
    _check_same_tokens(draft.name, ours.get_vocab(), target.name, theirs.get_vocab())
    different = sorted(_special(ours) ^ _special(theirs))
    if different:
        holder = draft.name if different[0] in _special(ours) else target.name
        raise PairError(
            f"{theirs.convert_ids_to_tokens(different[0])!r} is a special token of {holder} alone; "
            "choose a draft with the target's tokenizer"
        )
    real = 1 + max(int(number) for number in theirs.get_vocab().values())
    return min(real, draft.vocab_size, target.vocab_size)


def check_room(*, prompt_tokens: int, max_new_tokens: int, positions: int) -> None:
    """Whether a request fits into the target; a draft that holds less rests where it ends.

    Args:
        prompt_tokens, max_new_tokens: tokens to read, and to commit.
        positions: that the target holds.
    Raises:
        SettingError: the output alone fills the model.
        PromptError: the prompt is empty or too long.
    """
    if prompt_tokens < 1:
        raise PromptError("the prompt has 0 tokens; it needs at least one")
    room = positions - max_new_tokens
    if room < 1:
        raise SettingError(
            f"max-new-tokens is {max_new_tokens}, the target holds {positions} positions; "
            f"with a prompt choose at most {positions - 1}"
        )
    if prompt_tokens > room:
        raise PromptError(
            f"the prompt has {prompt_tokens} tokens, the target leaves room for {room} "
            f"({positions} positions less {max_new_tokens} new tokens); "
            "shorten it or ask for fewer new tokens"
        )


def check_memory(
    model: ModelDescription,
    *,
    device: str,
    dtype: str = "auto",
    rows: int = 1,
    length: int = 0,
    loaded: bool = False,
) -> None:
    """Whether weights and cache fit into what is free on the device now.

    Args:
        rows, length: sequences at once, and the positions of each.
        loaded: the weights are there already, only the cache is to come.
    Raises:
        PlacementError: they do not.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    weights = 0 if loaded else model.weight_bytes(precision)
    cache = model.cache_bytes(precision, rows=rows, length=length)
    free = free_bytes(place)
    if weights + cache > free:
        raise PlacementError(
            f"{model.name} needs {_size(weights)} for weights and {_size(cache)} for its cache, "
            f"{_size(free)} are free on {device}; choose a smaller model, fewer requests at once, "
            "or another device"
        )


def free_bytes(place: torch.device) -> int:
    """Memory that is free on a device now."""
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[0])
    return int(psutil.virtual_memory().available)


def _load(description: ModelDescription, precision: torch.dtype) -> Any:
    name = description.name
    try:
        model, report = cast("Any", AutoModelForCausalLM).from_pretrained(
            folders.find(name),
            dtype=precision,
            use_safetensors=True,
            trust_remote_code=description.trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 - a model's class may raise anything
        raise ModelError(
            f"{name} cannot be loaded ({_first_line(error)}); check that its weights belong to its "
            "config.json"
        ) from None
    # What is missing would be filled with random numbers, and the model would write nonsense.
    absent = sorted(report["missing_keys"])
    if absent:
        raise ModelError(
            f"{name} lacks the weights of {absent[0]} ({len(absent)} missing in all); check that "
            "its weights belong to its config.json"
        )
    return model.eval()


def _check_known(raw: dict[str, Any], name: str, *, trust_remote_code: bool) -> None:
    kind = raw.get("model_type")
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
    named = str((raw.get("architectures") or [""])[0])
    if "auto_map" in raw and config.model_type not in CONFIG_MAPPING:
        return named or str(config.model_type)
    decoders = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    mapping = cast("Any", AutoModelForCausalLM)._model_mapping  # noqa: SLF001 - no public way to ask
    if (
        config.is_encoder_decoder
        or type(config) not in mapping
        or (named and named not in decoders)
    ):
        raise ModelError(
            f"{name} is a {named or config.model_type}, not a decoder that writes text; "
            "choose a causal language model"
        )
    found = mapping[type(config)]
    chosen = next((c for c in found if c.__name__ == named), found[0]) if _several(found) else found
    text = config.get_text_config(decoder=True)
    for _ in cache_layers(text, chosen.__name__, stateful=chosen._is_stateful):  # noqa: SLF001
        pass  # raises at the first layer that keeps a state
    return str(chosen.__name__)


def _several(found: Any) -> bool:
    return isinstance(found, (list, tuple))


def _ends(folder: Any, config: Any) -> tuple[int | None, tuple[int, ...]]:
    """First and last tokens; the generation settings count more than the configuration."""
    text = config.get_text_config(decoder=True)
    sources = [text, config]
    with contextlib.suppress(OSError, ValueError):
        sources.insert(0, GenerationConfig.from_pretrained(folder, local_files_only=True))
    eos = _first(sources, "eos_token_id")
    bos = _first(sources, "bos_token_id")
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return bos, tuple(int(token) for token in ends)


def _first(sources: list[Any], name: str) -> Any:
    return next((v for s in sources if (v := getattr(s, name, None)) is not None), None)


def _cache_width(text: Any) -> int:
    """Keys and values of one position, over all layers; an upper bound where heads share them."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * int(text.num_hidden_layers) * int(heads) * int(width)


def _check_same_tokens(
    draft: str, ours: Mapping[str, int], target: str, theirs: Mapping[str, int]
) -> None:
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        raise PairError(
            f"draft {draft} has {len(ours)} tokens in its vocabulary, target {target} has "
            f"{len(theirs)}; choose a draft with the target's tokenizer"
        )
    token = min(token for token, number in theirs.items() if ours.get(token) != number)
    raise PairError(
        f"token {token!r} is {theirs[token]} in target {target} and {ours.get(token, 'absent')} in "
        f"draft {draft}; choose a draft with the target's tokenizer"
    )


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added: Mapping[int, Any] = tokenizer.added_tokens_decoder
    return {number for number, token in added.items() if token.special}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".;")[:160]


def _size(count: int) -> str:
    giga, mega = 10**9, 10**6
    return f"{count / giga:.2f} GB" if count >= giga else f"{count / mega:.2f} MB"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No progress bars, warnings or log lines: what matters is raised."""
    levels = logging.get_verbosity(), hub_utils.logging.get_verbosity()
    bars = logging.is_progress_bar_enabled(), not hub_utils.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    hub_utils.logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub_utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(levels[0])
        hub_utils.logging.set_verbosity(levels[1])
        if bars[0]:
            logging.enable_progress_bar()
        if bars[1]:
            hub_utils.enable_progress_bars()


def gpu_names() -> list[str]:
    """The GPUs of this machine."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
