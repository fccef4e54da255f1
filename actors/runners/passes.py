"""Which feeds can be read, which share a pass, and what that pass is.

A pass is a rectangle: rows that follow each other in the cache, as many tokens of each. What a feed
has less is padding, and rows between two that are fed are read along.

May import: decoding, actors.runners.graphs (a shape), interface, shelves (a row).
Must never: run a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter

from pearl.actors.runners.graphs import PassShape
from pearl.actors.runners.interface import Feed
from pearl.actors.runners.shelves import CacheRow
from pearl.decoding.errors import PromptError, ProtocolError

# A pass reads all weights once, which costs about as much as the arithmetic of some tokens more: so
# much padding is cheaper than another pass, and so many idle rows are.
CHEAP_TOKENS = 16
CHEAP_ROWS = 8


def check(feed: Feed, held: int, model: str, positions: int, vocabulary: int) -> None:
    """Refuse what no runner reads, as `Runner.forward` says; the row holds `held` tokens."""
    start, tokens, count = feed.start, feed.tokens, len(feed.tokens)
    if not 0 <= start <= held:
        raise ProtocolError(f"row {feed.row} holds {held} tokens; a feed cannot start at {start}")
    if not count or not 0 <= feed.logits <= count:
        raise ProtocolError(
            f"a feed of {count} tokens asks for {feed.logits} logits; it has at least one "
            "token and at most as many logits"
        )
    if start + count > positions:
        raise PromptError(
            f"a sequence of {start + count} tokens; {model} holds at most {positions}"
        )
    # On a GPU a token outside the embedding would end the process, not raise.
    if min(tokens) < 0 or max(tokens) >= vocabulary:
        wrong = next(token for token in tokens if not 0 <= token < vocabulary)
        raise ProtocolError(f"token {wrong} is outside the vocabulary of {vocabulary} tokens")


def passes(
    feeds: Sequence[Feed],
    place: Callable[[Feed], int] = attrgetter("row"),
    *,
    most: int | None = None,
) -> list[list[Feed]]:
    """Which feeds share a pass.

    Args:
        place: where in the cache the row of a feed lies.
        most: tokens that a pass of several rows has, all together; None: any number.

    Padding a window to the length of another's prompt would cost every request the time of that
    prompt, so feeds are taken from short to long, and a pass is closed before one that has more
    than twice the tokens of its shortest, plus what is cheap. A pass is also closed at a wide gap
    between rows, since the rows of a gap are read as well.
    """
    groups: list[list[Feed]] = []
    for feed in sorted(feeds, key=lambda feed: len(feed.tokens)):
        if groups and len(feed.tokens) <= 2 * len(groups[-1][0].tokens) + CHEAP_TOKENS:
            groups[-1].append(feed)
        else:
            groups.append([feed])
    return [part for group in groups for part in _neighbours(group, place, most)]


def _neighbours(
    group: list[Feed], place: Callable[[Feed], int], most: int | None
) -> Iterator[list[Feed]]:
    """Cut a group where it has too many tokens, or many idle rows between two that are fed."""
    part: list[Feed] = []
    width = 0
    for feed in sorted(group, key=place):
        width = max(width, len(feed.tokens))
        if part and (
            place(feed) - place(part[-1]) > CHEAP_ROWS
            or (most is not None and (place(feed) - place(part[0]) + 1) * width > most)
        ):
            yield part
            part, width = [], len(feed.tokens)
        part.append(feed)
    yield part


def shape_of(feeds: Mapping[int, Feed]) -> PassShape:
    """What one pass must have for all of these, by where they lie."""
    return PassShape(
        first=min(feeds),
        rows=max(feeds) - min(feeds) + 1,
        tokens=max(len(feed.tokens) for feed in feeds.values()),
        used=max(feed.start + len(feed.tokens) for feed in feeds.values()),
        logits=max(feed.logits for feed in feeds.values()),
    )


def line_of(row: CacheRow | None, feed: Feed | None, count: int) -> tuple[list[int], list[int]]:
    """Tokens of a row in a pass of `count` each, and the positions they are written at.

    The row's own tokens come last, so that their logits do. All padding is written at one place,
    behind the end of the row.
    """
    if feed is None:
        return [0] * count, [row.held if row else 0] * count
    read = len(feed.tokens)
    end, padded = feed.start + read, count - read
    return [0] * padded + list(feed.tokens), [end] * padded + list(range(feed.start, end))
