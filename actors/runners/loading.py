"""From names to models: every complaint, in one line, before the weights are read.

The start of an engine calls, in this order, `describe` for both models, `check_pair`,
`check_room` for a request and `check_memory` for a device; all of it reads some kilobytes.
`load_runner` comes last, asks `describe` again, and can fail only where a number in the weights is
at fault.

May import: torch, transformers.
Must never: print, retry, or run a model's own code unless allowed to.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from pearl.actors.runners import folders, memory
from pearl.actors.runners.describing import ModelDescription, describe
from pearl.actors.runners.families import DTYPES as WRITTEN_DTYPES
from pearl.actors.runners.gguf_files import without_bars
from pearl.actors.runners.graphs import recorder_for
from pearl.actors.runners.hugging_face import HuggingFaceRunner
from pearl.actors.runners.layers import positions_of
from pearl.actors.runners.products import Products
from pearl.actors.runners.quiet import quietly, refused
from pearl.actors.runners.rehearsal import BELONG, NOWHERE, check_complete
from pearl.actors.runners.stored import Heard, stored
from pearl.actors.runners.written import shapes_of
from pearl.decoding.errors import PlacementError, PromptError, SettingError

DTYPES: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


QUANTIZED: Final = ("int8",)
HEIGHT: Final = {4: (2.0, 100 * 10**6), 2: (2.5, 175 * 10**6)}
"""By the bytes of a number: how often the largest matrix is there beside the weights when loading
takes most, and what the kernels take. Measured: docs/speed.md."""


def load_runner(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    vocab_size: int | None = None,
    threads: int | None = None,
    trust_remote_code: bool = False,
    same_rounding: bool | None = None,
    quantize: str | None = None,
    heard: Heard = lambda _: None,
) -> HuggingFaceRunner:
    """Load a model behind a runner.

    Args:
        name: a folder, or a model on the hub.
        device: cpu, cuda, or cuda:N.
        dtype: float32, bfloat16, float16; auto is float32 on a CPU and bfloat16 on a GPU.
        vocab_size: as `check_pair` finds it; None for all the logits.
        threads: CPU threads of this process; None leaves them as they are.
        trust_remote_code: whether the model may bring code of its own.
        same_rounding: as `HuggingFaceRunner`.
        quantize: int8 rounds the matrices to bytes when they are loaded; None leaves them.
        heard: hears, while the weights are read, which share of them was read.
    Raises:
        ModelError: as `describe`, or the weights are not those of the configuration.
        PlacementError: no such device, or too little memory on it.
        SettingError: an unknown device or dtype.
    """
    _set_threads(threads)
    precision = choose_dtype(dtype, choose_device(device), quantize)
    again = functools.partial(
        load_model,
        name,
        device=device,
        dtype=str(precision).removeprefix("torch."),
        trust_remote_code=trust_remote_code,
    )
    bytewise = quantize is not None
    with memory.given_back():
        measure = functools.partial(_measure, same=same_rounding, in_bytes=bytewise)
        model = again(heard=heard, measure=measure)
        with quietly():
            runner = HuggingFaceRunner(
                model,
                vocab_size=vocab_size,
                again=again,
                recorder=recorder_for(model.device),
                same_rounding=same_rounding,
                in_bytes=bytewise,
            )
        del model
    return runner


def _measure(model: Any, dtype: torch.dtype, *, same: bool | None, in_bytes: bool) -> None:
    """Choose the products of a model that has no weights yet: to measure them takes memory too."""
    same = dtype == torch.bfloat16 if same is None else same
    if shapes := shapes_of(model):
        Products(shapes, dtype=torch.int8 if in_bytes else dtype, same_rounding=same)
        memory.give_back()


def load_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    heard: Heard = lambda _: None,
    measure: Callable[[Any, torch.dtype], None] = lambda _model, _dtype: None,
) -> Any:
    """A model as the library has it, on its device; arguments and errors as `load_runner`."""
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    description = describe(name, trust_remote_code=trust_remote_code)
    check_memory(description, device=device, dtype=dtype)
    with quietly():
        with memory.given_back():
            model = _load(description, precision, heard, measure if place.type == "cpu" else _skip)
        with _fitting(name, place):
            return model.to(place)


@contextlib.contextmanager
def _fitting(what: str, place: torch.device) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise PlacementError(
            f"{what} does not fit on {place}; free memory there or choose another device"
        ) from None


@functools.cache
def limits(name: str) -> tuple[int, int]:
    """Positions and tokens of a shape; arguments and errors as `load_untrained`."""
    text = _shape(name, trust_remote_code=False).get_text_config(decoder=True)
    return positions_of(text), int(text.vocab_size)


def _shape(name: str, *, trust_remote_code: bool) -> Any:
    with quietly(), _refused_shape(name):
        return AutoConfig.from_pretrained(
            name, trust_remote_code=trust_remote_code, local_files_only=True
        )


def _refused_shape(name: str) -> AbstractContextManager[None]:
    return refused(lambda said: f"{name} is no shape of a decoder ({said})")


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
    with quietly():
        with _refused_shape(name), _fitting(f"a model of the shape {name}", place), place:
            model = _from_config(config, dtype=precision, trust_remote_code=trust_remote_code)
        return HuggingFaceRunner(
            model.eval(), spare=_has_spare(model), recorder=recorder_for(model.device)
        )


def _has_spare(model: Any) -> bool:
    """Whether there is memory for all weights once more."""
    weights = sum(int(parameter.nbytes) for parameter in model.parameters())
    return memory.free_bytes(model.device) > weights


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
    the context too: no request waits in another's queue.

    Raises:
        PlacementError, SettingError: as `choose_device`.
    """
    place = choose_device(device)
    if place.type == "cpu":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(place))  # type: ignore[no-untyped-call]


def choose_dtype(dtype: str, place: torch.device, quantize: str | None = None) -> torch.dtype:
    """The dtype of that name.

    auto is bfloat16 where the hardware is made for it; on a CPU it is float32, which lets every
    schedule produce the same tokens to the last. Bytes are multiplied in bfloat16.

    Raises:
        SettingError: there is none, or it does not go with the quantisation.
    """
    if quantize is not None:
        check_quantize(quantize, place)
    if dtype == "auto":
        small = quantize is not None or place.type == "cuda"
        return torch.bfloat16 if small else torch.float32
    if dtype not in DTYPES:
        raise SettingError(f"dtype is {dtype}; it must be one of auto, {', '.join(DTYPES)}")
    if quantize is not None and DTYPES[dtype] != torch.bfloat16:
        raise SettingError(
            f"dtype is {dtype} and quantize {quantize}, which computes in bfloat16; "
            "leave dtype auto"
        )
    return DTYPES[dtype]


def check_quantize(quantize: str, place: torch.device) -> None:
    """Whether weights can be rounded so on a device.

    Raises:
        SettingError: they cannot.
    """
    if quantize not in QUANTIZED:
        raise SettingError(f"quantize is {quantize}; it must be {', '.join(QUANTIZED)} or left out")
    if place.type != "cpu":
        raise SettingError(
            f"quantize is {quantize} on {place}; there it is for a CPU only: leave it out, or take "
            "no GPU"
        )


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
    quantize: str | None = None,
    rows: int = 1,
    length: int = 0,
    beside: int = 0,
) -> None:
    """Whether weights and cache fit into what is free on the device now, while they are loaded.

    Args:
        rows, length: sequences at once, and the positions of each.
        beside: bytes that others will take there.
    Raises:
        PlacementError: they do not.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place, quantize)
    weights = loading_bytes(model, device=device, dtype=dtype, quantize=quantize)
    cache = model.cache_bytes(precision, rows=rows, length=length)
    free = max(0, memory.free_bytes(place) - beside)
    if weights + cache > free:
        raise PlacementError(
            f"{model.name} needs {_size(weights)} to load its weights and {_size(cache)} for its "
            f"cache, {_size(free)} are free on {device}; choose a smaller model, fewer requests "
            "at once, or another device"
        )


def loading_bytes(
    model: ModelDescription, *, device: str, dtype: str = "auto", quantize: str | None = None
) -> int:
    """Memory on a device at the height of loading; less remains.

    On a CPU the largest matrix, mostly the head, is there more than once: in the order in which it
    is read, and packed once more by kernels that multiply many rows. Kernels themselves are made
    for each number of rows, and more of them in 16 bits. What only the library unpacks is there as
    it lay in the file beside what it becomes.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place, quantize)
    weights = model.weight_bytes(precision)
    if place.type == "cuda":
        return weights
    if model.packed:
        return weights + model.stored_bytes
    copies, kernels = HEIGHT[precision.itemsize]
    return weights + round(copies * model.largest * precision.itemsize) + kernels


def _skip(_model: Any, _dtype: torch.dtype) -> None:
    """On a GPU no product is chosen."""


def _load(
    description: ModelDescription,
    precision: torch.dtype,
    heard: Heard,
    measure: Callable[[Any, torch.dtype], None],
) -> Any:
    name, trust = description.name, description.trust_remote_code
    place = folders.find(name)
    options: dict[str, Any] = {"dtype": precision, "output_loading_info": True}
    with refused(lambda said: f"{name} cannot be loaded ({said}); {BELONG}"), without_bars(place):
        if description.packed:
            model, report = cast("Any", AutoModelForCausalLM).from_pretrained(
                place.folder,
                use_safetensors=None if place.gguf else True,
                trust_remote_code=trust,
                local_files_only=True,
                **options,
                **place.options,
            )
        else:
            config = AutoConfig.from_pretrained(
                place.folder, trust_remote_code=trust, local_files_only=True
            )
            with NOWHERE:
                empty = _from_config(config, trust_remote_code=trust)
            measure(empty, precision)
            files = folders.shards(place.folder, name, folders.read_config(place.folder, name))
            tensors = stored(files, description.stored_bytes, heard)
            model, report = type(empty).from_pretrained(
                None, config=config, state_dict=tensors, **options
            )
    check_complete(report["missing_keys"], name)
    return model.eval()


def _from_config(config: Any, **options: Any) -> Any:
    return cast("Any", AutoModelForCausalLM).from_config(config, **options)


def forward_of(model: ModelDescription, *, device: str, dtype: str = "auto") -> str:
    """Whose forward will run a model, and why, as far as is known before it is loaded."""
    place = choose_device(device)
    if place.type == "cuda":
        return "the library's, recorded"
    precision = choose_dtype(dtype, place)
    reason = model.obstacle
    if not reason and precision not in WRITTEN_DTYPES:
        reason = f"its weights are {precision}"
    return f"the library's, which is slower: {reason}" if reason else "written out"


def _size(count: int) -> str:
    giga, mega = 10**9, 10**6
    return f"{count / giga:.2f} GB" if count >= giga else f"{count / mega:.2f} MB"


def gpu_names() -> list[str]:
    """The GPUs of this machine."""
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
