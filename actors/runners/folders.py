"""From a model's name to a folder with its files, and which of them count.

A name is a folder on this machine, a GGUF file, or a model on the Hugging Face hub. What the hub's
cache holds is used as it is, without asking the network; else the hub is asked once, with a
deadline, before anything is fetched. Weights are safetensors or GGUF: a pickle runs code when it is
opened.

May import: huggingface_hub.
Must never: read weights, build a model, print.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import huggingface_hub
from huggingface_hub import errors as hub

from pearl.decoding.errors import ModelError

HUB_DEADLINE_S = 10.0

CONFIG: Final = "config.json"
ENDS: Final = "generation_config.json"
WHOLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
GGUF: Final = ".gguf"
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
class ModelFolder:
    """Where a model is: a folder, and in it the one file that holds everything, if there is one."""

    name: str
    """As it was given."""
    folder: Path
    gguf: str | None = None

    @property
    def options(self) -> dict[str, str]:
        """What the library needs beside the folder."""
        return {} if self.gguf is None else {"gguf_file": self.gguf}


def find(name: str, *, weights: bool = True) -> ModelFolder:
    """The files of a model, fetched from the hub where they have to be.

    Args:
        name: a folder, a GGUF file, or a model on the hub.
        weights: whether the weights must be there; else configuration and tokenizer are enough.
    Raises:
        ModelError: there is no such model, it cannot be reached, or its files are incomplete.
    """
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return _file(path, name)
        if path.is_dir():
            return _folder(path, name, weights=weights)
    except (OSError, ValueError) as error:  # not allowed to look, or no name of a file at all
        raise ModelError(f"{name!r} cannot be read ({_why(error)})") from None
    if _is_path(name):
        raise ModelError(f"there is no folder {name}; give a folder with a model, or a hub name")
    cached = _cached(name)
    if cached and (not weights or _complete(cached)):
        return ModelFolder(name=name, folder=cached)
    _ask_the_hub(name, weights=weights)
    patterns = [*SMALL_FILES, "*.safetensors"] if weights else SMALL_FILES
    return ModelFolder(name=name, folder=_fetch(name, patterns))


def _file(path: Path, name: str) -> ModelFolder:
    if path.suffix.lower() != GGUF:
        raise ModelError(f"{name} is a file; give the folder that it is in, or a GGUF file")
    return ModelFolder(name=name, folder=path.parent, gguf=path.name)


def _folder(folder: Path, name: str, *, weights: bool) -> ModelFolder:
    if not os.path.lexists(folder / CONFIG) or not _has_safetensors(folder):
        files = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == GGUF)
        if len(files) > 1:
            raise ModelError(f"{name} has {len(files)} GGUF files; give the path of one of them")
        if files:
            return ModelFolder(name=name, folder=folder, gguf=files[0])
    if weights:
        shards(folder, name, read_config(folder, name))
    return ModelFolder(name=name, folder=folder)


def _has_safetensors(folder: Path) -> bool:
    return any(os.path.lexists(folder / file) for file in (WHOLE, INDEX))


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """The configuration as it was written, before any library interprets it."""
    path = folder / CONFIG
    if not os.path.lexists(path):
        raise ModelError(f"{name} has no {CONFIG}; give a folder with a whole transformers model")
    return read_json(path, name)


def shards(folder: Path, name: str, config: dict[str, Any]) -> list[Path]:
    """The weight files, the same that the library reads.

    That is the file that the configuration names, else the whole one, else those of the index.

    Raises:
        ModelError: there are none, only pickled ones, or one that is listed is missing.
    """
    first = config.get("transformers_weights") or WHOLE
    if not isinstance(first, str) or "/" in first:
        raise ModelError(f"{name}: transformers_weights is {first!r}; it must be a file beside it")
    if first != INDEX and os.path.lexists(folder / first):
        return [folder / first]
    if os.path.lexists(folder / INDEX):
        return [folder / file for file in _listed(folder, name)]
    if found := sorted(folder.glob("model*.safetensors")):
        raise ModelError(
            f"{name} has {found[0].name} without {INDEX}, which says what is where; copy it again"
        )
    _refuse_without_safetensors(name, (path.name for path in folder.iterdir()))
    return []


def _listed(folder: Path, name: str) -> list[str]:
    places = read_json(folder / INDEX, name).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ModelError(f"{name}: {INDEX} lists no files; copy it again")
    for file in places.values():
        if not isinstance(file, str) or "/" in file:
            raise ModelError(f"{name}: {INDEX} lists {file!r}; it must be a file beside it")
        if not (folder / file).is_file():
            raise ModelError(f"{name} lacks {file}, which its index lists; copy it again")
    return sorted(set(places.values()))


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A file that must hold one JSON object.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"), parse_constant=_number)
    except OSError as error:
        raise ModelError(f"{name}: {path.name} cannot be read ({_why(error)})") from None
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise ModelError(f"{name}: {path.name} is not JSON; copy it again")
    return read


def _number(said: str) -> float:
    """Infinity is said by some configurations; what is not a number means nothing in any."""
    if said == "NaN":
        raise ValueError(said)
    return float(said)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


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
        return bool(shards(folder, folder.name, read_config(folder, folder.name)))
    except ModelError:
        return False


def _ask_the_hub(name: str, *, weights: bool) -> None:
    """One request, so that a wrong name or a missing network is noticed at once."""
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
    files = list(files)
    if any(file.endswith(GGUF) for file in files):
        raise ModelError(f"{name} holds only GGUF files; fetch the one you want and give its path")
    if any(file.endswith(PICKLED) for file in files):
        raise ModelError(
            f"{name} holds only pickled weights, which can run code; convert them to safetensors"
        )
    raise ModelError(f"{name} has no weights; it needs {WHOLE}")
