"""Every complaint about a model comes in one line, early, and says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub
from transformers import LlamaForCausalLM, __version__

from pearl.actors.runners import loading, memory
from pearl.actors.runners.describing import ModelDescription, describe
from pearl.actors.runners.loading import (
    check_memory,
    check_room,
    load_runner,
    loading_bytes,
)
from pearl.actors.runners.shelves import BLOCK
from pearl.actors.runners.vocabulary import load_tokenizer
from pearl.decoding.errors import (
    ModelError,
    PlacementError,
    PromptError,
    SettingError,
    UsageError,
)
from tests.actors.runners.models import feed
from tests.actors.runners.saved import WORDS, edit, save


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with its tokenizer, as `save_pretrained` leaves them."""
    return save(tmp_path_factory.mktemp("models") / "whole", width=96)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_a_model_is_described_without_reading_its_weights(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong pair of large models should be told in a second, not after minutes of loading."""
    monkeypatch.setattr(loading, "stored", forbidden)

    described = describe(str(saved))

    assert described == ModelDescription(
        name=str(saved),
        architecture="LlamaForCausalLM",
        vocab_size=96,
        positions=64,
        bos=0,
        eos=(0, 2),
        layers=2,
        parameters=parameters(saved),
        largest=96 * 32,
        stored_bytes=4 * parameters(saved),
        obstacle="",
        packed=False,
        dtype="float32",
        cache_width=2 * 2 * 2 * 8,
        trust_remote_code=False,
    )


def test_a_description_knows_the_memory_of_weights_and_cache(saved: Path) -> None:
    """Two bytes a number in bfloat16."""
    described = describe(str(saved))

    assert described.weight_bytes(torch.bfloat16) == 2 * described.parameters
    assert described.cache_bytes(torch.float32, rows=3, length=10) == 64 * 4 * 3 * 10


def test_the_cache_takes_what_the_description_says(saved: Path) -> None:
    """Or `check_memory` would promise what the device does not have."""
    described, runner = describe(str(saved)), load_runner(str(saved))

    runner.forward([feed(runner.allocate(20), 0, [1, 2])])

    expected = described.cache_bytes(torch.float32, rows=1, length=BLOCK)
    assert runner.statistics().cache_bytes == expected


def test_a_loaded_runner_runs_and_nothing_is_printed(
    saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Progress bars and log lines of the libraries belong to nobody's terminal."""
    capfd.readouterr()

    runner = load_runner(str(saved), dtype="bfloat16", vocab_size=WORDS)
    logits = runner.forward([feed(runner.allocate(4), 0, [1, 2, 3])])[0]

    assert logits.shape == (3, WORDS)
    assert logits.dtype == torch.float32
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("device", "dtype", "chosen"),
    [
        ("cpu", "auto", torch.float32),
        ("cuda", "auto", torch.bfloat16),
        ("cuda", "float16", torch.float16),
    ],
)
def test_auto_is_float32_on_a_cpu_and_bfloat16_on_a_gpu(
    device: str, dtype: str, chosen: torch.dtype
) -> None:
    """Token identity is claimed in float32; speed is had in bfloat16."""
    assert loading.choose_dtype(dtype, torch.device(device)) == chosen


def test_weights_that_are_bytes_are_the_model(saved: Path) -> None:
    """It says what the library says with the rounded weights, and the same for every window."""
    runner = load_runner(str(saved), quantize="int8")
    row, tokens = runner.allocate(8), [1, 5, 2, 7, 3]

    whole = runner.forward([feed(row, 0, tokens)])[0]
    single = [runner.forward([feed(row, i, [token])])[0] for i, token in enumerate(tokens)]

    assert torch.equal(torch.cat(single), whole)
    assert runner.statistics().slower == ""


@pytest.mark.gpu
def test_a_runner_loads_onto_a_gpu(saved: Path) -> None:
    """In the dtype that the hardware is made for."""
    runner = load_runner(str(saved), device="cuda")

    logits = runner.forward([feed(runner.allocate(4), 0, [1, 2, 3])])[0]

    assert logits.device.type == "cuda"


# What can be wrong with a folder: how to spoil a good one, and what is said then.
SPOILED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no configuration": (
        lambda at: (at / "config.json").unlink(),
        "{name} has no config.json; give a folder with a whole transformers model",
    ),
    "configuration cut short": (
        lambda at: cut(at / "config.json", 20),
        "{name}: config.json is not JSON; copy it again",
    ),
    "unknown type": (
        lambda at: edit(at, model_type="oracle"),
        (
            f"{{name}} is of type oracle, which transformers {__version__} does not know; "
            "check config.json or upgrade transformers"
        ),
    ),
    "code of its own": (
        lambda at: edit(at, model_type="oracle", auto_map={"AutoConfig": "oracle.Config"}),
        "{name} brings code of its own; pass trust_remote_code if you trust whoever wrote it",
    ),
    "no decoder": (
        lambda at: edit(at, model_type="bert", architectures=["BertForMaskedLM"]),
        (
            "{name} is a BertForMaskedLM, not a decoder that writes text; "
            "choose a causal language model"
        ),
    ),
    "encoder and decoder": (
        lambda at: edit(at, model_type="t5", architectures=["T5ForConditionalGeneration"]),
        (
            "{name} is a T5ForConditionalGeneration, not a decoder that writes text; "
            "choose a causal language model"
        ),
    ),
    "recurrent state": (
        lambda at: edit(at, model_type="mamba", architectures=["MambaForCausalLM"]),
        (
            "MambaForCausalLM carries a recurrent state, which cannot be rolled back after a "
            "rejected token; choose a model whose layers are all attention"
        ),
    ),
    "no weights": (
        lambda at: (at / "model.safetensors").unlink(),
        "{name} has no weights; it needs model.safetensors",
    ),
    "pickled weights": (
        lambda at: rename(at / "model.safetensors", "pytorch_model.bin"),
        "{name} holds only pickled weights, which can run code; convert them to safetensors",
    ),
    "weights cut short": (
        lambda at: cut(at / "model.safetensors", 5_000),
        "{name}: model.safetensors is damaged or was cut short; copy it again",
    ),
    "weights that are something else": (
        lambda at: write(at / "model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        "{name}: model.safetensors is damaged or was cut short; copy it again",
    ),
    "empty weights": (
        lambda at: cut(at / "model.safetensors", 0),
        "{name}: model.safetensors is damaged or was cut short; copy it again",
    ),
    "a missing shard": (
        lambda at: shard(at, {"a": "model-1.safetensors", "b": "model-2.safetensors"}),
        "{name} lacks model-2.safetensors, which its index lists; copy it again",
    ),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_model_is_refused_in_one_line(what: str, folder: Path) -> None:
    """By `describe`, which reads no weights; with the name, and with what to do."""
    spoil, message = SPOILED[what]
    spoil(folder)

    with pytest.raises(ModelError) as refused:
        describe(str(folder))

    assert str(refused.value) == message.format(name=folder)


def test_weights_of_another_model_are_refused_before_they_are_read(folder: Path) -> None:
    """A layer without weights would be filled with random numbers."""
    edit(folder, num_hidden_layers=3)

    with pytest.raises(ModelError) as refused:
        describe(str(folder))

    assert str(refused.value) == (
        f"{folder} lacks the weights of model.layers.2.input_layernorm.weight (9 missing in all); "
        "check that its weights belong to its config.json"
    )


def test_weights_of_another_shape_are_refused_before_they_are_read(folder: Path) -> None:
    """With both shapes, so that it can be seen which file is the wrong one."""
    edit(folder, intermediate_size=40)

    with pytest.raises(ModelError) as refused:
        describe(str(folder))

    assert str(refused.value) == (
        f"{folder}: model.layers.0.mlp.down_proj.weight is of shape (32, 48) in its weights, and "
        "of shape (32, 40) by its config.json; copy both again"
    )


def test_a_missing_folder_is_not_looked_for_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistyped path should be called that."""
    monkeypatch.setattr(huggingface_hub, "HfApi", forbidden)
    name = str(tmp_path / "nothing")

    with pytest.raises(ModelError) as refused:
        describe(name)

    assert str(refused.value) == (
        f"there is no folder {name}; give a folder with a model, or a hub name"
    )


def test_without_a_network_the_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No retries: whoever is offline wants to know it now."""
    asked = hub_that_raises(monkeypatch, ConnectionError("no route"))

    with pytest.raises(ModelError) as refused:
        describe("owner/absent")

    assert asked == ["owner/absent"]
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert str(refused.value) == (
        "owner/absent is not a folder here, and the hub cannot be reached (ConnectionError); "
        "fetch it while online, or give a folder"
    )


def test_a_name_that_the_hub_does_not_know_is_called_a_misspelling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The most common reason by far."""
    hub_that_raises(monkeypatch, unanswered(hub.RepositoryNotFoundError))

    with pytest.raises(ModelError) as refused:
        describe("owner/absent")

    assert str(refused.value) == (
        "owner/absent is neither a folder here nor a model on the hub; check the spelling"
    )


def test_a_gated_model_says_how_to_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known models are often gated, and the way in is on their page."""
    hub_that_raises(monkeypatch, unanswered(hub.GatedRepoError))

    with pytest.raises(ModelError) as refused:
        describe("owner/gated")

    assert str(refused.value) == (
        "owner/gated is gated; accept its licence on its page and log in with `hf auth login`"
    )


def test_a_model_in_the_cache_of_the_hub_needs_no_network(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a request to ask whether there is a newer one."""
    asked = hub_that_raises(monkeypatch, ConnectionError("no route"), cached=saved)

    described = describe("owner/cached")

    assert described.parameters == parameters(saved)
    assert asked == []


def test_a_model_without_a_tokenizer_is_refused(folder: Path) -> None:
    """A draft's folder sometimes holds its weights only."""
    for file in folder.glob("tokenizer*"):
        file.unlink()

    with pytest.raises(ModelError) as refused:
        load_tokenizer(str(folder))

    assert str(refused.value) == f"{folder} has no tokenizer; it needs tokenizer.json"


def test_a_damaged_tokenizer_is_refused_in_one_line(folder: Path) -> None:
    """Whatever the tokenizer's library says about it."""
    cut(folder / "tokenizer.json", 30)

    with pytest.raises(ModelError) as refused:
        load_tokenizer(str(folder))

    one_line(refused.value)
    assert str(refused.value) == f"{folder}: tokenizer.json is not JSON; copy it again"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"dtype": "fp8"},
            SettingError,
            "dtype is fp8; it must be one of auto, float32, bfloat16, float16",
        ),
        ({"device": "tpu"}, SettingError, "device is tpu; it must be cpu, cuda or cuda:N"),
        ({"device": "meta"}, SettingError, "device is meta; it must be cpu, cuda or cuda:N"),
        (
            {"device": "cuda:97"},
            PlacementError,
            (
                f"device is cuda:97, {torch.cuda.device_count()} GPUs are present; "
                "choose one of them, or cpu"
            ),
        ),
        (
            {"dtype": "float32", "quantize": "int8"},
            SettingError,
            "dtype is float32 and quantize int8, which computes in bfloat16; leave dtype auto",
        ),
        (
            {"quantize": "int3"},
            SettingError,
            "quantize is int3; it must be int8 or left out",
        ),
        ({"threads": 0}, SettingError, "threads is 0; it must be at least 1"),
    ],
)
def test_a_place_that_is_not_there_is_refused_before_the_model_is_looked_for(
    options: dict[str, Any], error: type[UsageError], message: str
) -> None:
    """The cheapest check comes first."""
    with pytest.raises(error) as refused:
        load_runner("owner/never-asked-for", **options)

    assert str(refused.value) == message


def test_a_model_too_large_for_the_device_is_refused_before_it_is_loaded(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running out of memory halfway takes the machine along."""
    monkeypatch.setattr(loading, "stored", forbidden)
    monkeypatch.setattr(memory, "free_bytes", lambda _place: 1000)

    with pytest.raises(PlacementError) as refused:
        load_runner(str(saved))

    # And its largest matrix twice more, and the kernels.
    weights = 4 * (parameters(saved) + 2 * 96 * 32) / 1e6 + 100
    assert str(refused.value) == (
        f"{saved} needs {weights:.2f} MB to load its weights and 0.00 MB for its cache, 0.00 MB "
        "are free on cpu; choose a smaller model, fewer requests at once, or another device"
    )


def test_a_cache_is_counted_beside_the_weights(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 numbers of 4 bytes a position: 1000 rows of 64 positions take 16 MB."""
    described = describe(str(saved))
    needed = loading_bytes(described, device="cpu") + 1000 * 64 * 64 * 4

    monkeypatch.setattr(memory, "free_bytes", lambda _place: needed)
    check_memory(described, device="cpu", rows=1000, length=64)

    monkeypatch.setattr(memory, "free_bytes", lambda _place: needed - 1)
    with pytest.raises(PlacementError, match=r"16\.38 MB for its cache"):
        check_memory(described, device="cpu", rows=1000, length=64)


def test_two_models_in_one_memory_are_counted_together(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draft and target are loaded at once."""
    described = describe(str(saved))
    one = loading_bytes(described, device="cpu")

    monkeypatch.setattr(memory, "free_bytes", lambda _place: 2 * one)
    check_memory(described, device="cpu", beside=one)

    monkeypatch.setattr(memory, "free_bytes", lambda _place: 2 * one - 1)
    with pytest.raises(PlacementError):
        check_memory(described, device="cpu", beside=one)


def test_a_request_that_just_fits_is_accepted() -> None:
    """Prompt, output and what is written ahead fill the model to the last position."""
    check_room(prompt_tokens=44, max_new_tokens=20, positions=64)


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (
            (45, 20),
            PromptError,
            (
                "the prompt has 45 tokens, the target leaves room for 44 (64 positions less 20 new "
                "tokens); shorten it or ask for fewer new tokens"
            ),
        ),
        ((0, 20), PromptError, "the prompt has 0 tokens; it needs at least one"),
        (
            (1, 64),
            SettingError,
            (
                "max-new-tokens is 64, the target holds 64 positions; with a prompt choose at most "
                "63"
            ),
        ),
    ],
)
def test_a_request_without_room_is_refused(
    request_: tuple[int, int], error: type[UsageError], message: str
) -> None:
    """Before it starts, not when the last position is reached."""
    prompt_tokens, max_new_tokens = request_

    with pytest.raises(error) as refused:
        check_room(prompt_tokens=prompt_tokens, max_new_tokens=max_new_tokens, positions=64)

    assert str(refused.value) == message


def parameters(folder: Path) -> int:
    """Counted on the model itself, which the descriptions never build."""
    model: Any = LlamaForCausalLM.from_pretrained(folder)
    return sum(weights.numel() for weights in model.parameters())


def cut(path: Path, length: int) -> None:
    """Keep the first bytes of a file."""
    path.write_bytes(path.read_bytes()[:length])


def write(path: Path, content: str) -> None:
    path.write_text(content)


def shard(at: Path, places: dict[str, str]) -> None:
    """The weights as the first shard of an index."""
    rename(at / "model.safetensors", "model-1.safetensors")
    write(at / "model.safetensors.index.json", json.dumps({"weight_map": places}))


def rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)
    assert error.__suppress_context__


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("this must not be called")


def hub_that_raises(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cached: Path | None = None
) -> list[str]:
    """A hub that answers every question with `error`; returns the names it is asked for."""
    asked: list[str] = []

    class Hub:
        def model_info(self, name: str, **_: Any) -> Any:
            asked.append(name)
            raise error

    def snapshot(name: str, *, local_files_only: bool = False, **_: Any) -> str:
        if cached and local_files_only:
            return str(cached)
        raise hub.LocalEntryNotFoundError(name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def unanswered(kind: type[Exception]) -> Exception:
    """An error of the hub's client, whose constructor wants an HTTP response."""
    return kind.__new__(kind)
