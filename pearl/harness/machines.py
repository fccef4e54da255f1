"""What figures were measured on: the machine, the models, and the versions of what matters."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pearl.actors.engine_settings import EngineSettings

PACKAGES: Final = (
    "pearl-decoding", "torch", "transformers", "tokenizers", "safetensors",
    "ray", "simpy", "numpy", "msgspec", "array-api-compat",
    "accelerate", "gguf", "pyarrow",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """What it runs on."""
    from pearl.actors.threads import available_cores

    return {
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "cores": len(available_cores()),
        **_hardware(),
    }


def _hardware() -> dict[str, Any]:
    """Memory and GPUs; what cannot be asked is left out."""
    try:
        import psutil

        from pearl.actors.runners import loading
    except ModuleNotFoundError as error:
        return {"missing": f"{error.name} is not installed; pip install 'pearl-decoding[run]'"}
    memory = psutil.virtual_memory()
    return {
        "memory_gb": round(memory.total / 1e9, 1),
        "free_memory_gb": round(memory.available / 1e9, 1),
        "gpus": loading.gpu_names(),
    }


def packages() -> dict[str, str]:
    """Versions of what matters."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def models(engine_settings: EngineSettings) -> dict[str, str]:
    """Draft and target as they were asked for."""
    own = "the embedded pair"
    return {"draft": engine_settings.draft or own, "target": engine_settings.target or own}
