"""The texts of a device's requests, and what its cache holds of each.

A job says what it stands on. A transcript keeps the tokens that its cache row really holds, and
reads only what differs: rolling back, catching up after a restart and answering the same job twice
are all that one comparison.

Long prompts are read in pieces (`pearl.decoding.turns`).

May import: decoding, actors.admission, actors.wire, actors.runners.interface.
Must never: compute anything, or know about sockets, Ray or asyncio.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, final

from pearl.actors.admission import Admission
from pearl.actors.runners.interface import Feed, Runner
from pearl.actors.wire import Open
from pearl.decoding.messages import Order, TokenId
from pearl.decoding.turns import SHORT, portions
from pearl.decoding.verification import Verifier, make_verifier

Wanted: TypeAlias = tuple[int, Sequence[TokenId], int]
"""Of a job: the committed tokens it stands on, the pending ones, and how many logits it needs."""


@final
class Transcript:
    """One request on one device: its text so far, and what its cache row holds of it."""

    def __init__(self, opened: Open, row: int) -> None:
        self.row = row
        self.verifier: Verifier = make_verifier(opened.verifier, opened.sampling, opened.seed)
        self._ends = frozenset(opened.eos)
        self._capacity = opened.capacity
        self._prompt = len(opened.prompt)
        self._text = list(opened.prompt)  # prompt and committed tokens
        self._cached: list[TokenId] = []  # position by position, what the row holds
        self._agreed = 0  # below this, cached and text are the same for sure

    def learn(self, start: int, fresh: Sequence[TokenId]) -> None:
        """Committed tokens from position `start` on; learning them twice changes nothing."""
        known = len(self._text) - self._prompt
        self._text.extend(fresh[known - start :] if known >= start else ())

    def may_go_on(self, fresh: Sequence[TokenId], base: int, pending: int) -> bool:
        """Whether the text is not over with these tokens, and has room for one after a job."""
        room = self._capacity - self.end(base) - pending
        return room > 0 and self._ends.isdisjoint(fresh)

    def end(self, base: int) -> int:
        """How long the text is with `base` committed tokens."""
        return self._prompt + base

    def feed(self, base: int, pending: Sequence[TokenId], logits: int) -> Feed:
        """All that is to be read so that the row holds `base` committed tokens and the pending.

        The last positions are read in any case: their logits are wanted.
        """
        start, unread = self._difference(base, pending)
        missing = logits - len(unread)
        if missing > 0:
            start -= missing
            unread = self._cached[start : start + missing] + unread
        return Feed(row=self.row, start=start, tokens=unread, logits=logits)

    def note(self, feed: Feed) -> None:
        """This was read."""
        self._cached[feed.start :] = feed.tokens

    def distrust(self) -> None:
        """A pass over the row has failed: whatever it holds is read again."""
        self._cached.clear()
        self._agreed = 0

    def _difference(self, base: int, pending: Sequence[TokenId]) -> tuple[int, list[TokenId]]:
        """Where cache and job part, and the job's tokens from there on."""
        end = self.end(base)
        agreed = min(self._agreed, end)
        wanted = [*self._text[agreed:end], *pending]
        same = agreed + _common_prefix(self._cached[agreed:], wanted)
        self._agreed = min(same, end)
        return same, wanted[same - agreed :]


def _common_prefix(a: Sequence[TokenId], b: Sequence[TokenId]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))


@final
class Transcripts:
    """The requests that are open on one device.

    Args:
        runner: the model, with a row of its cache for each.
        waits: whether a request may wait here for memory.
    """

    def __init__(self, runner: Runner, *, waits: bool) -> None:
        self._runner = runner
        self._admission = Admission(runner, waits=waits)
        self._open: dict[int, Transcript] = {}
        self.queued = self._admission.waiting
        """Requests that wait for memory."""
        self.apart: set[int] = set()
        """Requests whose pass with others failed, until they are read again."""

    def open(self, packet: Open) -> None:
        """Begin a request, or begin it again.

        Raises:
            PromptError, PlacementError: the model or the device has no room for it.
        """
        self.close(packet.request)
        self._admission.ask(packet.request, packet.capacity)
        row = self._runner.allocate(packet.capacity)
        self._open[packet.request] = Transcript(packet, row)

    def admitted(self, requests: Iterable[int]) -> list[int]:
        """Those that may be worked on; the others wait for memory."""
        queued = self.queued
        return [r for r in requests if r not in queued] if queued else list(requests)

    def close(self, request: int) -> None:
        """Forget a request and free its row."""
        gone = self._open.pop(request, None)
        self.apart.discard(request)
        if gone is not None:
            self._runner.release(gone.row)
        self._admission.leave(request)

    def close_all(self) -> None:
        """Forget every request."""
        for request in list(self._open):
            self.close(request)

    def learn(self, order: Order) -> bool:
        """Note an order's committed tokens; False for a request that is not open here."""
        transcript = self._open.get(order.request)
        if transcript is not None:
            transcript.learn(order.start, order.fresh)
        return transcript is not None

    def feeds(self, jobs: Mapping[int, Wanted]) -> dict[int, Feed]:
        """What to read for each job in this turn.

        Returns: the feeds by request. A job whose turn has not come has none, and one of which only
            a piece is read asks for no logits yet.
        """
        feeds, longest = {}, 0
        for request, wanted in jobs.items():
            feed = feeds[request] = self._open[request].feed(*wanted)
            longest = max(longest, len(feed.tokens))
        if longest > SHORT:
            now = portions({request: len(feed.tokens) for request, feed in feeds.items()})
            return {r: _first(feed, now[r]) for r, feed in feeds.items() if now[r]}
        return feeds

    def note(self, feeds: Mapping[int, Feed]) -> None:
        """These were read."""
        for request, feed in feeds.items():
            self._open[request].note(feed)
            if feed.logits and self.apart:
                self.apart.discard(request)

    def distrust(self, requests: Iterable[int]) -> None:
        """A pass over these has failed."""
        for request in requests:
            if request in self._open:
                self._open[request].distrust()
                self.apart.add(request)

    def __getitem__(self, request: int) -> Transcript:
        return self._open[request]


def _first(feed: Feed, tokens: int) -> Feed:
    """The first tokens of a feed; logits are wanted only of its end."""
    if tokens == len(feed.tokens):
        return feed
    return dataclasses.replace(feed, tokens=feed.tokens[:tokens], logits=0)
