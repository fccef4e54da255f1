"""What the two commands of this package have in common: quiet libraries, errors in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from transformers.utils import logging

from pearl.decoding.errors import UsageError


@contextmanager
def command() -> Iterator[None]:
    """Run a command's body; what a user can put right is one line and exit code 2."""
    logging.disable_progress_bar()
    try:
        yield
    except UsageError as error:
        raise click.UsageError(str(error)) from error
