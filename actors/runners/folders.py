"""From a model's name to a folder with its files, and what can be told without reading the weights.

A name is a folder on this machine or a model on the Hugging Face hub. What the hub's cache holds is
used as it is, without asking the network; else the hub is asked once, with a deadline, before
anything is fetched. Weights are safetensors: a pickle runs code when it is opened.

May import: huggingface_hub.
Must never: read weights, build a model, print.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub

from decoding.errors import ModelError

HUB_DEADLINE_S = 10.0

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "tokenizer*"]
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "tokenizer_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What the headers of the weight files say."""

    parameters: int
    bytes: int
    """On disk, in the dtypes that they are stored in."""


def find(name: str, *, weights: bool = True) -> Path:
    """The folder of a model, fetched from the hub where it has to be.

    Args:
        name: a folder, or a model on the hub.
        weights: whether the weights must be there; else configuration and tokenizer are enough.
    Raises:
        ModelError: there is no such model, it cannot be reached, or it has no safetensors.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if weights:
            read_config(folder, name)
            shards(folder, name)
        return folder
    if _is_path(name):
        raise ModelError(f"there is no folder {name}; give a folder with a model, or a hub name")
    cached = _cached(name)
    if cached and (not weights or _complete(cached)):
        return cached
    _ask_the_hub(name, weights=weights)
    return _fetch(name, [*SMALL_FILES, "*.safetensors"] if weights else SMALL_FILES)


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The configuration as it was written, before any library interprets it."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{name} has no {CONFIG}; give a folder with a whole transformers model")
    return _read_json(path, name)


def shards(folder: Path, name: str) -> list[Path]:
    """The weight files, complete.

    Raises:
        ModelError: there are none, only pickled ones, or one that the index lists is missing.
    """
    index = folder / INDEX
    if index.is_file():
        listed = sorted(set(_read_json(index, name).get("weight_map", {}).values()))
        for file in listed:
            if not (folder / file).is_file():
                raise ModelError(f"{name} lacks {file}, which its index lists; copy it again")
        return [folder / file for file in listed]
    found = sorted(folder.glob("model*.safetensors"))
    if not found:
        _refuse_without_safetensors(name, (path.name for path in folder.iterdir()))
    return found


def measure(folder: Path, name: str) -> Weights:
    """Count parameters from the headers of the weight files; some kilobytes are read.

    Raises:
        ModelError: a file is not safetensors, or was cut short.
    """
    tensors = [tensor for path in shards(folder, name) for tensor in _tensors(path, name)]
    return Weights(
        parameters=sum(math.prod(tensor["shape"]) for tensor in tensors),
        bytes=sum(tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor in tensors),
    )


def _tensors(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The entries of one file's header: its length in 8 bytes, JSON, then the data."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise _damaged(path, name)
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, name) from None
    if path.stat().st_size != 8 + length + end:
        raise _damaged(path, name)
    yield from entries.values()


def _damaged(path: Path, name: str) -> ModelError:
    return ModelError(f"{name}: {path.name} is damaged or was cut short; copy it again")


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        read = None
    if not isinstance(read, dict):
        raise ModelError(f"{name}: {path.name} is not JSON; copy it again")
    return read


def _is_path(name: str) -> bool:
    """Whether a name cannot be one of the hub, `model` or `owner/model`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or not name


def _cached(name: str) -> Path | None:
    try:
        folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
    except (hub.HfHubHTTPError, hub.HFValidationError, OSError):
        return None
    return folder if (folder / CONFIG).is_file() else None


def _complete(folder: Path) -> bool:
    try:
        return bool(shards(folder, folder.name))
    except ModelError:
        return False


def _ask_the_hub(name: str, *, weights: bool) -> None:
    """One request, so that a wrong name or a missing network is told at once."""
    try:
        found = huggingface_hub.HfApi().model_info(name, timeout=HUB_DEADLINE_S)
    except hub.GatedRepoError:
        raise ModelError(
            f"{name} is gated; accept its licence on its page and log in with `hf auth login`"
        ) from None
    except (hub.RepositoryNotFoundError, hub.HFValidationError):
        raise ModelError(
            f"{name} is neither a folder here nor a model on the hub; check the spelling"
        ) from None
    # Whatever HTTP library the hub's client uses raises its own errors when there is no network.
    except Exception as error:  # noqa: BLE001
        raise _unreachable(name, error) from None
    if weights:
        files = [file.rfilename for file in found.siblings or ()]
        if not any(file.endswith(".safetensors") for file in files):
            _refuse_without_safetensors(name, files)


def _fetch(name: str, patterns: list[str]) -> Path:
    try:
        # Only the top folder: some models keep copies in other formats further down.
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=patterns, ignore_patterns=["*/*"], etag_timeout=HUB_DEADLINE_S
            )
        )
    except Exception as error:  # noqa: BLE001 - as above
        raise _unreachable(name, error) from None


def _unreachable(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"{name} is not a folder here, and the hub cannot be reached ({type(error).__name__}); "
        "fetch it while online, or give a folder"
    )


def _refuse_without_safetensors(name: str, files: Iterable[str]) -> None:
    if any(file.endswith(PICKLED) for file in files):
        raise ModelError(
            f"{name} holds only pickled weights, which can run code; convert them to safetensors"
        )
    raise ModelError(f"{name} has no weights; it needs model.safetensors")
