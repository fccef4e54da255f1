"""As for the pair's tests."""

from __future__ import annotations

from tests.actors.pair.conftest import one_thread

__all__ = ["one_thread"]
