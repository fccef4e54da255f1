"""Jobs on several processes."""

from __future__ import annotations

import os

import pytest

from pearl.decoding.errors import PeerError
from pearl.simulator.parallel import spread


def _die(status: int) -> int:
    """As a worker does that the system has killed."""
    os._exit(status)


def test_a_worker_that_is_killed_is_told_and_not_waited_for() -> None:
    with pytest.raises(PeerError, match="a worker was killed, perhaps for lack of memory"):
        list(spread(_die, [9, 9], workers=2))
