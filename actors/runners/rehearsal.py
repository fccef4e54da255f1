"""Loading without weights: the library's own steps, on its device without memory.

    tensors = headers(files, name)                  names, shapes and dtypes; some kilobytes
    model = rehearse(config, tensors, name)         the model as it will be, without a number in it

What is missing, of a wrong shape or cannot be converted comes out as it would when the weights are
loaded, because it comes out of the same functions; names are changed, experts merged and weights
tied as the library does. Last a few tokens are read on the same device, which tells whether the
shapes of the layers fit into one another.

May import: torch, transformers, safetensors.
Must never: read weights.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import ModuleList
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.modeling_utils import LoadStateDictConfig
from transformers.quantizers.auto import get_hf_quantizer

from pearl.actors.runners.quiet import refused
from pearl.decoding.errors import ModelError

NOWHERE: Final = torch.device("meta")
STORED: Final[Mapping[str, torch.dtype]] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What the weights of models are stored in; what packs several numbers into a byte is not here."""
SMALL: Final = 1 << 26
"""Parameters of a model that may be built for a second look."""
TOKENS: Final = 3


def headers(files: Iterable[Path], name: str) -> dict[str, Tensor]:
    """The tensors of weight files, without their numbers.

    Raises:
        ModelError: a file is not safetensors, was cut short, or holds a kind of numbers that
            nothing here computes with.
    """
    found: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - it is no mapping
                    found[key] = _empty(opened.get_slice(key), f"{name}: {key} in {path.name}")
        except ModelError:
            raise
        except OSError as error:
            reason = error.strerror or "it is no file"
            raise ModelError(f"{name}: {path.name} cannot be read ({reason})") from None
        except Exception:  # noqa: BLE001 - the library's error has no public name, nor have others
            raise ModelError(
                f"{name}: {path.name} is damaged or was cut short; copy it again"
            ) from None
    return found


def _empty(entry: Any, what: str) -> Tensor:
    dtype = str(entry.get_dtype())
    if dtype not in STORED:
        raise ModelError(f"{what} is stored as {dtype}; it must be one of {', '.join(STORED)}")
    return torch.empty(entry.get_shape(), dtype=STORED[dtype], device=NOWHERE)


def rehearse(
    config: Any, tensors: Mapping[str, Tensor] | None, name: str, *, trust_remote_code: bool = False
) -> Any:
    """The model of a configuration, loaded from these tensors, on no device.

    Args:
        tensors: as `headers` gives them; None where only loading itself can tell.
    Raises:
        ModelError: the configuration describes no model, the tensors are not its weights, or the
            method that they are quantised with is not installed.
    """
    config = copy.deepcopy(config)
    quantiser, config = _quantiser(config, name)
    with refused(lambda said: f"{name}: config.json describes no model ({said})"):
        with NOWHERE:
            model: Any = cast("Any", AutoModelForCausalLM).from_config(
                config, dtype=torch.float32, trust_remote_code=trust_remote_code
            )
        if quantiser is not None:
            quantiser.preprocess_model(
                model=model, dtype=torch.float32, device_map=None, checkpoint_files=[]
            )
    if tensors is not None:
        _load(model, tensors, quantiser, name)
    _check_rotations(model, name)
    if quantiser is None:
        _read(model, name)
    return model


def is_quantised(config: Any) -> bool:
    """Whether the weights in the files are packed numbers of a quantisation."""
    return _quantisation(config) is not None


def _quantisation(config: Any) -> Any:
    text = config.get_text_config(decoder=True)
    found = getattr(config, "quantization_config", None)
    return found or getattr(text, "quantization_config", None)


def _quantiser(config: Any, name: str) -> tuple[Any, Any]:
    """What unpacks the weights, or None; and the configuration, which it may change."""
    found = _quantisation(config)
    if found is None:
        return None, config
    method = found.get("quant_method") if isinstance(found, dict) else None

    def say(said: str) -> str:
        return (
            f"{name} is quantised with {method or found}, which cannot be read here ({said}); "
            "install what is missing or choose the model without it"
        )

    with refused(say):
        quantiser, config, _ = get_hf_quantizer(config, None, None, True, {})  # noqa: FBT003
    return quantiser, config


def _load(model: Any, tensors: Mapping[str, Tensor], quantiser: Any, name: str) -> None:
    plan = LoadStateDictConfig(
        pretrained_model_name_or_path=name,
        device_map={"": NOWHERE},
        dtype=torch.float32,
        dtype_plan=model._get_dtype_plan(torch.float32),  # noqa: SLF001 - as `from_pretrained` does
        hf_quantizer=quantiser,
        weight_mapping=get_model_conversion_mapping(model, None, quantiser),
    )
    with refused(lambda said: f"{name} cannot be loaded ({said}); {BELONG}"):
        report, _ = model._load_pretrained_model(model, dict(tensors), None, plan)  # noqa: SLF001
        if quantiser is not None and report.conversion_errors:
            return  # some keep in numbers how they are packed: only loading can tell
        _check(report, name)
        report = model._finalize_model_loading(model, plan, report)  # noqa: SLF001
    check_complete(report.missing_keys, name)


BELONG: Final = "check that its weights belong to its config.json"


def _check(report: Any, name: str) -> None:
    for key, stored, expected in sorted(report.mismatched_keys, key=lambda each: str(each[0])):
        raise ModelError(
            f"{name}: {key} is of shape {tuple(stored)} in its weights, and of shape "
            f"{tuple(expected)} by its config.json; copy both again"
        )
    for key, said in sorted(report.conversion_errors.items()):
        line = str(said).strip().splitlines()[-1]
        raise ModelError(f"{name}: the weights of {key} cannot be converted ({line}); {BELONG}")


def check_complete(missing: Iterable[str], name: str) -> None:
    """What is missing would be filled with random numbers, and the model would write nonsense."""
    absent = sorted(missing)
    if absent:
        raise ModelError(
            f"{name} lacks the weights of {absent[0]} ({len(absent)} missing in all); {BELONG}"
        )


def _check_rotations(model: Any, name: str) -> None:
    """How fast queries and keys turn is computed from the configuration, in a moment."""
    for module in {type(each): each for each in model.modules()}.values():
        if any("inv_freq" in buffer for buffer, _ in module.named_buffers(recurse=False)):
            with refused(lambda said: f"{name}: config.json has a wrong rotation ({said})"):
                made = type(module)(config=module.config)
                finite = all(bool(buffer.isfinite().all()) for buffer in made.buffers())
            if not finite:
                raise ModelError(
                    f"{name}: config.json has a rotation that is not a number; check its "
                    "rope_parameters"
                )


def _read(model: Any, name: str) -> None:
    """Read a few tokens: the shapes of the layers must fit into one another.

    Some layers want others before them, and some operations want memory. So a failure is believed
    only when all the layers in memory fail too; of a large model that is left to loading.
    """
    with contextlib.suppress(Exception), _thinned(model):
        return _forward(model)
    with contextlib.suppress(Exception):
        return _forward(model)
    if sum(weights.numel() for weights in model.parameters()) <= SMALL:
        with refused(lambda said: f"{name}: config.json describes a model that fails ({said})"):
            _forward(model.to_empty(device="cpu"))
    return None


@contextlib.contextmanager
def _thinned(model: Any) -> Iterator[None]:
    """For the time being, a model with one layer of each kind: the others have their shapes."""
    text = model.config.get_text_config(decoder=True)
    count = int(text.num_hidden_layers)
    kinds = getattr(text, "layer_types", None) or [""] * count
    whole = [
        (parent, name, layers)
        for parent in model.modules()
        for name, layers in parent.named_children()
        if isinstance(layers, ModuleList) and len(layers) == count
    ]
    first = sorted(kinds.index(kind) for kind in set(kinds))
    for parent, name, layers in whole:
        setattr(parent, name, ModuleList([layers[i] for i in first]))
    try:
        yield
    finally:
        for parent, name, layers in whole:
            setattr(parent, name, layers)


def _forward(model: Any) -> None:
    config = model.config.get_text_config(decoder=True)
    ids = torch.zeros(1, TOKENS, dtype=torch.long, device=model.device)
    with torch.inference_mode(), torch.device(model.device):
        model(input_ids=ids, past_key_values=DynamicCache(config=config), use_cache=True)
