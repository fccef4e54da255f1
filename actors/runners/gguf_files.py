"""GGUF: one file with configuration, tokenizer and weights, which transformers unpacks.

The packages that it needs are an extra, `pearl-decoding[gguf]`. What is unpacked is float32 like
any other model here; a file of 4 bits a weight takes eight times its size.

May import: transformers' reader and gguf, when there is a file to read.
Must never: read weights.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import re
from collections.abc import Iterator
from typing import Final

from pearl.actors.runners.folders import ModelFolder
from pearl.actors.runners.quiet import refused
from pearl.decoding.errors import ModelError

PACKAGES: Final = ("accelerate", "gguf")
PART: Final = re.compile(r"-\d+-of-(\d+)\.gguf$", re.IGNORECASE)


def check_gguf(place: ModelFolder) -> int:
    """How many tensors a file has, when it is whole and can be read here.

    Raises:
        ModelError: it is not, or cannot.
    """
    assert place.gguf is not None
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise ModelError(
            f"{place.name} is GGUF, and {' and '.join(absent)} to read it not installed; "
            "pip install 'pearl-decoding[gguf]'"
        )
    if (part := PART.search(place.gguf)) and int(part[1]) > 1:
        raise ModelError(
            f"{place.name} is one of {int(part[1])} parts; join them with llama-gguf-split --merge"
        )
    path = place.folder / place.gguf
    with refused(lambda said: f"{place.name} is no GGUF file, or damaged ({said}); copy it again"):
        tensors, end = _table(str(path))
    if path.stat().st_size < end:
        raise ModelError(f"{place.name} was cut short: it should have {end} bytes; copy it again")
    return tensors


def _table(path: str) -> tuple[int, int]:
    """How many tensors a file lists, and where the last of them ends.

    The library's public functions read this for some kinds of blocks only, or read all of the file.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # noqa: PLC0415 - an extra
    from transformers.integrations.gguf import reader  # noqa: PLC0415 - needed rarely

    data = reader._mapped(path)  # noqa: SLF001 - see above
    metadata, count, at = reader._read_metadata(data, path)  # noqa: SLF001
    table, at = reader._read_tensor_table(data, count, at)  # noqa: SLF001
    align = int(metadata.get("general.alignment", 32))
    first = -(-at // align) * align
    end = at
    for _, shape, kind, offset in table:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end = max(end, first + offset + math.prod(shape) // block * size)
    return len(table), end


@contextlib.contextmanager
def without_bars(place: ModelFolder) -> Iterator[None]:
    """Unpacking shows a bar that nothing else switches off."""
    if place.gguf is None:
        yield
        return
    with contextlib.redirect_stderr(io.StringIO()):
        yield
