"""Random streams, one a purpose, so that two variants of a what-if meet the same randomness.

Whatever changes between two runs (the schedule, gamma, a link), the k-th draw for "the text of
request 3 in replication 5" stays the same, because no stream is shared with anything else.
"""

from __future__ import annotations

import enum

import numpy as np


class StreamPurpose(enum.IntEnum):
    """What a stream is for."""

    ACCEPTANCE = 1
    DRAFT_TIMES = 2
    TARGET_TIMES = 3
    DRAFT_LINK = 4
    TARGET_LINK = 5
    ARRIVALS = 6
    LENGTHS = 7


def stream(
    seed: int, replication: int, purpose: StreamPurpose, number: int = 0
) -> np.random.Generator:
    """The generator of one purpose in one replication; `number` tells requests apart."""
    return np.random.default_rng([seed, replication, purpose, number])
