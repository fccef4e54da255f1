"""How much a device reads for each request in one turn.

Whatever is short is read in every turn. Longer reads, which are prompts, are taken in pieces and
share a turn, so that no prompt blocks the other requests: the shortest goes first, and only so many
can go before another one, so every prompt has its turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PIECE: Final = 512  # tokens of long reads in one turn
SHORT: Final = 64  # tokens: no window is longer, but for a very wide gamma
OVERTAKES: Final = 64  # tokens shorter a prompt must be for each request that it goes before


def portions(unread: Mapping[int, int]) -> dict[int, int]:
    """Tokens to read now.

    Args:
        unread: tokens to be read, by the number of their request; later requests have higher ones.
    Returns: at most as many for each; 0 where its turn has not come.
    """
    now = dict(unread)
    long = [request for request, tokens in unread.items() if tokens > SHORT]
    left = PIECE
    for request in sorted(long, key=lambda r: unread[r] + OVERTAKES * r):
        now[request] = min(unread[request], left)
        left -= now[request]
    return now
