"""The libraries behind the runners, kept quiet and in one voice.

They print progress, warn, and raise whatever their parts raise. Here what matters is one
`ModelError` with one line, and nothing reaches the terminal.

May import: huggingface_hub, transformers.
Must never: decide what is an error.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

from huggingface_hub import utils as hub_utils_module
from transformers.utils import logging

from pearl.decoding.errors import ModelError, PearlError

# The hub's client does not mark these as public, though its manual names them.
hub_utils: Any = hub_utils_module

LONGEST: Final = 160
"""Characters of a library's message."""


@contextlib.contextmanager
def quietly() -> Iterator[None]:
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


@contextlib.contextmanager
def refused(say: Callable[[str], str]) -> Iterator[None]:
    """Whatever a library raises in here is a `ModelError` that says `say(its first line)`."""
    with translated(lambda error: ModelError(say(first_line(error)))):
        yield


@contextlib.contextmanager
def translated(model_error: Callable[[BaseException], ModelError]) -> Iterator[None]:
    """Whatever a library raises in here is the error that is made of it.

    Our own errors pass. A library in Rust panics with an exception that is none of Python's usual.
    """
    try:
        yield
    except PearlError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise model_error(error) from None


def first_line(error: BaseException) -> str:
    """An error's message, short enough to stand in another one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[0]
    if isinstance(error, KeyError) and " " not in said:  # the key alone
        said = f"{said} is missing"
    return said.rstrip(".;:")[:LONGEST]
